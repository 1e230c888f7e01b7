"""Finds the trained networks of a workdir, by the workdir's own record."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from rtda_jax.adapt.terms import TERMS
from rtda_jax.data.labels import with_definitions
from rtda_jax.deploy import Networks, publish
from rtda_jax.errors import ConfigError, printable, require
from rtda_jax.models import MODELS
from rtda_jax.run import log
from rtda_jax.run.binding import CODE, bound_fields, check_bound, without_later
from rtda_jax.run.binding import FREE as RUN_FREE
from rtda_jax.run.options import among, flat, own_file, plain
from rtda_jax.run.workdir import read_json
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import architecture, load_network, make_plan, parse, seals

PREDICTION = ("eval", "benchmark.eval_size")  # fields that decide how predictions are made

# Fields that may differ from the run's.
FREE = (*RUN_FREE, *PREDICTION)


def recorded(
    workdir: pathlib.Path,
    *,
    defaults: Callable[[str], ConfigDict],
    overrides: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Returns the configuration that a workdir records, with some fields overridden.

    Args:
      workdir: the folder of a run.
      defaults: maps the name of any benchmark to a configuration with values for fields that a run
        of an older release did not record.
      overrides: dotted field -> value; only fields in FREE.

    Raises:
      ConfigError: the folder holds no run, its record is damaged, or an override would change
        what was trained.
    """
    record = read_json(_record(workdir))
    try:
        _check_stages(record)
        config = defaults(record["benchmark"]["name"])
        with config.unlocked():
            config.stage = ConfigDict(record["stage"])
            _adopt(config.benchmark, record["benchmark"])
            config.update(record)
        config.lock().update_from_flattened_dict(dict(overrides or {}))
    # A foreign record can hold anything, and ConfigDict may raise any of these.
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ConfigError(f"{workdir / 'config.json'}: {error}") from None
    for field in overrides or {}:
        if not among(field, FREE):
            raise ConfigError(
                f"--config.{field} would change what {workdir} was trained for; free are: "
                + ", ".join(FREE)
            )
    for field, name in flat(plain(config)).items():
        require(
            not field.endswith("model.name") or str(name) in MODELS,
            f"{workdir / 'config.json'}: unknown {field} {name!r}{own_file(record)}",
        )
    return config


def _adopt(benchmark: ConfigDict, record: dict[str, Any]) -> None:
    """Replaces the data sets of a benchmark for which a record has none, or one of another name.

    A user's own configuration may pair any data sets, and leave out some of their roles.
    """
    for role, spec in record.items():
        ours = benchmark.get(role)
        if spec is None and isinstance(ours, ConfigDict):
            del benchmark[role]
        elif isinstance(spec, dict) and (ours is None or ours.get("name") != spec.get("name")):
            with benchmark.ignore_type():
                benchmark[role] = ConfigDict(spec)


def _check_stages(record: dict[str, Any]) -> None:
    """Checks the types of the stages, the one part of a configuration that has no defaults."""
    names, fields = record["stages"], record["stage"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("stages must be a list of names")
    for name in names:
        if name != pathlib.PurePath(name).name:
            raise ValueError(f"{name!r} cannot be the name of a stage")
        models = fields[name].get("models", [])
        if not isinstance(fields[name]["kind"], str):
            raise ValueError(f"stage.{name}.kind must be a name")
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise ValueError(f"stage.{name}.models must be a list of names")


def check(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises ConfigError, naming the fields, unless a workdir's run has this configuration."""
    _record(workdir)
    if publish.is_published(workdir):
        _check_published(config, workdir)
    else:
        for note in check_bound(workdir, with_definitions(plain(config)), KINDS):
            log.say(note)


def _check_published(config: ConfigDict, folder: pathlib.Path) -> None:
    """Checks that a configuration is the one that the networks of a published folder had.

    Raises:
      ConfigError: names the first field that differs, or the record is damaged.
    """
    given, theirs = with_definitions(plain(config)), read_json(folder / "config.json")
    for stage in dict.fromkeys(parse(name)[0] for name in publish.read(folder).networks):
        there = bound_fields(theirs, stage, KINDS)
        here = without_later(bound_fields(given, stage, KINDS), there, given)
        here = publish.without_paths(here)
        if CODE in there and here.get(CODE) != there[CODE]:
            log.say(
                f"[{stage}] was published with other code or arguments of a configuration of one's "
                f"own: {printable(there[CODE] or 'none')} there, {here.get(CODE) or 'none'} now; "
                "what it computes may differ"
            )
        for field in sorted(here.keys() | there.keys()):
            require(
                field == CODE or here.get(field) == there.get(field),
                f"{folder} was published with {field}={there.get(field)!r} of stage {stage}, and "
                f"--config has {here.get(field)!r}; without --config its own record is used",
            )


def check_publishable(overrides: Iterable[str], workdir: pathlib.Path) -> None:
    """Raises ConfigError for fields that would change predictions: publishing keeps the record."""
    for field in overrides:
        require(
            not among(field, PREDICTION),
            f"--config.{field}: publish writes the record of {workdir} as it is; leave this out, "
            "and give it to the job that predicts",
        )


def _record(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the path of a workdir's configuration; a ConfigError says what to do without one."""
    path = workdir / "config.json"
    if path.exists():
        return path
    seeds = sorted(p.parent for p in workdir.glob("seed*/config.json"))
    if seeds:
        raise ConfigError(
            f"{workdir} holds the runs of {len(seeds)} seeds; name one of them: "
            + " or ".join(f"--weights={seed}" for seed in seeds)
        )
    raise ConfigError(
        f"{workdir} holds no run; train it first with the job run, or name another with --weights"
    )


def _with_known_terms(config: ConfigDict) -> ConfigDict:
    """Returns a configuration whose objectives have no terms that the package does not know."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        for section in (changed, *changed.stage.values()):
            objective = section.get("objective", {})
            for name in objective.keys() - TERMS.keys():
                del objective[name]
    return changed.lock()


def choose(config: ConfigDict, workdir: pathlib.Path, *, stage: str | None = None) -> Networks:
    """Loads the networks of a stage.

    For an evaluate stage, these are the networks that it names, which predict together. For another
    stage, it is the single network that it trained. By default the stage is the last evaluate
    stage. A published folder holds the networks of one stage.

    Raises:
      ConfigError: the stage does not exist, or one of its networks is not trained to its end.
    """
    try:  # predictions do not need the terms of a configuration of the user's own
        plan = make_plan(_with_known_terms(config), KINDS)
    except ConfigError:
        plan = make_plan(config, KINDS)
    if publish.is_published(workdir):
        published = publish.load(workdir, plan)
        require(
            stage in (None, published.stage),
            f"{workdir} holds the networks of stage {published.stage!r} alone, not of {stage!r}",
        )
        return published
    evaluated = [name for name, s in plan.items() if s.kind == "evaluate"]
    left = [name for name, s in plan.items() if KINDS[s.kind].leaves_network]
    if stage is None:
        stage = (left + evaluated)[-1]
    if stage not in left + evaluated:
        raise ConfigError(f"{workdir} has no stage {stage!r}; known: {', '.join(left + evaluated)}")
    names = tuple(plan[stage].models) if stage in evaluated else (stage,)
    for name in names:
        if not (workdir / parse(name)[0] / "checkpoints").is_dir():
            raise ConfigError(f"{workdir / parse(name)[0]} is not trained; the job run trains it")
    models = tuple(load_network(plan, name, workdir) for name in names)
    networks = tuple(architecture(plan, name) for name in names)
    return Networks(
        models,
        names,
        stage,
        workdir,
        plan[stage].config,
        networks,
        step=plan[parse(names[0])[0]].config.steps,
        seals=seals(plan, names, workdir),
    )
