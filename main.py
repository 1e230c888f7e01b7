"""Flags to configuration to job: `python main.py --config configs/fda_mbt.py`."""

import ast
import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging
from ml_collections import config_flags

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rtda_jax"


def _run(config, workdir: pathlib.Path) -> None:
    from rtda_jax import experiment

    experiment.run(config, workdir)


def _evaluate(config, workdir: pathlib.Path) -> None:
    from rtda_jax import experiment

    experiment.reevaluate(config, workdir)


def _check_data(config, workdir: pathlib.Path) -> None:
    from rtda_jax.data import check

    check.check_benchmark(config.benchmark, data_dir=config.data_dir, out=workdir / "data")


def _summary(config, workdir: pathlib.Path) -> None:
    from rtda_jax import cost

    size = tuple(config.benchmark.crop)
    print(cost.summary(config.model.name, size=size))
    print(cost.summary(config.adversary.network, size=size))


def _benchmark(config, workdir: pathlib.Path) -> None:
    from benchmarks import speed

    speed.run(config, workdir)


def _audit(config, workdir: pathlib.Path) -> None:
    from rtda_jax import audit

    audit.run(config)


JOBS = {
    "run": _run,
    "evaluate": _evaluate,
    "check_data": _check_data,
    "summary": _summary,
    "benchmark": _benchmark,
    "audit": _audit,
}


_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/fda_mbt.py", "FILE[:BENCHMARK], see configs/.", lock_config=True
)
_JOB = flags.DEFINE_string("job", "run", f"What to do: {', '.join(JOBS)}.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/CONFIG.")
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "On a GPU, only kernels that give the same bits again; slower."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data sets lie; default the cache.")


def main(argv: list[str]) -> int:
    """Run one job; user errors end with a sentence and their exit code, not with a traceback."""
    from rtda_jax.allocator import keep_freed_memory

    keep_freed_memory()
    import jax

    from rtda_jax import errors, parallel
    from rtda_jax.data import DataError

    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
    if _DETERMINISTIC.value:
        parallel.deterministic()
    config = _CONFIG.value
    if _DATA_DIR.value is not None:
        config.data_dir = _DATA_DIR.value
    try:
        if argv[1:]:
            raise errors.ConfigError(f"unexpected arguments: {' '.join(argv[1:])}")
        if _JOB.value not in JOBS:
            raise errors.ConfigError(f"unknown job {_JOB.value!r}; known: {', '.join(JOBS)}")
        JOBS[_JOB.value](config, pathlib.Path(_WORKDIR.value or default_workdir()))
    except (*errors.ERRORS, DataError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"\nOSError: {error}", file=sys.stderr, flush=True)
        return os.EX_IOERR
    return 0


def default_workdir() -> str:
    """runs/fda_mbt for configs/fda_mbt.py, runs/fda_mbt-NAME for configs/fda_mbt.py:NAME."""
    file, _, arg = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs") / (pathlib.Path(file).stem + (f"-{arg}" if arg else "")))


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; what is wrong with it is said in a sentence."""
    try:
        rest = flags.FLAGS(argv)
        _ = _CONFIG.value.benchmark  # a file that can not be read fails on its first use
    except (flags.Error, LookupError, AttributeError, TypeError, OSError, ValueError) as error:
        print(f"ConfigError: {sentence(error)}\n(--help lists the flags)", file=sys.stderr)
        raise SystemExit(2) from None
    return rest


def sentence(error: Exception) -> str:
    """The reason in an error of the flag library, which wraps it in tracebacks and quotes."""
    text = str(error)
    raised = re.findall(r"^\s*[\w.]*Error: (.+)$", text, flags=re.MULTILINE)
    if raised:
        return raised[-1]
    if isinstance(error, AttributeError):
        if text[:1] in "'\"":
            text = str(ast.literal_eval(text))
        field, _, hint = text.strip().partition("\n")
        return f"the configuration has no field {field.strip(chr(39))!r}. {hint}".strip()
    missing = re.search(r"No such file or directory: '(.+)'", text)
    return f"no configuration file {missing[1]}" if missing else text


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
