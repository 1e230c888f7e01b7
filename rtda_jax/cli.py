"""The command line: from the words that a user types to a job and its exit code.

`python main.py`, `rtda-jax` and `python -m rtda_jax` all call `main`. The first word may name the
job, as `predict` does in `rtda-jax predict photo.jpg`; `--job=predict` says the same. Any field of
a configuration is a flag: `--config.optim.g_lr=0.01`.

Functions import what they need when they run, so that help and usage do not wait for JAX.
"""

import faulthandler
import os
import pathlib
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging
from ml_collections import ConfigDict

import rtda_jax
from rtda_jax import errors
from rtda_jax.errors import ConfigError, require
from rtda_jax.run.command import (
    DEFAULT_CONFIG,
    READERS,
    Command,
    Job,
    config_names,
    define_flags,
    load_config,
    parse,
)
from rtda_jax.tools import environment, hub

if TYPE_CHECKING:
    from rtda_jax.deploy import Networks

CACHE = environment.user_cache() / "rtda_jax"
WIDTH = 100  # columns of the help

UNFORESEEN = 1  # exit code, as of any Python program
PEER_DIED = 8  # exit code
FILE_FAILED = 74  # exit code, EX_IOERR of sysexits.h
AGAIN = "The same command, with any number of processes, continues from the newest checkpoint"


def _run(command: Command) -> None:
    from rtda_jax import experiment

    seeds = command.flags.seeds
    experiment.each_seed(command.config, command.workdir, count=seeds, job=experiment.run)


def _evaluate(command: Command) -> None:
    from rtda_jax import experiment

    seeds = command.flags.seeds
    experiment.each_seed(command.config, command.workdir, count=seeds, job=experiment.reevaluate)


def _predict(command: Command) -> None:
    from rtda_jax.deploy import predict

    require(
        command.flags.input is not None,
        "the job predict needs an input: an image, a video, a folder of them, a camera or a URL",
    )
    predict.run(
        lambda: _trained(command),
        source=command.flags.input,
        out=command.output("predict"),
        views=command.flags.view,
        resolution=command.flags.resolution,
    )


def _export(command: Command) -> None:
    from rtda_jax.deploy import export

    out = command.output("export")
    export.run(_trained(command), out=out, also=command.flags.also)


def _publish(command: Command) -> None:
    from rtda_jax.deploy import networks, publish

    networks.check_publishable(command.overrides, command.workdir)
    publish.run(
        _trained(command),
        out=command.output("published"),
        repository=command.flags.repository,
        licence=command.flags.licence,
        precision=command.flags.precision,
    )


def _retrieve(command: Command) -> None:
    from rtda_jax.deploy import networks, retrieve

    runs = {"after": _trained(command)}
    before, stage = command.flags.before, command.flags.before_stage
    if before is not None or stage is not None:
        workdir = command.workdir
        if before:
            workdir = hub.find(before, flag="--before")
        runs = {"before": networks.choose(_recorded(workdir), workdir, stage=stage), **runs}
    retrieve.run(runs, out=command.output("retrieve"))


def _trained(command: Command) -> "Networks":
    """Returns the networks of a workdir from its record; a given --config must agree with it.

    Raises:
      ConfigError: the folder holds no trained run, or a run of another configuration.
    """
    from rtda_jax.deploy import networks

    config = command.config
    if command.given:
        networks.check(config, command.workdir)
    else:
        config = _recorded(command.workdir, command.overrides)
    if command.flags.data_dir is not None:
        config.data_dir = command.flags.data_dir
    return networks.choose(config, command.workdir, stage=command.flags.stage)


def _of_workdir(given: Mapping[str, str | None]) -> ConfigDict:
    """Returns the configuration that stands in for --config, given the flags of a command line.

    It is the one that the workdir, or its folder of seed 0, was made with.

    Raises:
      ConfigError: nothing says what to train.
    """
    if given.get("workdir"):
        folder = pathlib.Path(str(given["workdir"])).expanduser()
        for workdir in (folder, folder / "seed0"):
            if (workdir / "config.json").exists():
                return _recorded(workdir)
    require(
        given.get("job", "run") not in ("run", "train"),
        f"the job run needs --config, one of {', '.join(config_names())}, or a file",
    )
    return load_config(DEFAULT_CONFIG)


