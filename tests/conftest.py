"""Two CPU devices, no silent broadcasting, and one compilation cache for each worker."""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Two devices wait for each other at a collective; on a busy machine that may take a while.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    # JAX writes a cache file in place: a neighbour could read half of it.
    or str(
        pathlib.Path(tempfile.gettempdir())
        / f"rtda_jax_test_cache_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    ),
)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs of a file are dropped after it: all of them together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def tiny_networks():
    """Every configuration of the file builds networks of a few convolutions."""
    from helpers import shrink

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield
