"""Reads the command line: the job, its flags, and the configuration with what the user changed."""

import argparse
import ast
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from rtda_jax import errors
from rtda_jax.errors import ConfigError, require
from rtda_jax.tools import hub
from rtda_jax.tools.environment import configs_folder

DEFAULT_CONFIG = "fda_mbt"
CONFIG_HELPERS = ("arguments", "base", "benchmarks", "recipes")  # what configurations are made with


class Command(NamedTuple):
    """A parsed command line.

    Attributes:
      config: the configuration with the fields that the user changed.
      given: whether --config was given.
      overrides: the fields that the user changed, dotted field -> value.
      workdir: the folder of the run.
      flags: all flags by name.
    """

    config: ConfigDict
    given: bool
    overrides: dict[str, Any]
    workdir: pathlib.Path
    flags: flags.FlagValues

    def output(self, default: pathlib.Path) -> pathlib.Path:
        """Returns the folder that results go to: --output, or the default."""
        return pathlib.Path(self.flags.output).expanduser() if self.flags.output else default


class Job(NamedTuple):
    """A job of the command line.

    Attributes:
      run: the function that does the job.
      purpose: one sentence for the help.
      example: an example of what follows the name of the program.
      positional_flag: the flag that words without a name fill; "" where there may be none.
      repeats: whether --seeds and --coordinator go with the job.
    """

    run: Callable[[Command], None]
    purpose: str
    example: str
    positional_flag: str = ""
    repeats: bool = False


