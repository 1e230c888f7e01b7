"""Measures the cost of copying batches from the host to the device while the step runs."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import training
from benchmarks.gpu import ours
from benchmarks.gpu.plan import Sizes, main_program, sizes_of
from benchmarks.gpu.record import Record
from rtda_jax.run import parallel

AHEAD = 4  # steps that the training loop lets the host run ahead of the device
BATCHES = 4  # different ones, so that no copy can be reused


def _batches(sizes: Sizes) -> list[dict[str, np.ndarray]]:
    config = ours.config_of(main_program(sizes), sizes)
    batch = ours.batch_of(config, needs_target=True)
    return [{k: np.roll(v, i, axis=0).copy() for k, v in batch.items()} for i in range(BATCHES)]


def copies(sizes: Sizes) -> dict[str, Any]:
    """Measures the rate of copies of one batch to the device."""
    batches = _batches(sizes)
    size = sum(array.nbytes for array in batches[0].values())
    turn = itertools.cycle(batches)
    seconds = ours.queued(lambda: jax.device_put(next(turn)), count=2 * BATCHES)
    return {"bytes": size, "copy_seconds": seconds, "bytes_per_second": size / seconds}


def _steps(sizes: Sizes, run: Callable[[Any, Any], Any], batch: Callable[[], Any]) -> float:
    """Measures steps per second when the host is at most `AHEAD` steps before the device."""
    parts = training.training(ours.config_of(main_program(sizes), sizes))
    state = jax.device_put(training.filled(parts.state))
    waiting: list[Any] = []
    for count in range(2 + sizes.steps):
        if count == 2:
            jax.block_until_ready(waiting)
            begin = time.perf_counter()
        state, logs = run(state, batch())
        waiting.append(logs)
        if len(waiting) > AHEAD:
            jax.block_until_ready(waiting[-AHEAD])
    jax.block_until_ready(waiting)
    return sizes.steps / (time.perf_counter() - begin)


def one_program(sizes: Sizes) -> dict[str, Any]:
    """Measures steps per second with the batch on the device, from the host, and put ahead."""
    parts = training.training(ours.config_of(main_program(sizes), sizes))
    batches = _batches(sizes)
    run, _ = ours.compiled(parts, batches[0])
    resident = jax.device_put(batches[0])
    turn = itertools.cycle(batches)
    placed = [jax.device_put(next(turn))]

    def put_ahead() -> Any:
        placed.append(jax.device_put(next(turn)))
        return placed.pop(0)

    return {
        "resident": _steps(sizes, run, lambda: resident),
        "host": _steps(sizes, run, lambda: next(turn)),
        "put_ahead": _steps(sizes, run, put_ahead),
    }


def loop(sizes: Sizes) -> dict[str, Any]:
    """Measures steps per second of the training loop's own program, fed from the host as there."""
    config = ours.config_of(main_program(sizes), sizes)
    parts = training.training(config, axis_name=parallel.AXIS)
    one = parallel.mesh(jax.devices()[:1])
    turn = itertools.cycle(_batches(sizes))
    step = parallel.compile_step(parts.step, one)
    first = [parallel.replicate(training.filled(parts.state), one)]

    def run(state: Any, batch: Any) -> Any:
        return step(first.pop() if first else state, batch)

    return {"loop": _steps(sizes, run, lambda: next(turn))}


def run(spec: dict[str, Any], record: Record) -> None:
    """Times the copies, the step with and without them, and the training loop's own program."""
    sizes = sizes_of(spec)
    record.run("about", ours.about)
    record.run("copies", lambda: copies(sizes))
    record.run("one program", lambda: one_program(sizes))
    record.run("training loop", lambda: loop(sizes))
