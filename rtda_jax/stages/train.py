"""A train stage: from its configuration to its record."""

import functools
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from rtda_jax.adapt import build, views
from rtda_jax.adapt.adversary import LEVELS
from rtda_jax.adapt.method import Method
from rtda_jax.adapt.state import NetworkSpec, TrainState, check_one_image, output_shapes
from rtda_jax.adapt.terms import TAUGHT, formula
from rtda_jax.data.batches import LABELLED_ROLES, check_frames, introduction
from rtda_jax.data.stream import MoveOptions, check_margins
from rtda_jax.errors import ConfigError, require
from rtda_jax.run import checkpoint, log, parallel
from rtda_jax.run.binding import begun
from rtda_jax.run.options import read
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages.plan import (
    Plan,
    Stage,
    load_network,
    method_of,
    naming,
    network_of,
    parse,
    restore,
    state_shapes,
)
from rtda_jax.tools import cost
from rtda_jax.train import train


def check(plan: Plan, stage: Stage) -> None:
    """Refuses invalid sizes, zooms, moves, margins or teachers, and an `init` that does not fit.

    Raises:
      ConfigError: names the field.
    """
    config, method = stage.config, method_of(stage)
    # Read only for its errors.
    read(MoveOptions, config.augment, "augment")
    require(
        method.teaches or (method.teacher.kind, method.teacher.average) != ("ema", "parameters"),
        "teacher.average='parameters' needs forward passes of the teacher, which give it running "
        f"statistics of its own: give objective.{TAUGHT} a weight",
    )
    begins = config.init or config.taught_by
    whole = config.model.pretrained and config.model.pretrained_part == "all"
    require(
        not method.teaches or method.teacher.kind != "frozen" or begins or whole,
        "teacher.kind='frozen' keeps the network with which the stage begins as the teacher, and "
        "its classifier would be untrained: give init, taught_by, or model.pretrained with "
        "model.pretrained_part='all'",
    )
    check_frames(config, needs_target=method.needs_target)
    margins = tuple(config.target_margins)
    if any(margins):
        require(
            method.teaches,
            f"target_margins get no labels of the teacher: they need {TAUGHT} terms",
        )
        check_margins(margins, size=tuple(config.benchmark.size))
    if config.init:
        _check_init(plan, stage)
    if method.teacher_network is not None and method.teacher.statistics == "batch":
        _check_batch_statistics(method.teacher_network, config)


def reads(stage: Stage) -> tuple[str, ...]:
    """Returns the sets of images that the stage trains on."""
    labelled = LABELLED_ROLES[stage.config.labelled]
    return (labelled, "target") if method_of(stage).needs_target else (labelled,)


def _check_init(plan: Plan, stage: Stage) -> None:
    """Refuses a stage whose networks differ from those of the stage that its `init` names.

    Raises:
      ConfigError: names the normalisation of images, or the first weight of another shape.
    """
    network, normalisation = stage.config.init, stage.config.normalisation
    earlier = network_of(plan, network)
    require(
        earlier.normalisation == normalisation,
        f"init={network!r} is trained with normalisation {earlier.normalisation!r}, "
        f"not {normalisation!r}",
    )
    _same_shapes(method_of(stage).network("student").shapes(), earlier.shapes(), network)
    origin = plan[parse(network)[0]]
    if levels := shared_levels(stage, origin):
        ours, theirs = (state_shapes(each).d_params for each in (stage, origin))
        _same_shapes({k: ours[k] for k in levels}, {k: theirs[k] for k in levels}, network)


def _check_batch_statistics(network: NetworkSpec, config: ConfigDict) -> None:
    """Refuses a teacher of an earlier stage that has no statistics of a batch to normalise by.

    Raises:
      ConfigError: names the fields, or the normalisation.
    """
    require(
        network.module.batch_norm != "frozen",
        f"taught_by={config.taught_by!r} has model.batch_norm='frozen', which normalises by "
        "running statistics: set teacher.statistics to 'running'",
    )
    if config.batch_size <= config.optim.accumulate:
        check_one_image(network.module, size=tuple(config.benchmark.crop))


def _same_shapes(ours: Any, theirs: Any, network: str) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in leaves
        }

    here, there = shapes(ours), shapes(theirs)
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            raise ConfigError(
                f"init={network!r}: {path} is {there.get(path, 'absent')} there, "
                f"{here.get(path, 'absent')} here"
            )


def check_batches(plan: Plan, workdir: pathlib.Path) -> None:
    """Refuses batches that the devices cannot share, of all stages that are not finished.

    This is no part of `check`, because a finished stage may have been trained on other devices.

    Raises:
      ConfigError: names the stage and a number that the size of its batches must be a multiple of.
    """
    for name, stage in plan.items():
        if stage.kind == "train" and not (workdir / name / "done.json").exists():
            size, accumulate = stage.config.batch_size, stage.config.optim.accumulate
            with naming(name):
                parallel.check_batch(size, parallel.mesh().size, accumulate=accumulate)


