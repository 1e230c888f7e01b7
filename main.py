"""Train, evaluate and use real-time domain adaptation: `python main.py --config configs/fda.py`.

Any field of configs/base.py is a flag as well: `--config.optim.g_lr=0.01`. Finished stages are
skipped, interrupted ones continue.
"""

import ast
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable

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
    from rtda_jax.run import files

    with files.lock(workdir / "data"):
        check.check_benchmark(config.benchmark, data_dir=config.data_dir, out=workdir / "data")


def _summary(config, workdir: pathlib.Path) -> None:
    from rtda_jax.tools import cost

    size = tuple(config.benchmark.crop)
    print(cost.summary(config.model.name, size=size))
    print(cost.summary(config.adversary.network, size=size))


def _benchmark(config, workdir: pathlib.Path) -> None:
    from benchmarks import speed

    speed.run(config, workdir, parts=_PARTS.value)


def _predict(config, workdir: pathlib.Path) -> None:
    from rtda_jax.deploy import networks, predict
    from rtda_jax.errors import ConfigError

    if _INPUT.value is None:
        raise ConfigError(
            "--job=predict needs --input: an image, a video, a folder of them, a camera or a URL"
        )
    predict.run(
        networks.choose(_of_run(config, workdir), workdir, stage=_STAGE.value),
        source=_INPUT.value,
        out=_output(workdir / "predict"),
        views=_VIEW.value,
        resolution=_RESOLUTION.value,
    )


def _export(config, workdir: pathlib.Path) -> None:
    from rtda_jax.deploy import export, networks

    chosen = networks.choose(_of_run(config, workdir), workdir, stage=_STAGE.value)
    export.run(chosen, out=_output(workdir / "export"), also=_ALSO.value)


def _retrieve(config, workdir: pathlib.Path) -> None:
    from rtda_jax.deploy import networks, retrieve

    config = _of_run(config, workdir)
    runs = {"after": networks.choose(config, workdir, stage=_STAGE.value)}
    if _BEFORE.value is not None or _BEFORE_STAGE.value is not None:
        place = pathlib.Path(_BEFORE.value).expanduser() if _BEFORE.value else workdir
        theirs = networks.choose(_recorded(place), place, stage=_BEFORE_STAGE.value)
        runs = {"before": theirs, **runs}
    retrieve.run(runs, out=_output(workdir / "retrieve"))


def _output(default: pathlib.Path) -> pathlib.Path:
    """The folder that results go to: --output, or the default."""
    return pathlib.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else default


def _of_run(config, workdir: pathlib.Path):
    """Returns the configuration that a workdir records, or the given one, which must agree."""
    from rtda_jax.deploy import networks

    flag = flags.FLAGS["config"]
    if flag.present:
        networks.check(config, workdir)
    else:
        config = _recorded(workdir, config_flags.get_override_values(flag))
    if _DATA_DIR.value is not None:
        config.data_dir = _DATA_DIR.value
    return config


def _report(config, workdir: pathlib.Path) -> None:
    from rtda_jax import report

    out = _output(pathlib.Path("report"))
    page = report.write(_RUNS.value, out, speeds=_SPEED.value, published=_PUBLISHED.value)
    print(f"{page}\n{page.with_suffix('.md')}")


def _recorded(workdir: pathlib.Path, overrides: dict | None = None):
    from configs import base
    from rtda_jax.deploy import networks

    return networks.recorded(workdir, defaults=base.get_config, overrides=overrides)


def _audit(config, workdir: pathlib.Path) -> None:
    from rtda_jax.tools import audit

    audit.run(config, workdir)


JOBS = {
    "run": _run,
    "evaluate": _evaluate,
    "check_data": _check_data,
    "summary": _summary,
    "benchmark": _benchmark,
    "audit": _audit,
    "predict": _predict,
    "export": _export,
    "retrieve": _retrieve,
    "report": _report,
}


_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(pathlib.Path(__file__).parent / "configs" / "fda_mbt.py"),  # from any folder
    "FILE[:BENCHMARK[,option=value]]: a method of configs/ on a pair of configs/benchmarks.py.",
    lock_config=True,
)
_JOB = flags.DEFINE_string("job", "run", f"What to do: {', '.join(JOBS)}.")
_PARTS = flags.DEFINE_list("parts", "train,infer", "benchmark: train, infer, networks.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; default runs/CONFIG[-BENCHMARK]."
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "On a GPU, only kernels that give the same bits again; slower."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "run, evaluate: seeds 0..N-1 in WORKDIR/seedK; mean and spread."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: HOST:PORT of the first, or auto (docs/trust.md)."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Several processes: which one this is, from 0.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data sets lie; default the cache.")
_RUNS = flags.DEFINE_list("runs", [], "report: workdirs or globs; may follow the flags.")
_SPEED = flags.DEFINE_list("speed", [], "report: speed.json files of --job=benchmark.")
_PUBLISHED = flags.DEFINE_list("published", [], "report: papers to show besides (docs/report.md).")