def _recorded(workdir: pathlib.Path, overrides: dict[str, Any] | None = None) -> ConfigDict:
    from configs import base
    from rtda_jax.deploy import networks

    return networks.recorded(workdir, defaults=base.unchanged, overrides=overrides)


def _report(command: Command) -> None:
    from rtda_jax import report

    chosen = command.flags
    out = pathlib.Path(chosen.output or "report").expanduser()
    page = report.write(chosen.runs, out, speeds=chosen.speed, published=chosen.published)
    print(f"{page}\n{page.with_suffix('.md')}")


def _check_data(command: Command) -> None:
    from rtda_jax.data import check
    from rtda_jax.run import files

    out, config = command.workdir / "data", command.config
    with files.lock(out):
        check.check_benchmark(config.benchmark, data_dir=config.data_dir, out=out)


def _summary(command: Command) -> None:
    from rtda_jax.stages import KINDS, train
    from rtda_jax.stages.plan import make_plan

    print(train.summary(make_plan(command.config, KINDS)))


def _audit(command: Command) -> None:
    from rtda_jax.tools import audit

    audit.run(command.config, command.workdir)


def _benchmark(command: Command) -> None:
    clone = pathlib.Path(__file__).parents[1]
    if not (clone / "benchmarks" / "speed.py").is_file():
        raise ConfigError(
            "the job benchmark compares with networks in PyTorch, which are not installed; run "
            "`python main.py benchmark` in a clone of the repository"
        )
    sys.path.insert(0, str(clone))
    from benchmarks import speed

    speed.run(command.config, command.workdir, parts=command.flags.parts)


JOBS = {
    "run": Job(
        _run,
        "Trains and evaluates an experiment, or continues it.",
        "--config fda_mbt --config.seed=1",
    ),
    "train": Job(_run, "Another word for run.", "train --config fda_mbt"),
    "evaluate": Job(_evaluate, "Evaluates a trained workdir again.", "evaluate --config fda_mbt"),
    "predict": Job(
        _predict,
        "Segments images, videos, a folder, a camera or a stream.",
        "predict photo.jpg --weights runs/fda_mbt",
        positional_flag="input",
    ),
    "export": Job(
        _export,
        "Writes the network as files that run without this package.",
        "export --weights runs/fda_mbt --also=onnx",
    ),
    "publish": Job(
        _publish,
        "Writes the network as a folder for others, and uploads it to the Hugging Face Hub.",
        "publish --weights runs/fda_mbt --repository OWNER/NAME",
    ),
    "retrieve": Job(
        _retrieve,
        "Looks up images of one domain among those of the other.",
        "retrieve --weights runs/fda_mbt --before runs/source_only",
    ),
    "report": Job(
        _report,
        "Makes one page about any number of runs.",
        "report 'runs/*' --output report",
        positional_flag="runs",
        configured=False,
    ),
    "check_data": Job(
        _check_data,
        "Reads every file of a benchmark and names what is broken.",
        "check_data --config fda:gta5_to_cityscapes --data_dir /data",
    ),
    "summary": Job(_summary, "Lists the networks by module.", "summary --config fda"),
    "audit": Job(
        _audit, "Runs the same steps twice and compares every hash.", "audit --config fda"
    ),
    "benchmark": Job(
        _benchmark, "Measures speed against PyTorch.", "benchmark --config fda:folders"
    ),
}


def usage(program: str) -> str:
    """Returns what the program prints without arguments: the jobs, each with an example."""
    lines = [f"Usage: {program} [JOB] [--config CONFIG] [flags]", ""]
    for name, job in JOBS.items():
        lines += [f"  {name:<11} {job.purpose}", f"  {'':<11} $ {program} {job.example}"]
    lines += ["", f"{program} --help lists all flags."]
    return "\n".join(lines)


