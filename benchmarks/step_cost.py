"""Measures time and memory of the training steps of several methods in one process.

    python benchmarks/step_cost.py                        # adversarial against TUFL's stages
    python benchmarks/step_cost.py adversarial/train fda/train dacs/train
    python benchmarks/step_cost.py adversarial:level=multi/train minent/train --model bisenet_tufl

A step is CONFIG[:ARGUMENT]/STAGE of `configs/`, on its benchmark's own first batches. Steps take
turns, so that whatever else the machine does reaches all of them alike. Memory is what the
compiled step needs beside its arguments, and its arguments: state and batch. A stage that reads
pseudo-labels has none here and is refused.
"""

import argparse
import importlib
import itertools
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rtda_jax.data.batches import paired_batches
from rtda_jax.errors import ConfigError
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.tools import environment

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # of `configs`, `benchmarks`

DEFAULT = ("adversarial/train", "tufl/source", "tufl/one", "tufl/two")


class Step(NamedTuple):
    """A compiled step, its arguments, and the seconds of its compilation."""

    run: jax.stages.Compiled
    state: Any
    batches: Sequence[Mapping[str, Any]]
    seconds: float


def compiled(name: str, *, model: str | None, count: int, folder: pathlib.Path) -> Step:
    """Returns the step of CONFIG[:ARGUMENT]/STAGE and its first batches."""
    from benchmarks.training import training

    path, _, chosen = name.rpartition("/")
    file, _, argument = path.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(argument)
    if model:
        config.model.name = model
    plan = make_plan(config.lock(), KINDS)
    if chosen not in plan or plan[chosen].kind != "train":
        trained = ", ".join(key for key, stage in plan.items() if stage.kind == "train")
        raise ConfigError(f"{name}: no train stage {chosen!r}; there are: {trained}")
    stage = plan[chosen].config
    if stage.pseudo_labels:
        raise ConfigError(f"{name}: reads the labels of stage {stage.pseudo_labels!r}, none here")
    method = plan[chosen].method
    assert method is not None  # every train stage has one
    parts = training(stage, teacher=method.teacher_network)
    stream = paired_batches(stage, needs_target=parts.needs_target, folder=folder)(0)
    batches = list(itertools.islice(stream, count))
    state = parts.start()
    begin = time.perf_counter()
    step = jax.jit(parts.step, donate_argnums=0)
    run = step.lower(state, batches[0]).compile()
    return Step(run, state, batches, time.perf_counter() - begin)


def measure(steps: dict[str, Step]) -> dict[str, list[float]]:
    """Measures the seconds of every turn, by name; the first turn of each is not among them."""
    states = {name: step.state for name, step in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(len(next(iter(steps.values())).batches)):
        for name, step in steps.items():
            begin = time.perf_counter()
            states[name], logs = step.run(states[name], step.batches[turn])
            jax.block_until_ready(logs)
            if turn:
                taken[name].append(time.perf_counter() - begin)
    return taken


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", default=DEFAULT, help="CONFIG[:ARGUMENT]/STAGE")
    parser.add_argument("--model", help="this network for all of them")
    parser.add_argument("--turns", type=int, default=10)
    flags = parser.parse_args()
    environment.keep_freed_memory()
    environment.retire_holes_after_compilations()
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            name: compiled(
                name, model=flags.model, count=flags.turns + 1, folder=pathlib.Path(folder)
            )
            for name in flags.steps
        }
    taken = measure(steps)
    first = np.median(next(iter(taken.values())))
    print(
        "| step | ms, median (quartiles) | of the first | temporary, arguments, MiB | compiled, s |"
    )
    print("| --- | --: | --: | --: | --: |")
    for name, step in steps.items():
        low, middle, high = (1e3 * q for q in np.quantile(taken[name], (0.25, 0.5, 0.75)))
        memory = step.run.memory_analysis()
        assert memory is not None  # CPU and GPU have it
        sizes = (memory.temp_size_in_bytes, memory.argument_size_in_bytes)
        temporary, arguments = (f"{size / 2**20:.0f}" for size in sizes)
        print(
            f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {middle / 1e3 / first:.2f} "
            f"| {temporary}, {arguments} | {step.seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