# Of the jobs on a trained workdir: predict, export, retrieve (docs/deploy.md).
_STAGE = flags.DEFINE_string(
    "stage", None, "predict, export, retrieve: whose networks; default the last evaluate stage."
)
_INPUT = flags.DEFINE_string(
    "input", None, "predict: an image, a video, a folder of them, a camera (0) or a stream's URL."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict, export, retrieve, report: where results go; default WORKDIR/JOB, of report ./report.",
)
_VIEW = flags.DEFINE_list(
    "view", ["overlay"], "predict: some of overlay,side_by_side,colours,train_ids."
)
_RESOLUTION = flags.DEFINE_string(
    "resolution", "eval", "predict: the images at the benchmark's eval size, or native."
)
_ALSO = flags.DEFINE_list("also", [], "export: further formats: onnx, saved_model, tflite.")
_BEFORE = flags.DEFINE_string("before", None, "retrieve: another workdir to compare with.")
_BEFORE_STAGE = flags.DEFINE_string("before_stage", None, "retrieve: its stage, or one of WORKDIR.")


def main(argv: list[str]) -> int:
    """Runs one job; user errors end with a sentence and their exit code, not with a traceback."""
    from rtda_jax.tools.environment import keep_freed_memory

    keep_freed_memory()
    import jax

    from rtda_jax.run import parallel

    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if _DETERMINISTIC.value:
        parallel.deterministic()
    config = _CONFIG.value
    if _DATA_DIR.value is not None:
        config.data_dir = _DATA_DIR.value
    return answered(lambda: _job(config, argv[1:]))


def _job(config, rest: list[str]) -> None:
    from rtda_jax import errors

    if _COORDINATOR.value:
        join(_COORDINATOR.value)
    if _JOB.value == "report":
        _RUNS.value.extend(rest)
    elif rest:
        raise errors.ConfigError(f"unexpected arguments: {' '.join(rest)}")
    job = errors.lookup(JOBS, _JOB.value, "job")
    workdir = pathlib.Path(_WORKDIR.value or default_workdir()).expanduser()
    if _SEEDS.value is None:
        job(config, workdir)
    else:
        run_seeds(config, workdir, count=_SEEDS.value)


def answered(job: Callable[[], None]) -> int:
    """Runs a job and returns its exit code; known errors print a sentence."""
    from rtda_jax import errors
    from rtda_jax.run import parallel

    try:
        job()
    except BaseException as error:
        if parallel.peer_died(error):
            return end(f"{str(error)[:500]}\nAnother process of this job is gone. {AGAIN}", LONELY)
        if isinstance(error, errors.ERRORS):
            return end(f"{type(error).__name__}: {error}", error.exit_code)
        if isinstance(error, OSError):  # a full disk, a folder that may not be written
            return end(f"OSError: {error}", os.EX_IOERR)
        if not parallel.joined():
            raise
        # The interpreter's own end would wait for the other processes, which wait for this one.
        return end(traceback.format_exc(), UNFORESEEN)
    return 0


UNFORESEEN = 1  # exit code, as of any Python program
LONELY = 8  # exit code
AGAIN = "The same command, with any number of processes, continues from the newest checkpoint"


def join(coordinator: str) -> None:
    """Makes this process one of several, of which all but the first are silent."""
    from rtda_jax.errors import ConfigError
    from rtda_jax.run import parallel

    if _JOB.value not in ("run", "evaluate"):
        raise ConfigError(f"--job={_JOB.value} runs in one process only")
    parallel.join(coordinator, processes=_PROCESSES.value, index=_PROCESS.value)
    if not parallel.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 it stays open to the end


def end(sentence: str, code: int) -> int:
    """Prints why the job ends; among several processes it ends at once, without the others."""
    from rtda_jax.run import log, parallel, signals

    log.say(f"\n{sentence}", to=sys.stderr)
    if parallel.joined():
        sys.stdout.flush()
        os._exit(code)
    return signals.leave(code)


def run_seeds(config, workdir: pathlib.Path, *, count: int) -> None:
    """Runs or evaluates several seeds of an experiment."""
    from rtda_jax import experiment
    from rtda_jax.errors import ConfigError
    from rtda_jax.stages import seeds

    jobs = {"run": experiment.run, "evaluate": experiment.reevaluate}
    if _JOB.value not in jobs:
        raise ConfigError(f"--seeds goes with --job={' or '.join(jobs)}, not {_JOB.value}")
    seeds.run(config, workdir, count=count, job=jobs[_JOB.value])


def default_workdir() -> str:
    """Returns runs/fda_mbt for configs/fda_mbt.py, runs/fda_mbt-NAME for fda_mbt.py:NAME."""
    file, _, arg = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return str(pathlib.Path("runs") / (pathlib.Path(file).stem + (f"-{arg}" if arg else "")))


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, or ends with a sentence about what is wrong with it."""
    try:
        rest = flags.FLAGS(argv)
        _ = _CONFIG.value.benchmark  # a file that cannot be read fails on its first use
    except (flags.Error, LookupError, AttributeError, TypeError, OSError, ValueError) as error:
        print(f"ConfigError: {sentence(error)}\n(--help lists the flags)", file=sys.stderr)
        raise SystemExit(2) from None
    return rest


def sentence(error: Exception) -> str:
    """Returns the reason in an error of the flag library, without its tracebacks and quotes."""
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
