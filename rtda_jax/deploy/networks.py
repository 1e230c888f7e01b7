"""The networks that a stage of a finished workdir stands for."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.errors import ConfigError
from rtda_jax.run.workdir import FREE as RUN_FREE
from rtda_jax.run.workdir import claim, plain, read_json
from rtda_jax.stages import trained
from rtda_jax.stages.plan import LEAVES_A_NETWORK, parse, stages

# Fields that may differ from the run's: those of watching it, and how predictions are made.
FREE = (*RUN_FREE, "eval")


class Networks(NamedTuple):
    """Networks that predict together, and where they come from.

    config is the stage's, names are the stages that left the models ("train", "train:teacher").
    """

    models: tuple[evaluate.Model, ...]
    names: tuple[str, ...]
    stage: str
    workdir: pathlib.Path
    config: ConfigDict


def recorded(
    workdir: pathlib.Path,
    *,
    defaults: Callable[[str], ConfigDict],
    overrides: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """The configuration that a workdir records, with some fields overridden.

    Args:
      workdir: of a run.
      defaults: from a benchmark's name to the values of fields that an older run did not have.
      overrides: dotted field -> value; only fields of FREE.

    Raises:
      ConfigError: there is no run, or an override that would change what was trained.
    """
    record = read_json(_record(workdir))
    try:
        _check_stages(record)
        config = defaults(record["benchmark"]["name"])
        with config.unlocked():
            config.stage = ConfigDict(record["stage"])
            config.update(record)
        config.lock().update_from_flattened_dict(dict(overrides or {}))
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
        if not any(field == free or field.startswith(f"{free}.") for free in FREE):
            raise ConfigError(
                f"--config.{field} would change what {workdir} was trained for; free are: "
                + ", ".join(FREE)
            )
    return config


def _check_stages(record: dict[str, Any]) -> None:
    """The part of a configuration that has no defaults which say its types."""
    planned, fields = record["stages"], record["stage"]
    if not isinstance(planned, list) or not all(isinstance(name, str) for name in planned):
        raise ValueError("stages must be a list of names")
    for name in planned:
        if name != pathlib.PurePath(name).name:
            raise ValueError(f"{name!r} can not be the name of a stage")
        models = fields[name].get("models", [])
        if not isinstance(fields[name]["kind"], str):
            raise ValueError(f"stage.{name}.kind must be a name")
        if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
            raise ValueError(f"stage.{name}.models must be a list of names")


def check(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raise ConfigError, naming the fields, unless a workdir's run has this configuration."""
    _record(workdir)
    claim(workdir, plain(config), free=FREE)


def _record(workdir: pathlib.Path) -> pathlib.Path:
    path = workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run), or name --workdir")
    return path


def choose(config: ConfigDict, workdir: pathlib.Path, *, stage: str | None = None) -> Networks:
    """The models of a stage: those an evaluate stage names, or the one that another stage left.

    The default is the last evaluate stage.

    Raises:
      ConfigError: no such stage, or one of its models is not trained to its end.
    """
    plan = stages(config)
    evaluated = [name for name, s in plan.items() if s.kind == "evaluate"]
    left = [name for name, s in plan.items() if s.kind in LEAVES_A_NETWORK]
    if stage is None:
        stage = (left + evaluated)[-1]
    if stage not in left + evaluated:
        raise ConfigError(f"{workdir} has no stage {stage!r}; known: {', '.join(left + evaluated)}")
    names = tuple(plan[stage].models) if stage in evaluated else (stage,)
    for name in names:
        if not (workdir / parse(name)[0] / "checkpoints").is_dir():
            raise ConfigError(f"{workdir / parse(name)[0]} is not trained; run --job=run")
    models = tuple(trained.load(plan, name, workdir) for name in names)
    return Networks(models, names, stage, workdir, plan[stage])
