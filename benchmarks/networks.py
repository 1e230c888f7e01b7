"""Times inference of every segmentation network and of its PyTorch twin, uint8 to uint8."""

import pathlib
from typing import Any

from benchmarks.rounds import Bench
from rtda_jax.models import MODELS
from rtda_jax.run.log import say


def run(stage: Any, settings: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Runs rounds of each network of the class set and the precision of a stage, by name."""
    times = {}
    for name in MODELS:
        say(f"\n{name}")
        bench = Bench(of(stage, name), settings, folder, sizes=[tuple(settings["networks_size"])])
        times[name] = bench.compare("infer", "", detail=0)
    return times


def of(stage: Any, name: str) -> Any:
    """Returns the stage with another network, and with the one term that every network has."""
    other = stage.copy_and_resolve_references()
    with other.unlocked():
        other.model.name, other.model.options = name, {}
        other.objective = {"seg": 1.0}
    return other
