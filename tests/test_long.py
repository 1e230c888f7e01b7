"""Thousands of steps in flat memory, with a flat number of open files and a bounded log."""

import concurrent.futures
import gc
import multiprocessing
import os
import pathlib
import resource

import helpers
import pytest
import tiny

from rtda_jax.run import checkpoint

STEPS = 2000
LEAK = 8 << 20  # bytes that the second half of the run may gain

pytestmark = pytest.mark.slow


def used():
    """Resident bytes and open files of this process."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))


def growth(workdir, batches, steps):
    """What the second half of a run adds to memory and open files.

    In a process of its own: this one may hold freed memory of other tests, which hides a leak.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_growth, workdir, batches, steps).result()


def _growth(workdir, batches, steps):
    seen = {}

    def watched(start):
        for step, batch in enumerate(batches(start), start=start):
            if step in (steps // 2 - 50, steps - 50):  # no checkpoint is on its way
                seen[step] = used()
            yield batch

    tiny.run(
        "dacs", workdir, batches=watched, steps=steps, log_every_steps=20,
        checkpoint_every_steps=100,
    )  # fmt: skip
    (memory, files), (more_memory, more_files) = seen.values()
    print(f"{steps} steps: {memory >> 20} MiB, {files} files at the middle, then "
          f"{(more_memory - memory) / 2**20:+.1f} MiB, {more_files - files:+d} files")  # fmt: skip
    return more_memory - memory, more_files - files


def test_memory_files_and_log_stay_flat(tmp_path):
    memory, files = growth(tmp_path, helpers.batches, STEPS)
    assert memory < LEAK
    assert files <= 0
    log = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(log) == STEPS // 20
    assert max(map(len, log)) < 1000
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [STEPS - 100, STEPS]
    assert not checkpoint.is_damaged(tmp_path / "checkpoints")


def leaking(start, kept=[]):  # noqa: B006 the leak
    """The variant that is not flat: a stream that keeps its batches."""
    for batch in helpers.batches(start):
        kept.append(batch)
        yield batch


def test_a_leak_is_seen(tmp_path):
    memory, _ = growth(tmp_path, leaking, 600)
    assert memory > LEAK
