"""Freed memory stays in the process; the module can be imported before JAX is."""

import subprocess
import sys

import pytest

PROGRAM = """
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


def faults(call):
    program = PROGRAM.format(call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_buffers_are_faulted_once():
    assert faults("keep_freed_memory()") < 0.2 * faults("")


def test_memory_is_kept_before_jax_is_imported():
    code = "import sys, rtda_jax.tools.environment; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
