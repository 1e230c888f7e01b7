"""The plan of an experiment: every stage with its own configuration, built and checked.

A stage names the networks of earlier stages as "STAGE", "STAGE:teacher" or "STAGE:large". This
module checks the names, and reads the networks once those stages are finished.
"""

import contextlib
import copy
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.adapt import build, terms
from rtda_jax.adapt.build import StageOptions
from rtda_jax.adapt.method import Method
from rtda_jax.adapt.state import NetworkSpec, TrainState
from rtda_jax.data.batches import BenchmarkOptions
from rtda_jax.data.labels import class_set
from rtda_jax.data.stream import StreamOptions
from rtda_jax.errors import CheckpointError, ConfigError, DataError, lookup, named, require
from rtda_jax.run import checkpoint, parallel
from rtda_jax.run.binding import FREE, Traits
from rtda_jax.run.files import sha256
from rtda_jax.run.options import among, check_known, flat, read


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of an experiment.

    Attributes:
      name: the name of the stage and of its folder.
      kind: the kind of the stage, a key of `rtda_jax.stages.KINDS`.
      models: the networks that it reads, "STAGE", "STAGE:teacher" or "STAGE:large" each.
      config: the experiment's fields with the stage's overrides.
      method: the method that it trains, or that of the network which it changes; None for other
        kinds.
    """

    name: str
    kind: str
    models: tuple[str, ...]
    config: ConfigDict
    method: Method | None = None

    @property
    def changes_network(self) -> bool:
        """Whether the stage changes the network of an earlier one instead of training its own."""
        return self.method is not None and bool(self.models)


Plan = dict[str, Stage]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(Traits):
    """One kind of stage.

    Attributes:
      run: runs the stage of a plan in a workdir, or prints that it is finished; returns its entry
        of results.json.
      check: raises a ConfigError if a stage cannot be run after those of the plan.
      reads: returns the fields of `benchmark` whose images a stage cannot do without.
    """

    run: Callable[[Plan, str, pathlib.Path], dict[str, Any]]
    check: Callable[[Plan, Stage], None]
    reads: Callable[[Stage], tuple[str, ...]] = lambda _: ()


def make_plan(config: ConfigDict, kinds: Mapping[str, Kind]) -> Plan:
    """Returns the stages of an experiment in their order.

    The method of every train stage is built here, once. A statistics stage has the configuration
    and the method of the stage whose network it changes.

    Args:
      config: the experiment's configuration.
      kinds: the table of all kinds.

    Raises:
      ConfigError: names the stage and what is wrong with it.
    """
    plan: Plan = {}
    require(config.stages, "stages names no stage")
    for name in config.stages:
        require(name not in plan, f"stages names {name!r} twice")
        overrides = lookup(config.stage.to_dict(), name, "name in stages")
        with naming(name):
            stage = _stage(plan, config, kinds, name, dict(overrides))
            kinds[stage.kind].check(plan, stage)
        plan[name] = stage
    return plan


@contextlib.contextmanager
def naming(stage: str) -> Iterator[None]:
    """Adds the name of a stage to a ConfigError or DataError."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"stage {stage}: {error}") from error.__cause__


def _stage(
    plan: Plan,
    config: ConfigDict,
    kinds: Mapping[str, Kind],
    name: str,
    overrides: dict[str, Any],
) -> Stage:
    kind_name = overrides.pop("kind", "")
    kind = lookup(kinds, kind_name, "kind")
    models = tuple(overrides.pop("models", ())) if kind.reads_networks else ()
    require(
        models or not kind.reads_networks,
        f"kind {kind_name!r} needs models, the stages whose networks it reads",
    )
    for model in models:
        check_network(plan, model, kinds)
    method = None
    if kind.leaves_network and models:
        _check_read(kind, overrides)
        stage_config, method = _of_changed_network(plan, models[0])
    else:
        stage_config = config.copy_and_resolve_references()
        with stage_config.unlocked():
            del stage_config["stages"], stage_config["stage"]
        _check_followers(kind, config, overrides)
    _override(stage_config.lock(), overrides)
    # These are read only for their errors, so that an invalid field is refused before any stage
    # runs.
    read(StageOptions, stage_config, "")
    read(StreamOptions, stage_config, "")
    read(BenchmarkOptions, stage_config.benchmark, "benchmark")
    stage_config.normalisation = build.normalisation_of(stage_config)
    for model in models:
        check_classes(plan, model, stage_config, field="models")
    if kind.leaves_network and method is None:
        check_beginning(plan, stage_config, kinds)
        method = _method(plan, stage_config)
    return Stage(name, kind_name, models, stage_config, method)


def _of_changed_network(plan: Plan, network: str) -> tuple[ConfigDict, Method]:
    """Returns the configuration and method of the stage whose network a later one changes."""
    name, weights = parse(network)
    config, method = plan[name].config.copy_and_resolve_references(), method_of(plan[name])
    if weights != "student" and method.large is not None:
        return build.large_config(config), method.large
    return config, method


