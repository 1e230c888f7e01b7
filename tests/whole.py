"""An experiment with stages of every kind, in a process of its own that may be killed.

    PYTHONPATH=. python tests/whole.py DATA WORKDIR [MOMENT]

runs that of test_self_training.py; SIGKILL when it touches a file of its workdir for the
MOMENT-th time. Prints how often it did.
"""

import pathlib
import sys

import helpers
import jax
import pytest
import tiny
from test_self_training import tiny as experiment_of

from rtda_jax import experiment


def main(data, workdir, moment="0"):
    helpers.shrink(pytest.MonkeyPatch())
    touched = tiny.count_touches(workdir, lambda n: tiny.die() if n == int(moment) else None)
    experiment.run(experiment_of(pathlib.Path(data)), pathlib.Path(workdir))
    print(touched[0])


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    main(*sys.argv[1:])
