"""Freed memory stays in the process; records name the code that ran, wherever it is installed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

import rtda_jax
from rtda_jax.tools import environment

glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")

FAULTS = """
import resource
from rtda_jax.tools.environment import keep_freed_memory
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
from rtda_jax.tools import environment
import numpy as np
environment.keep_freed_memory()
sizes = [300_000, 40_000] * 400
blocks = [np.ones(size, np.uint8) for size in sizes]
places = {block.ctypes.data for block in blocks}
for number in (0, 1):
    del blocks[number::3]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
pieces = environment.retire_holes()
returned = before - resident()
again = environment.retire_holes()
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


@glibc
def test_large_buffers_are_faulted_once():
    kept = FAULTS.format(call="keep_freed_memory()")
    assert int(output(kept)) < 0.2 * int(output(FAULTS.format(call="")))


def test_memory_is_kept_before_jax_is_imported():
    output("import sys, rtda_jax.tools.environment; sys.exit('jax' in sys.modules)")


@glibc
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
    monkeypatch.setattr(environment, "retire_holes", lambda: calls.append("retired"))
    environment.retire_holes_after_compilations.cache_clear()
    yield listeners, calls
    environment.retire_holes_after_compilations.cache_clear()


def test_holes_are_retired_after_a_large_compilation_only(told):
    listeners, calls = told
    environment.retire_holes_after_compilations()
    environment.retire_holes_after_compilations()
    (listener,) = listeners
    listener(environment.COMPILED, 4.0, fun_name="add")
    listener("/jax/core/compile/jaxpr_trace_duration", 6.0, fun_name="step")
    assert not calls
    listener(environment.COMPILED, 6.0, fun_name="step")
    assert calls == ["retired"]


def test_jax_reports_its_compilations():
    heard = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: heard.append(event)
    )
    jax.jit(lambda x: x * 3 + 1)(2.0)
    assert environment.COMPILED in heard


def test_only_cores_that_the_process_may_use_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 5}, raising=False)
    assert environment.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert environment.cores() == 7


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package and its configurations, in a folder that is not a clone."""
    clone = pathlib.Path(rtda_jax.__file__).parents[1]
    for name in ("rtda_jax", "configs"):
        shutil.copytree(clone / name, tmp_path / "lib" / name)
    monkeypatch.setattr(rtda_jax, "__file__", str(tmp_path / "lib" / "rtda_jax" / "__init__.py"))
    return tmp_path / "lib"


def committed(folder):
    words = ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]
    for command in (["init", "-q"], ["add", "."], words):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    head = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_that_of_the_own_clone(copy):
    assert environment.commit() is None
    head = committed(copy)
    assert environment.commit() == head
    (copy / "rtda_jax" / "fda.py").write_text("")
    assert environment.commit().endswith("+")


def test_commit_of_a_clone_around_the_installed_package_is_not_recorded(copy):
    committed(copy.parent)
    assert environment.commit() is None


def test_digest_covers_configurations_and_is_that_of_the_wheel(copy):
    clone = environment.code_digest()
    (copy / "configs").rename(copy / "rtda_jax" / "configs")
    assert environment.code_digest() == clone
    with (copy / "rtda_jax" / "configs" / "base.py").open("a") as file:
        file.write("# another default\n")
    assert environment.code_digest() != clone


@pytest.mark.parametrize(
    ("called", "words", "command"),
    [
        ("main.py", ["--config", "a b.py"], "python main.py --config 'a b.py'"),
        ("/home/x/.venv/bin/rtda-jax", ["report"], "rtda-jax report"),
        ("/lib/rtda_jax/__main__.py", ["report"], "python -m rtda_jax report"),
        ("main.py", [], "python main.py"),
    ],
)
def test_command_is_what_can_be_typed_again(monkeypatch, called, words, command):
    monkeypatch.setattr(sys, "argv", [called, *words])
    assert environment.command() == command


def test_both_names_of_tensorflow_are_looked_for(monkeypatch):
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: "1")
    assert {"tensorflow", "tensorflow-cpu"} <= set(environment.packages())
