"""The networks that a stage of a finished workdir stands for."""

import json
import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from rtda_jax import checkpoint, evaluate, experiment, trained
from rtda_jax.errors import ConfigError
from rtda_jax.plan import LEAVES_A_NETWORK, parse, stages

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


def configuration(workdir: pathlib.Path, *, given: ConfigDict | None = None) -> ConfigDict:
    """The configuration of a workdir: its own record, or the given one if that agrees with it.

    Raises:
      ConfigError: there is no run, or it is of another configuration.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ConfigError(f"{workdir} holds no run; train it first (--job=run), or name --workdir")
    if given is None:
        return ConfigDict(json.loads(path.read_text())).lock()
    checkpoint.claim(workdir, experiment.plain(given), free=FREE)
    return given


def choose(config: ConfigDict, workdir: pathlib.Path, *, stage: str | None = None) -> Networks:
    """The models of a stage that trains, changes or evaluates networks; default the last evaluate.

    Raises:
      ConfigError: no such stage, or one of its models is not trained to its end.
    """
    plan = stages(config)
    usable = {n: s for n, s in plan.items() if s.kind in (*LEAVES_A_NETWORK, "evaluate")}
    if stage is None:
        # Evaluate stages sort behind the others, and later ones behind earlier ones.
        stage = max(usable, key=lambda n: (usable[n].kind == "evaluate", list(usable).index(n)))
    if stage not in usable:
        raise ConfigError(f"{workdir} has no stage {stage!r}; known: {', '.join(usable)}")
    names = tuple(usable[stage].models) if usable[stage].kind == "evaluate" else (stage,)
    for folder in (workdir / parse(name)[0] for name in names):
        if not (folder / "checkpoints").is_dir():
            raise ConfigError(f"{folder} is not trained; run --job=run")
    models = tuple(trained.load(plan, name, workdir) for name in names)
    return Networks(models, names, stage, workdir, usable[stage])