def check_weights(plan: Plan, workdir: pathlib.Path) -> None:
    """Reads the files of pretrained weights of all stages that have not begun, to refuse them now.

    Raises:
      ConfigError: names the stage, the file, and the weight that does not fit.
    """
    for name, stage in plan.items():
        if stage.kind != "train" or begun(workdir / name):
            continue
        config, method = stage.config, method_of(stage)
        if config.model.pretrained and (method.uses_reference or not config.init):
            begin = functools.partial(build.initial_state, method)
            load = functools.partial(build.pretrained_state, config=config)
            with naming(name):
                jax.eval_shape(lambda begin=begin, load=load: load(begin())[0])


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains the stage to its end, or continues it, and returns its record."""
    stage, folder = plan[name], workdir / name
    config, method = stage.config, method_of(stage)
    done = folder / "done.json"
    if done.exists() and not checkpoint.is_damaged(folder / "checkpoints"):
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    inputs = views.describe(method.preparation)
    teacher = "" if method.teacher.kind == "none" else f", teacher({method.teacher.kind})"
    log.say(f"[{name}] objective = {formula(method.objective)}   inputs {inputs}{teacher}")
    network_sentences = describe(method, config)
    for sentence in network_sentences:
        log.say(f"  {sentence}")
    if 2 * config.optim.warmup_steps > config.steps:
        log.say(
            f"  warning: the learning rate rises for optim.warmup_steps={config.optim.warmup_steps}"
            f" of {config.steps} steps"
        )
    if parallel.is_main() and not begun(folder):  # others need not read the labels as well
        for sentence in introduction(config, needs_target=method.needs_target):
            log.say(f"  {sentence}")
    begin_from = teach = pseudo_folder = None
    if config.init:
        begin_from = functools.partial(start_from, stage=stage, plan=plan, workdir=workdir)
    if config.taught_by:
        teach = functools.partial(taught_by, stage=stage, plan=plan, workdir=workdir)
    if config.pseudo_labels:
        pseudo_folder = workdir / config.pseudo_labels
    start_seconds = time.perf_counter()
    state = train(
        config,
        folder,
        method=method,
        start_from=begin_from,
        taught_by=teach,
        pseudo_folder=pseudo_folder,
    )
    record = {
        "step": int(state.step),
        "seconds": round(time.perf_counter() - start_seconds, 1),
        "objective": formula(method.objective),
        "fda_beta": config.fda_beta,
        "networks": network_sentences,
    }
    write_json(done, record)
    return record


def start_from(
    state: TrainState, *, stage: Stage, plan: Plan, workdir: pathlib.Path
) -> tuple[TrainState, str]:
    """Returns a fresh state with the networks that the stage starts from, and a sentence.

    These are the segmentation network of the stage that `init` names, with its batch statistics,
    and the discriminators of the levels that both stages train. The optimizers start fresh.

    Raises:
      ConfigError: that stage is not finished.
    """
    network = stage.config.init
    model = load_network(plan, network, workdir)
    earlier = plan[parse(network)[0]]
    wanted = {level: state.d_params[level] for level in shared_levels(stage, earlier)}
    restored = {}
    if wanted:
        restored = restore(earlier, workdir / earlier.name, {"d_params": wanted})["d_params"]
    state = state.replace(
        g_params=model.variables["params"],
        g_stats=model.variables["batch_stats"],
        d_params={**state.d_params, **restored},
    )
    taken = ", ".join(["segmentation network", *(f"discriminator of {level}" for level in wanted)])
    return state, f"starts from {network}: {taken}"


def shared_levels(stage: Stage, earlier: Stage) -> list[str]:
    """Returns the levels whose discriminators both stages train."""
    if earlier.changes_network:
        return []
    ours, theirs = (method_of(each).adversary.networks for each in (stage, earlier))
    return sorted(ours.keys() & theirs.keys())


def taught_by(
    state: TrainState, *, stage: Stage, plan: Plan, workdir: pathlib.Path
) -> tuple[TrainState, str]:
    """Returns a state whose teacher is the network that the stage's `taught_by` names.

    Raises:
      ConfigError: that stage is not finished.
    """
    network = stage.config.taught_by
    variables = load_network(plan, network, workdir).variables
    return state.replace(teacher=variables), f"taught by {network}"


def describe(method: Method, config: ConfigDict) -> list[str]:
    """Returns a line for each network: its name, parameters and cost of one training crop."""
    height, width = method.size
    costs = [cost.network_cost(name, **options) for name, options in _networks(method, config)]
    return [
        f"{c.name}: {c.training_parameters:,} parameters, "
        f"{c.macs / 1e9:.2f} G multiply-accumulates at {height}x{width}"
        for c in costs
    ]


def summary(plan: Plan) -> str:
    """Returns a table of every network that is trained, discriminators too, each once."""
    tables = (
        cost.summary(name, **options)
        for stage in plan.values()
        if stage.method is not None
        for name, options in _networks(stage.method, stage.config)
    )
    return "\n".join(dict.fromkeys(tables))


def _networks(method: Method, config: ConfigDict) -> list[tuple[str, dict[str, Any]]]:
    """Returns the name of each network, and the options of `cost.network_cost` for it."""
    classes, size = method.num_classes, method.size
    models = {config.model.name: config.model.options.to_dict()}
    if config.model.large:
        models[config.model.large] = {}
    rows = [(n, {"num_classes": classes, "size": size, **options}) for n, options in models.items()]
    outputs = output_shapes(method.generator, size=size)
    adversary = method.adversary.options
    for level in method.adversary.networks:
        channels = outputs[LEVELS[level].head].shape[-1]
        options = {"in_channels": channels, "size": size, **adversary.options}
        rows.append((adversary.network, options))
    return rows
