"""Freed memory stays in the process, and the holes of a compilation are out of its way."""

import json
import subprocess
import sys

import jax
import pytest

from rtda_jax.tools import allocator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")

FAULTS = """
import resource
from rtda_jax.tools.allocator import keep_freed_memory
import numpy as np
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""

# Leaves 200 holes of 300 kB and 200 of 40 kB between blocks that stay in use.
HOLES = """
import ctypes, json
from rtda_jax.tools import allocator
import numpy as np
allocator.keep_freed_memory()
sizes = [300_000, 40_000] * 400
blocks = [np.ones(size, np.uint8) for size in sizes]
places = {block.ctypes.data for block in blocks}
for number in (0, 1):
    del blocks[number::3]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
pieces = allocator.retire_holes()
returned = before - resident()
again = allocator.retire_holes()
large = [np.ones(290_000, np.uint8) for _ in range(20)]
small = [np.ones(39_000, np.uint8) for _ in range(20)]
kept = all((block == 1).all() for block in blocks)
first, last = min(places), max(places)
inside = [sum(first < b.ctypes.data < last for b in group) for group in (large, small)]
print(json.dumps([pieces, returned, again, inside, kept]))
"""


def output(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_large_buffers_are_faulted_once():
    kept = FAULTS.format(call="keep_freed_memory()")
    assert int(output(kept)) < 0.2 * int(output(FAULTS.format(call="")))


def test_memory_is_kept_before_jax_is_imported():
    output("import sys, rtda_jax.tools.allocator; sys.exit('jax' in sys.modules)")


def test_large_holes_go_back_to_the_system_and_are_not_searched():
    pieces, returned, again, inside, kept = json.loads(output(HOLES))
    assert pieces >= 200 and again == 0
    assert returned > 200 * 280_000
    assert inside[0] == 0, "a large block lies in a hole"
    assert inside[1] > 0, "small holes are still used"
    assert kept


@pytest.fixture
def told(monkeypatch):
    """Returns the listeners that are registered and the calls of `retire_holes`."""
    listeners, calls = [], []
    register = "register_event_duration_secs_listener"
    monkeypatch.setattr(jax.monitoring, register, listeners.append)
    monkeypatch.setattr(allocator, "retire_holes", lambda: calls.append("retired"))
    allocator.retire_holes_after_compilations.cache_clear()
    yield listeners, calls
    allocator.retire_holes_after_compilations.cache_clear()


def test_holes_are_retired_after_a_large_compilation_only(told):
    listeners, calls = told
    allocator.retire_holes_after_compilations()
    allocator.retire_holes_after_compilations()
    (listener,) = listeners
    listener(allocator.COMPILED, 4.0, fun_name="add")
    listener("/jax/core/compile/jaxpr_trace_duration", 6.0, fun_name="step")
    assert not calls
    listener(allocator.COMPILED, 6.0, fun_name="step")
    assert calls == ["retired"]


def test_jax_reports_its_compilations():
    heard = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: heard.append(event)
    )
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert allocator.COMPILED in heard