def help_text(program: str) -> str:
    """Returns the usage and every flag, no line longer than WIDTH."""
    values = define_flags()
    entries = {
        "config": "A configuration: NAME or FILE.py, and after a colon its benchmark and options, "
        f"as in fda:gta5_to_cityscapes,beta=0.05. The job run needs it, unless the workdir has "
        f"one; of other jobs {DEFAULT_CONFIG} is the default. "
        f"Names: {', '.join(config_names())}.",
        "config.FIELD": "A field of the configuration, such as --config.optim.g_lr=0.01.",
    }
    for name in values:
        default = values[name].default
        shown = ",".join(default) if isinstance(default, list) else default
        readers = f"{', '.join(READERS[name])}: " if name in READERS else ""
        entries[name] = f"{readers}{values[name].help}" + (f" Default {shown}." if shown else "")
    lines = [usage(program).rpartition("\n\n")[0], "", "Flags:"]
    for name, about in entries.items():
        wrapped = textwrap.wrap(about, WIDTH - 20, break_on_hyphens=False)
        lines.append(f"  --{name:<15} {wrapped[0]}")
        lines += [f"{'':20}{line}" for line in wrapped[1:]]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the job that the command line names and returns the exit code of the program.

    Errors of the user end with a message instead of a traceback.

    Args:
      words: the command line without the program; by default that of this process.
    """
    words = sys.argv[1:] if words is None else words
    program = environment.program()
    if not words:
        print(usage(program))
        return 0
    if words[0] == "help" or {"-h", "-help", "--help"} & set(words):
        print(help_text(program))
        return 0
    if words[0] == "--version":
        print(f"{program} {rtda_jax.__version__}")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    environment.keep_freed_memory()  # before JAX starts
    faulthandler.enable()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    return exit_code_of(lambda: _start(words))


def _start(words: Sequence[str]) -> None:
    import jax

    from rtda_jax.run import log, parallel

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    environment.retire_holes_after_compilations()
    job, command = parse(words, JOBS, default=_of_workdir)
    values = command.flags
    if values.deterministic:
        parallel.deterministic()
    alone = values.num_processes is None and values.process_id is None
    require(values.coordinator or alone, "--num_processes and --process_id need --coordinator")
    if values.coordinator:
        join(values)
    if command.given and command.config.benchmark.name == "folders":
        from configs import benchmarks

        for line in benchmarks.follow_images(
            command.config, overrides=command.overrides, workdir=command.workdir
        ):
            log.say(line)
    job.start(command)


def join(values: flags.FlagValues) -> None:
    """Joins this process to the others of its job; all processes but the first print nothing."""
    from rtda_jax.run import parallel

    # If the other processes do not answer, XLA would abort this one with a trace of its own.
    alone = threading.Timer(parallel.PATIENCE, _alone, (values.coordinator, values.num_processes))
    alone.daemon = True
    alone.start()
    try:
        parallel.join(values.coordinator, processes=values.num_processes, index=values.process_id)
    finally:
        alone.cancel()
    if not parallel.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 it stays open to the end


def _alone(coordinator: str, processes: int | None) -> None:
    """Ends a process whose peers have not answered."""
    from rtda_jax.run import log, parallel

    log.say(
        f"\nConfigError: --coordinator={coordinator}: not all of {processes or 'the'} processes "
        f"answered within {parallel.PATIENCE} seconds; is the address right, and is each "
        "--process_id given once?",
        to=sys.stderr,
    )
    os._exit(ConfigError.exit_code)


def exit_code_of(job: Callable[[], None]) -> int:
    """Runs a job and returns its exit code; known errors print a sentence."""
    from rtda_jax.run import parallel

    try:
        job()
    except BaseException as error:
        if parallel.peer_died(error):
            text = f"{str(error)[:500]}\nAnother process of this job is gone. {AGAIN}"
            return end(text, PEER_DIED)
        error = parallel.for_user(error)
        if isinstance(error, errors.ERRORS):
            return end(f"{type(error).__name__}: {error}", error.exit_code)
        if isinstance(error, OSError):  # a full disk, a read-only folder
            reason = f"{error.filename}: {error.strerror}" if error.filename else error
            return end(f"OSError: {reason}", FILE_FAILED)
        if not parallel.joined():
            raise
        # A normal exit would wait for the other processes, which wait for this one.
        return end(traceback.format_exc(), UNFORESEEN)
    return 0


def end(text: str, code: int) -> int:
    """Prints why the job ends; one of several processes does not wait for the others."""
    from rtda_jax.run import log, parallel, signals

    log.say(f"\n{text}", to=sys.stderr)
    if parallel.joined():
        sys.stdout.flush()
        os._exit(code)
    return signals.leave(code)
