"""Tests whether a step gives the same bits twice, and times the deterministic flag."""

from typing import Any

import jax
import numpy as np

from benchmarks import measure, training
from benchmarks.gpu import ours
from benchmarks.gpu.plan import Sizes, main_program, sizes_of
from benchmarks.gpu.record import Record
from rtda_jax.run import parallel

STEPS = 3  # steps before the states are compared


def flagged() -> None:
    """Sets the flag as the command line does; before any device is used."""
    parallel.deterministic()


def _build(sizes: Sizes) -> tuple[Any, Any, Any, dict[str, float]]:
    config = ours.config_of(main_program(sizes), sizes)
    parts = training.training(config)
    batch = ours.batch_of(config, needs_target=parts.needs_target)
    run, seconds = ours.compiled(parts, batch)
    return run, parts, batch, seconds


def twice(sizes: Sizes) -> dict[str, Any]:
    """Runs the step a few times from one start, twice, compares all bits and times the step."""
    run, parts, batch, seconds = _build(sizes)
    batch = jax.device_put(batch)
    ends = []
    for _ in range(2):
        state = jax.device_put(training.filled(parts.state))  # the step gives up its buffers
        for _ in range(STEPS):
            state, logs = run(state, batch)
        ends.append(jax.device_get((state.g_params, state.d_params, state.g_stats, logs)))
    leaves = list(zip(*map(jax.tree.leaves, ends), strict=True))
    differ = sum(not np.array_equal(a, b) for a, b in leaves)

    def step() -> None:
        nonlocal state
        state, logs = run(state, batch)
        jax.block_until_ready(logs)

    times = measure.timed(step, steps=sizes.steps)
    return {
        "arrays": len(leaves),
        "arrays_that_differ": differ,
        "same_bits": differ == 0,
        "seconds": times["seconds"],
        **seconds,
    }


def run(spec: dict[str, Any], record: Record) -> None:
    """Runs the step twice under the flag."""
    flagged()
    record.run("about", ours.about)
    record.run("with the flag", lambda: twice(sizes_of(spec)))


def compile_all(spec: dict[str, Any], record: Record) -> None:
    """Compiles the step under the flag, which fills the compilation cache."""
    flagged()
    record.run("about", ours.about)
    record.run("compile", lambda: _build(sizes_of(spec))[3])
