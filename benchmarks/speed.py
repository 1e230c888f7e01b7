"""Compares the speed of rtda_jax with PyTorch's: training step and inference of a configuration.

    python main.py benchmark --config fda:folders
    python main.py benchmark --parts=networks  # inference of every network
    python main.py benchmark --config fda --config.speed.rounds=5

Neither data nor TensorFlow is used. The two sides take turns, one process after the other, so that
other work on the machine affects both, and each ratio is that of two consecutive processes. PyTorch
runs once in each of its forms, and then in the fastest.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import networks, report, rounds, training
from benchmarks.recipe import no_inference_twin, no_training_twin, recipe
from rtda_jax.adapt import terms
from rtda_jax.errors import ConfigError
from rtda_jax.run.files import write_bytes
from rtda_jax.run.log import say
from rtda_jax.run.options import read
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.tools import cost, environment
from rtda_jax.tools.cost import SpeedOptions

PARTS = ("train", "infer", "networks")


def run(
    config: ConfigDict, workdir: pathlib.Path, *, parts: Sequence[str] = ("train", "infer")
) -> dict[str, Any]:
    """Times the first train stage of a configuration; writes `speed.json`, `speed.md` and a table.

    Args:
      config: of an experiment, see `configs/base.py`; `config.speed` has the `SpeedOptions`.
      workdir: where the files go.
      parts: of `PARTS`, what to time: the training step, inference, inference of every network.

    Raises:
      ConfigError: an unknown part, or the configuration has no train stage or cannot be built.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ConfigError(f"parts: no part {', '.join(unknown)!r}; {', '.join(PARTS)}")
    # Nothing is computed in this process: a GPU is left to the ones it starts.
    jax.config.update("jax_platforms", "cpu")
    planned = next((s for s in make_plan(config, KINDS).values() if s.method), None)
    if planned is None or planned.method is None:
        raise ConfigError("job benchmark times a train stage, and the configuration has none")
    stage, built = planned.config, planned.method
    settings = dataclasses.asdict(read(SpeedOptions, config.speed, "speed"))
    say(f"{cost.cost_table()}\n")
    record = {
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        "model": stage.model.name,
        "adversary": stage.adversary.network if built.adversary.networks else None,
        "crop": list(stage.benchmark.crop),
        "batch_size": stage.batch_size,
        "domains": len(terms.views(built.objective)),
        "fda_beta": stage.fda_beta,
        "networks_size": "{}x{}".format(*settings["networks_size"]),
        "commit": environment.commit(),
        "cores": environment.cores(),
        "load_before": os.getloadavg(),
        "begun": time.time(),
    }
    record["macs"] = _macs(record, recipe(stage)["num_classes"], tuple(settings["infer_size"]))
    reasons = {"train": no_training_twin, "infer": no_inference_twin}
    with tempfile.TemporaryDirectory(prefix="rtda_jax_speed") as folder:
        for part in parts:
            if part == "networks":
                record[part] = networks.run(stage, settings, pathlib.Path(folder))
                continue
            sizes = {tuple(stage.benchmark.crop), tuple(settings["infer_size"])}
            bench = rounds.Bench(
                stage, settings, pathlib.Path(folder), sizes=sizes, target=built.needs_target
            )
            record[part] = bench.compare(part, reasons[part](stage))
    record["seconds"] = time.time() - record["begun"]
    record["load_after"] = os.getloadavg()
    table = report.markdown(record)
    write_bytes(workdir / "speed.json", (json.dumps(record, indent=1) + "\n").encode())
    write_bytes(workdir / "speed.md", (table + "\n").encode())
    say(f"\n{table}\n\n{workdir / 'speed.json'}, {workdir / 'speed.md'}")
    return record


def _macs(record: dict[str, Any], num_classes: int, infer_size: tuple[int, int]) -> dict[str, int]:
    """Counts the multiply-accumulates of a training step, and of one image by size."""
    crop, name = tuple(record["crop"]), record["model"]
    sizes = {crop, infer_size}
    macs = {s: cost.model_cost(name, num_classes=num_classes, size=s).macs for s in sizes}
    judge = 0
    if record["adversary"]:
        judge = cost.discriminator_cost(
            record["adversary"], in_channels=num_classes, size=crop
        ).macs
    domains, batch_size = record["domains"], record["batch_size"]
    step = training.step_macs(macs[crop], judge, domains=domains, batch_size=batch_size)
    return {"step": step, **{f"{h}x{w}": count for (h, w), count in macs.items()}}
