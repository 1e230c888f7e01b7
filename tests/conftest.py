"""Two CPU devices, no silent broadcasting, and one compilation cache for the whole suite."""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or str(pathlib.Path(tempfile.gettempdir()) / "rtda_jax_test_cache"),
)