def _method(plan: Plan, config: ConfigDict) -> Method:
    """Returns the method of a train stage, and with it the teacher that an earlier one trained."""
    method = build.build(config, axis_name=parallel.AXIS)
    if not config.taught_by:
        return method
    require(
        method.teaches,
        f"taught_by={config.taught_by!r} is read by no term: give objective.{terms.TAUGHT} a "
        "weight",
    )
    return dataclasses.replace(method, teacher_network=network_of(plan, config.taught_by))


def _override(config: ConfigDict, overrides: dict[str, Any]) -> None:
    """Changes fields of a stage's configuration; errors of the configuration library name them."""
    try:
        config.update(overrides)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        check_known(config, flat(overrides))
        raise ConfigError(str(error)) from error


def _check_read(kind: Kind, overrides: Mapping[str, Any]) -> None:
    """Refuses fields that a stage does not read because it has the network of an earlier one."""
    fields = flat(dict(overrides))
    others = fields.keys() - kind.bound(fields).keys()
    unread = sorted(field for field in others if not among(field, FREE))
    require(not unread, f"{', '.join(unread)}: the network of `models` decides that")


def _check_followers(kind: Kind, config: ConfigDict, overrides: dict[str, Any]) -> None:
    """Refuses a size or class set without the fields that would follow it.

    In the record of a run every field has its own value, so that nothing follows there.
    """
    changed = copy.deepcopy(config)
    _override(changed.lock(), overrides)
    given = {f"benchmark.{field}" for field in flat(dict(overrides.get("benchmark", {})))}
    before, after = (flat(c.benchmark.to_dict()) for c in (config, changed))
    moved = {f"benchmark.{field}" for field in after if after[field] != before[field]}
    stores = {k: v.get("store") for k, v in config.benchmark.items() if isinstance(v, ConfigDict)}
    unread = [f"benchmark.{role}" for role, store in stores.items() if store != "shards"]
    missing = {field: None for field in sorted(moved - given) if not among(field, unread)}
    if kind.record != "scores":  # an evaluation binds nothing, but reads its size and classes
        missing = kind.bound(missing)
    require(
        not missing,
        f"{', '.join(missing)} would follow {', '.join(sorted(given & moved))}: give the stage a "
        "value for each of them too",
    )


def check_classes(plan: Plan, network: str, config: ConfigDict, *, field: str) -> None:
    """Refuses a network whose classes are not those of a stage's configuration.

    Raises:
      ConfigError: names the field, the network and its classes.
    """
    theirs = plan[parse(network)[0]].config
    _same_classes(theirs, config, f"{field}: {network!r} knows")


def _same_classes(theirs: ConfigDict, ours: ConfigDict, who: str) -> None:
    known, wanted = (class_set(config.benchmark.classes).names for config in (theirs, ours))
    strange = sorted(set(known) ^ set(wanted)) or ["their order"]
    differ = f"they differ in {named(strange)}"
    require(known == wanted, f"{who} other classes than benchmark.classes; {differ}")


def parse(network: str) -> tuple[str, str]:
    """Returns stage and weights of "STAGE" ("student"), "STAGE:teacher" or "STAGE:large"."""
    stage, colon, weights = network.partition(":")
    if colon and weights not in ("teacher", "large"):
        raise ConfigError(f"{network!r}: after the colon only 'teacher' and 'large' are known")
    return stage, weights or "student"


def architecture(plan: Plan, network: str) -> str:
    """Returns the key of `rtda_jax.models.MODELS` of the network that "STAGE..." names."""
    stage, weights = parse(network)
    model = plan[stage].config.model
    return model.name if weights == "student" else model.large or model.name


def check_network(plan: Plan, network: str, kinds: Mapping[str, Kind]) -> None:
    """Refuses the name of a network that no earlier stage of the plan produces.

    Raises:
      ConfigError: names the network.
    """
    name, weights = parse(network)
    leaving = [kind for kind, row in kinds.items() if row.leaves_network]
    check_earlier(plan, network, tuple(leaving))
    stage = plan[name]
    method = method_of(stage)
    trained = {"teacher": method.teacher.kind != "none", "large": method.large is not None}
    require(
        weights == "student" or (trained[weights] and not stage.changes_network),
        f"{network!r}: that stage trains no {weights} network",
    )
    require(
        weights != "teacher" or method.teacher_network is None,
        f"{network!r}: the teacher of that stage is {stage.config.taught_by!r}; name that",
    )


def check_earlier(plan: Plan, network: str, kinds: tuple[str, ...]) -> None:
    """Refuses the name of anything but an earlier stage of one of the kinds.

    Raises:
      ConfigError: names what it was given.
    """
    name, _ = parse(network)
    require(
        name in plan and plan[name].kind in kinds,
        f"{network!r} is no earlier {' or '.join(kinds)} stage",
    )


def check_beginning(plan: Plan, config: ConfigDict, kinds: Mapping[str, Kind]) -> None:
    """Refuses a train stage whose networks or labels no earlier stage produces.

    Raises:
      ConfigError: names the field.
    """
    if config.model.batch_norm == "frozen" and not (config.init or config.model.pretrained):
        raise ConfigError(
            "model.batch_norm='frozen' normalises by running statistics, which a fresh network "
            "does not have: give `init` or model.pretrained"
        )
    if config.init:
        check_network(plan, config.init, kinds)
        check_classes(plan, config.init, config, field="init")
    if config.pseudo_labels:
        check_earlier(plan, config.pseudo_labels, ("pseudo_label",))
        _check_labels(plan[config.pseudo_labels].config, config)
    if config.taught_by:
        check_network(plan, config.taught_by, kinds)
        require(
            config.teacher.kind == "frozen",
            f"taught_by={config.taught_by!r} is a teacher that stays as it is: it needs "
            f"teacher.kind='frozen', not {config.teacher.kind!r}",
        )
        check_classes(plan, config.taught_by, config, field="taught_by")


def _check_labels(labelling: ConfigDict, config: ConfigDict) -> None:
    """Refuses the labels of a pseudo_label stage for other images or classes than a stage's."""
    split = labelling.pseudo.split
    theirs, ours = labelling.benchmark[split], config.benchmark.target
    for field in ("name", "split", "images", "list", "quarantine"):
        require(
            theirs.get(field, "") == ours.get(field, ""),
            f"pseudo_labels={config.pseudo_labels!r} labels benchmark.{split} with {field} "
            f"{theirs.get(field, '')!r}, but benchmark.target has {ours.get(field, '')!r}",
        )
    _same_classes(labelling, config, f"pseudo_labels={config.pseudo_labels!r} has")


def load_network(plan: Plan, network: str, workdir: pathlib.Path) -> evaluate.Model:
    """Returns the network that "STAGE", "STAGE:teacher" or "STAGE:large" names, on one device.

    Raises:
      ConfigError: the stage is not finished.
    """
    name, weights = parse(network)
    stage = plan[name]
    fresh, folder = state_shapes(stage), workdir / name
    if weights == "large":
        wanted = {"large": {"network": fresh.large.network}}
        variables = restore(stage, folder, {"memory": wanted})["memory"]["large"]["network"]
    elif weights == "teacher":
        variables = restore(stage, folder, {"teacher": fresh.teacher})["teacher"]
    else:
        wanted = {"g_params": fresh.g_params, "g_stats": fresh.g_stats}
        student = restore(stage, folder, wanted)
        variables = {"params": student["g_params"], "batch_stats": student["g_stats"]}
    module, normalisation, _ = method_of(stage).network(weights)
    return evaluate.Model(module, variables, normalisation)


def seals(plan: Plan, networks: Iterable[str], workdir: pathlib.Path) -> dict[str, str]:
    """Returns a hash of the sealed checkpoint of each stage that trained one of the networks.

    Checkpoints that are not there, or come from a release before seals, are left out.
    """
    stages = [plan[parse(network)[0]] for network in networks]
    folders = {s.name: workdir / s.name / "checkpoints" / str(s.config.steps) for s in stages}
    return {
        name: sha256(folder / checkpoint.MANIFEST)[:16]
        for name, folder in folders.items()
        if checkpoint.is_sealed(folder)
    }


def method_of(stage: Stage) -> Method:
    """Returns the method of a stage that produces a network."""
    assert stage.method is not None
    return stage.method


def network_of(plan: Plan, network: str) -> NetworkSpec:
    """Returns the network that "STAGE", "STAGE:teacher" or "STAGE:large" names, untrained."""
    name, weights = parse(network)
    return method_of(plan[name]).network(weights)


def state_shapes(stage: Stage) -> TrainState:
    """Returns the shapes of the stage's state."""
    return jax.eval_shape(lambda: build.initial_state(method_of(stage)))


def restore(stage: Stage, folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns the wanted parts of a finished stage's state, on one device.

    Args:
      stage: the stage.
      folder: its folder.
      wanted: the shapes of the parts, as fields of its state.

    Raises:
      ConfigError: the stage is not finished.
      CheckpointError: its last checkpoint is damaged.
    """
    steps = stage.config.steps
    step = checkpoint.newest_healthy(folder / "checkpoints")
    if step != steps:
        raise ConfigError(f"{folder} is at step {step} of {steps}: train it first")
    whole = parallel.replicated(parallel.local_mesh())
    abstract = checkpoint.abstract(wanted, whole)
    with checkpoint.reader(folder / "checkpoints") as reader:
        try:
            return checkpoint.restore_only(reader, abstract, step=steps)
        except CheckpointError as error:
            if checkpoint.is_sealed(folder / "checkpoints" / str(step)):
                raise
            raise CheckpointError(
                f"{error}\nIt has no seal ({checkpoint.MANIFEST}), so the damage was not noticed "
                f"earlier. Remove {folder / 'done.json'}; the job run then continues from "
                "the previous checkpoint"
            ) from error
