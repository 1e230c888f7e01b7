"""Flags to configuration to job: `python main.py --config configs/fda_mbt.py`."""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging
from ml_collections import config_flags

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rtda_jax"

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/fda_mbt.py", "FILE[:BENCHMARK], see configs/.", lock_config=True
)
_JOB = flags.DEFINE_string("job", "run", "What to do: run, evaluate.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/CONFIG.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data sets lie; default the cache.")


def _run(config, workdir: pathlib.Path) -> None:
    from rtda_jax import experiment

    experiment.run(config, workdir)


def _evaluate(config, workdir: pathlib.Path) -> None:
    from rtda_jax import experiment

    experiment.reevaluate(config, workdir)


JOBS = {"run": _run, "evaluate": _evaluate}


def main(argv: list[str]) -> int | None:
    """Run one job; user errors end with a sentence and their exit code, not with a traceback."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    import jax

    from rtda_jax.data import DataError
    from rtda_jax.errors import ConfigError, Interrupted, NotFiniteError

    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
    config = _CONFIG.value
    if _DATA_DIR.value is not None:
        config.data_dir = _DATA_DIR.value
    try:
        if _JOB.value not in JOBS:
            raise ConfigError(f"unknown job {_JOB.value!r}; known: {', '.join(JOBS)}")
        JOBS[_JOB.value](config, pathlib.Path(_WORKDIR.value or default_workdir()))
    except (ConfigError, DataError, NotFiniteError, Interrupted) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def default_workdir() -> str:
    """runs/fda_mbt for configs/fda_mbt.py, runs/fda_mbt-NAME for configs/fda_mbt.py:NAME."""
    file, _, arg = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs") / (pathlib.Path(file).stem + (f"-{arg}" if arg else "")))


if __name__ == "__main__":
    app.run(main)