def define_flags() -> flags.FlagValues:
    """Returns the flags of all jobs; --config and its fields are added when it is loaded."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow words

    def text(name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=values)

    def names(name: str, default: list[str], about: str) -> None:
        flags.DEFINE_list(name, default, about, flag_values=values)

    def number(name: str, about: str) -> None:
        flags.DEFINE_integer(name, None, about, flag_values=values)

    text("job", "run", "What to do, if the first word does not say it.")
    text("workdir", None, "Folder of the run; default runs/CONFIG[-ARGUMENT].")
    text("data_dir", None, "Where data sets lie; default the cache.")
    flags.DEFINE_bool(
        "deterministic",
        False,
        "Takes only kernels that give the same bits again on a GPU; slower.",
        flag_values=values,
    )
    number("seeds", "run, evaluate: seeds 0..N-1 in WORKDIR/seedK, with their mean and spread.")
    text(
        "coordinator", None, "run, evaluate: HOST:PORT of the first of several processes, or auto."
    )
    number("num_processes", "run, evaluate: how many processes there are.")
    number("process_id", "run, evaluate: which process this is, from 0.")
    text(
        "weights",
        None,
        "predict, export, publish, retrieve: a trained workdir, its name in ./runs, or hf://OWNER/NAME.",
    )
    text("stage", None, "predict, export, retrieve: whose networks; default the last evaluation.")
    text(
        "output",
        None,
        "predict, export, retrieve, report: folder of the results; default WORKDIR/JOB, of report "
        "./report.",
    )
    text(
        "input", None, "predict: an image, a video, a folder, a camera (0) or a URL; or as a word."
    )
    names("view", ["overlay"], "predict: some of overlay, side_by_side, colours, train_ids.")
    text("resolution", "eval", "predict: images at the benchmark's eval size, or native.")
    text("repository", None, "publish: OWNER/NAME on the Hugging Face Hub; default: no upload.")
    text("licence", "", "publish: of the weights, such as cc-by-nc-4.0.")
    names("also", [], "export: further formats: onnx, saved_model, tflite.")
    text("before", None, "retrieve: another workdir to compare with.")
    text("before_stage", None, "retrieve: whose networks of it, or of WORKDIR.")
    names("runs", [], "report: workdirs or patterns; or as words.")
    names("speed", [], "report: speed.json files of the job benchmark.")
    names("published", [], "report: papers to show besides.")
    names("parts", ["train", "infer"], "benchmark: some of train, infer, networks.")
    return values


def config_names() -> list[str]:
    """Returns the names that --config takes instead of a file."""
    return sorted({path.stem for path in configs_folder().glob("*.py")} - set(CONFIG_HELPERS))


def load_config(source: str) -> ConfigDict:
    """Returns the configuration that --config names.

    Args:
      source: NAME[:ARGUMENT] of a configuration that comes with the package, or
        FILE.py[:ARGUMENT] of any other. A file may import `configs.base` and its neighbours, and
        other files of its own folder under `configs` as well.

    Raises:
      ConfigError: there is no such configuration, or it refuses its argument.
    """
    name, colon, argument = source.partition(":")
    if name.endswith(".py") or os.sep in name:
        path = pathlib.Path(name).expanduser()
        known = path.stem in config_names()
        hint = f"; --config={path.stem} is the one that comes with rtda_jax" if known else ""
        require(path.is_file(), f"no configuration file {name}{hint}")
    else:
        path = configs_folder() / f"{errors.one_of(name, config_names(), 'configuration')}.py"
    package = types.ModuleType("configs")
    # It has two folders, the shipped one and that of the user's file, so that the files of both can
    # be imported as `configs.NAME`.
    package.__path__ = [str(configs_folder()), str(path.resolve().parent)]
    sys.modules["configs"] = package
    spec = importlib.util.spec_from_file_location(f"{path.stem}_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if colon else module.get_config()


def parse(words: Sequence[str], jobs: Mapping[str, Job]) -> tuple[Job, Command]:
    """Returns the job that the words of a command line name, and what it is to work on.

    Args:
      words: the command line without the program.
      jobs: all jobs by name.

    Raises:
      ConfigError: an unknown job, flag or field, or a value of another type.
    """
    words = list(words)
    if words and words[0] in jobs:
        words[0] = f"--job={words[0]}"
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--config")
    config_flag, words = known.parse_known_args(words)
    source = config_flag.config or DEFAULT_CONFIG
    values = define_flags()
    config = load_config(source)
    line = ["rtda-jax", *words]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=line)
        rest = values(line)[1:]
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{sentence(error)}\n(--help lists the flags)") from None
    job = errors.lookup(jobs, values.job, "job")
    if job.positional_flag == "runs":
        values.runs.extend(rest)
    elif job.positional_flag and len(rest) == 1 and values[job.positional_flag].value is None:
        setattr(values, job.positional_flag, rest[0])
    elif rest:
        raise ConfigError(f"unexpected arguments: {' '.join(rest)}")
    for flag in ("seeds", "coordinator"):
        require(
            job.repeats or values[flag].value is None,
            f"--{flag} goes with --job=run or evaluate, not {values.job}",
        )
    if values.data_dir is not None:
        config.data_dir = values.data_dir
    overrides = config_flags.get_override_values(values["config"])
    workdir = find_workdir(source, workdir=values.workdir, weights=values.weights)
    return job, Command(config, config_flag.config is not None, overrides, workdir, values)


def find_workdir(source: str, *, workdir: str | None, weights: str | None) -> pathlib.Path:
    """Returns the folder of the run.

    Args:
      source: what --config names; runs/fda_mbt for `fda_mbt`, runs/fda_mbt-X for `fda_mbt:X`.
      workdir: the value of --workdir, or None.
      weights: the value of --weights, a folder, its name in ./runs, an address on
        the hub, or None.

    Raises:
      ConfigError: `weights` is neither, or both flags are given.
    """
    if weights is not None:
        require(workdir is None, "--weights and --workdir both name a trained workdir; give one")
        if weights.startswith(hub.HUB):
            return hub.download(weights)
        places = [pathlib.Path(weights).expanduser(), pathlib.Path("runs") / weights]
        for place in places:
            if place.is_dir():
                return place
        raise ConfigError(f"--weights={weights}: no such folder, and none in runs/ of that name")
    if workdir is not None:
        return pathlib.Path(workdir).expanduser()
    file, _, argument = source.partition(":")
    return pathlib.Path("runs") / (pathlib.Path(file).stem + (f"-{argument}" if argument else ""))


def sentence(error: Exception) -> str:
    """Returns the reason in an error of the flag libraries, as a sentence without their quotes."""
    text = str(error)
    if not isinstance(error, AttributeError):
        return text
    if text[:1] in "'\"":
        text = str(ast.literal_eval(text))
    field, _, hint = text.strip().partition("\n")
    return f"the configuration has no field {field.strip(chr(39))!r}. {hint}".strip()
