"""Clocks, memory and synthetic batches for both sides; it imports neither JAX nor PyTorch."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def images(count: int, size: tuple[int, int], *, seed: int) -> np.ndarray:
    """Draws random uint8 images [count,H,W,3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def batch(
    count: int, size: tuple[int, int], *, num_classes: int, target: bool
) -> dict[str, np.ndarray]:
    """Makes a batch as the input pipeline gives it: blocks of classes, a tenth of them ignored."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, num_classes, (count, -(-size[0] // 8), -(-size[1] // 8)), np.uint8)
    blocks[rng.random(blocks.shape) < 0.1] = 255
    labels = np.ascontiguousarray(blocks.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]])
    numbers = np.arange(count, dtype=np.int32)
    entries = {"source_image": images(count, size, seed=1), "source_label": labels}
    entries["source_index"] = numbers
    return entries | (
        {"target_image": images(count, size, seed=2), "target_index": numbers} if target else {}
    )


def timed(function: Callable[[], Any], *, steps: int) -> dict[str, Any]:
    """Times the first call with its compilation, then `steps` calls after one that is not counted.

    Returns seconds of the wall clock and of the processor, all threads together.
    """
    begin = time.perf_counter()
    function()
    first, reached = time.perf_counter() - begin, time.time()
    function()
    seconds, cpu = [], []
    for _ in range(steps):
        begin, used = time.perf_counter(), time.process_time()
        function()
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    return {"first": first, "reached": reached, "seconds": seconds, "cpu": cpu}


def best(function: Callable[[], Any], *, repeats: int = 4) -> float:
    """Returns the seconds of the fastest of several calls, after one that is not counted."""
    return min(timed(function, steps=repeats)["seconds"])


def peak_rss() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def quartiles(values: Any) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), (25, 50, 75))
    return float(low), float(middle), float(high)
