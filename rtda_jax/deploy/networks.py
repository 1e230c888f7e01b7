"""The networks that a stage of a finished workdir stands for."""

import json
import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from rtda_jax import checkpoint, evaluate, experiment
from rtda_jax.errors import ConfigError

# Fields that may differ from the run's: those of watching it, and how predictions are made.
FREE = (*experiment.FREE, "eval")


class Networks(NamedTuple):
    """Networks that predict together, and where they come from.

    config is the stage's, names are the train stages that made the models.
    """

    models: tuple[evaluate.Model, ...]
    names: tuple[str, ...]
    stage: str
    workdir: pathlib.Path
    config: ConfigDict


def configuration(workdir: pathlib.Path) -> ConfigDict:
    """The configuration that a workdir records; ConfigError if it holds no run."""
    path = workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run), or name --workdir")
    return ConfigDict(json.loads(path.read_text())).lock()


def check(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raise ConfigError, naming the fields, unless a workdir's run has this configuration."""
    configuration(workdir)
    checkpoint.claim(workdir, experiment.plain(config), free=FREE)


def choose(config: ConfigDict, workdir: pathlib.Path, *, stage: str | None = None) -> Networks:
    """The models of a train or evaluate stage, default the last evaluate stage.

    Raises:
      ConfigError: no such stage, or one of its models is not trained to its end.
    """
    plan = experiment.stages(config)
    usable = {name: s for name, s in plan.items() if s.kind in ("train", "evaluate")}
    if stage is None:
        # Evaluate stages sort behind train stages, and later ones behind earlier ones.
        stage = max(usable, key=lambda n: (usable[n].kind == "evaluate", list(usable).index(n)))
    if stage not in usable:
        raise ConfigError(f"{workdir} has no stage {stage!r}; known: {', '.join(usable)}")
    names = tuple(usable[stage].models) if usable[stage].kind == "evaluate" else (stage,)
    for name in names:
        if not (workdir / name / "checkpoints").is_dir():
            raise ConfigError(f"{workdir / name} is not trained; run --job=run")
    models = tuple(experiment.trained(plan[name], workdir / name) for name in names)
    return Networks(models, names, stage, workdir, usable[stage])
