"""Reads the command line: the job, its flags, and the configuration with what the user changed."""

import argparse
import difflib
import importlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from rtda_jax import errors
from rtda_jax.errors import ConfigError, named, require
from rtda_jax.run import log
from rtda_jax.run.options import (
    check_followed,
    check_word,
    explained,
    flat,
    nearest,
    open_stage_field,
    stage_fields,
)
from rtda_jax.tools import hub
from rtda_jax.tools.environment import (
    configs_folder,
    is_ours,
    place_of,
    provide_configs,
    user_code,
)

DEFAULT_CONFIG = "fda_mbt"
_CHOOSE_BENCHMARK = (
    "a benchmark is chosen after the colon of --config, as in fda:streets, not by its name"
)
_CODE = "code records which file of your own made a configuration, and no flag sets it"
CONFIG_HELPERS = ("arguments", "base", "benchmarks", "recipes")  # modules that others import
NOT_EMPTY = ("workdir", "weights", "output", "data_dir", "input", "before", "coordinator")  # flags
PROCESSES = ("run", "train", "evaluate")  # jobs of several seeds and processes
# The jobs that read a flag; flags that are not here, and --config, are read by all but report.
READERS = {
    **dict.fromkeys(("seeds", "coordinator", "num_processes", "process_id"), PROCESSES),
    **dict.fromkeys(("weights", "stage"), hub.READERS),
    "output": (*hub.READERS, "report"),
    **dict.fromkeys(("input", "view", "resolution"), ("predict",)),
    **dict.fromkeys(("repository", "licence", "precision"), ("publish",)),
    "also": ("export",),
    **dict.fromkeys(("before", "before_stage"), ("retrieve",)),
    **dict.fromkeys(("runs", "speed", "published"), ("report",)),
    "parts": ("benchmark",),
}


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

    def output(self, name: str) -> pathlib.Path:
        """Returns the folder for results: --output, or NAME in the workdir."""
        if self.flags.output:
            return pathlib.Path(self.flags.output).expanduser()
        return hub.results_folder(self.workdir, self.flags.weights) / name


class Job(NamedTuple):
    """A job of the command line.

    Attributes:
      run: the function that does the job.
      purpose: one sentence for the help.
      example: an example of the words after the name of the program.
      positional_flag: the flag to which words without a flag belong; "" if there may be none.
      configured: whether the job is about one configuration.
    """

    run: Callable[[Command], None]
    purpose: str
    example: str
    positional_flag: str = ""
    configured: bool = True

    def start(self, command: Command) -> None:
        """Runs the job; an error about a name in the run's record says which file may define it."""
        try:
            self.run(command)
        except ConfigError as error:
            if command.given or not self.configured:
                raise
            raise explained(error, command.workdir) from error.__cause__


def define_flags() -> flags.FlagValues:
    """Returns the flags of all jobs; --config and its fields are added when it is loaded."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may come after other words

    def text(name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=values)

    def names(name: str, default: list[str], about: str) -> None:
        flags.DEFINE_list(name, default, about, flag_values=values)

    def number(name: str, about: str) -> None:
        flags.DEFINE_integer(name, None, about, flag_values=values)

    text("job", "run", "The job, if the first word does not name it.")
    text("workdir", None, "Folder of the run; default runs/CONFIG[-ARGUMENT].")
    text("data_dir", None, "Where data sets lie; default $RTDA_JAX_DATA or ~/.cache/rtda_jax.")
    flags.DEFINE_bool(
        "deterministic", False, "Uses only deterministic GPU kernels; slower.", flag_values=values
    )
    number("seeds", "seeds 0..N-1 in WORKDIR/seedK, with their mean and spread.")
    text("coordinator", None, "HOST:PORT of the first of several processes, or auto.")
    number("num_processes", "how many processes there are.")
    number("process_id", "which process this is, from 0.")
    text("weights", None, "a workdir, its name in ./runs, hf://OWNER/NAME, or streets (built in).")
    text("stage", None, "the stage to use; default the last evaluation.")
    text(
        "output",
        None,
        "folder of results; default WORKDIR/JOB, of publish WORKDIR/published, of report ./report.",
    )
    text("input", None, "image, video, folder, camera (0) or URL; --input may be left out.")
    names("view", ["overlay"], "overlay, side_by_side, colours, train_ids or label_ids.")
    text("resolution", "eval", "images at the benchmark's eval size, or native.")
    text("repository", None, "OWNER/NAME on the Hugging Face Hub; default: no upload.")
    text("licence", "", "the licence of the weights, such as cc-by-nc-4.0.")
    text("precision", "float32", "type of the written weights, float32 or float16.")
    names("also", [], "further formats: onnx, saved_model, tflite.")
    text("before", None, "another workdir to compare with.")
    text("before_stage", None, "the stage to compare with, of --before or of WORKDIR.")
    names("runs", [], "workdirs or patterns; --runs may be left out.")
    names("speed", [], "speed.json files of the job benchmark.")
    names("published", [], "further papers to show.")
    names("parts", ["train", "infer"], "some of train, infer, networks.")
    return values


def config_names() -> list[str]:
    """Returns the names that --config takes instead of a file."""
    return sorted({path.stem for path in configs_folder().glob("*.py")} - set(CONFIG_HELPERS))


def load_config(source: str) -> ConfigDict:
    """Returns the configuration that --config names.

    Args:
      source: NAME[:ARGUMENT] of a configuration that comes with the package, or
        FILE.py[:ARGUMENT] of any other. Such a file may import `configs.base` and other modules of
        `configs`. It may import files of its own folder as modules of `configs`, too. The field
        `code` records this file, its argument and its code.

    Raises:
      ConfigError: there is no such configuration, it refuses its argument, or its file raises an
        error; the message names the line.
    """
    name, colon, argument = source.partition(":")
    path = _config_file(name)
    provide_configs(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(f"{path.stem}_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(get_config := getattr(module, "get_config", None)):
            raise ConfigError(f"{path}: has no function get_config")
        config = get_config(argument) if colon else get_config()
    except errors.ERRORS:
        raise
    except Exception as error:  # the file is the user's program and may raise anything
        if is_ours(error, path, pathlib.Path(__file__)):
            raise
        raise ConfigError(f"{place_of(error, path)}: {type(error).__name__}: {error}") from error
    _check_complete(config, path)
    if path.resolve().parent != configs_folder().resolve():
        code, hidden = user_code(path, module)
        config.code = f"{path.name}{colon}{argument} {code}"
        if hidden:
            names = ", ".join(hidden)
            log.say(f"not read in {path.parent}: {names}; rtda_jax has configurations of this name")
    return config


def _config_file(name: str) -> pathlib.Path:
    if not (name.endswith(".py") or os.sep in name):
        return configs_folder() / f"{errors.one_of(name, config_names(), 'configuration')}.py"
    path = pathlib.Path(os.path.expanduser(name))
    shipped = path.stem in config_names()
    hint = f"; --config={path.stem} is the one that comes with rtda_jax" if shipped else ""
    require(not path.is_dir(), f"--config={name} is a folder; expected a file of Python")
    require(path.is_file(), f"no configuration file {name}{hint}")
    require(path.suffix == ".py", f"--config={name}: the name of a file of Python ends in .py")
    return path


def _check_complete(config: ConfigDict, path: pathlib.Path) -> None:
    """Refuses a result of `get_config` that is not the configuration of an experiment."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config returns a {type(config).__name__}, not a ConfigDict")
    base = importlib.import_module("configs.base")  # from the folder that this one came from
    lacking = sorted(fields(base.get_config()) - fields(config))
    begin = "; begin with configs.base.get_config()"
    require(not lacking, f"{path}: the configuration lacks {named(lacking)}{begin}")
    for name in base.unknown_fields(config):
        near = nearest(base.unchanged(config.benchmark.name), name)
        raise ConfigError(f"{path}: the configuration has no field {name!r}{near}")


def fields(config: ConfigDict) -> set[str]:
    """Returns the dotted names of a configuration's fields, except for benchmark and stages."""
    return {
        name for name in flat(config.to_dict()) if not name.startswith(("benchmark.", "stage."))
    }


def parse(
    words: Sequence[str],
    jobs: Mapping[str, Job],
    *,
    default: Callable[[Mapping[str, str | None]], ConfigDict] | None = None,
) -> tuple[Job, Command]:
    """Returns the job and the parsed command for the words of a command line.

    Args:
      words: the command line without the program.
      jobs: all jobs by name.
      default: maps the flags of the line to the configuration that stands in for --config.

    Raises:
      ConfigError: an unknown job, flag or field, or a value of another type.
    """
    words = list(words)
    if words and not words[0].startswith("-") and "job" not in dict(_flags(words)):
        words[0] = f"--job={errors.one_of(words[0], jobs, 'job')}"
    check_once(words)
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    known.add_argument("--config")
    try:
        config_flag, words = known.parse_known_args(words)
    except argparse.ArgumentError:
        raise ConfigError(f"--config names one of {', '.join(config_names())}, or a file") from None
    source = DEFAULT_CONFIG if config_flag.config is None else config_flag.config
    values = define_flags()
    given = config_flag.config is not None
    if given or default is None:
        config = load_config(source)
    else:
        check_known(words, values)
        provide_configs()
        config = default(dict(_flags(words)))
    check_fields(words, config)
    before = stage_fields(config)
    line = ["rtda-jax", *words]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=line)
        rest = values(line)[1:]
    # The errors that the two flag libraries raise for invalid words have no common class.
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{error}\n(--help lists the flags)") from None
    job = errors.lookup(jobs, values.job, "job")
    if job.positional_flag == "runs":
        values.runs.extend(rest)
    elif job.positional_flag and len(rest) == 1 and values[job.positional_flag].value is None:
        setattr(values, job.positional_flag, rest[0])
    elif rest:
        raise ConfigError(_unexpected(rest, job, values))
    overrides = config_flags.get_override_values(values["config"])
    for sentence in check_followed(config, before, overrides):
        log.say(sentence)
    present = [flag for flag in define_flags() if values[flag].present and flag != "job"]
    check_read([*present, *(["config"] if given or overrides else [])], values.job, jobs)
    for flag in NOT_EMPTY:  # a variable of the shell that is not set, for example
        require(values[flag].value != "", f"--{flag} is empty")
    if values.data_dir is not None:
        config.data_dir = values.data_dir
    workdir = hub.find_workdir(source, workdir=values.workdir, weights=values.weights)
    return job, Command(config, given, overrides, workdir, values)


def _unexpected(rest: Sequence[str], job: Job, values: flags.FlagValues) -> str:
    """Returns the error for words that belong to no flag."""
    shown = ", ".join(rest[:3]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
    spaces = "a path with spaces needs quotes"
    if not job.positional_flag:
        return f"unexpected arguments: {shown}; {spaces}"
    given = values[job.positional_flag].value
    several = [*rest] if given is None else [given, *rest]
    folders = {os.path.dirname(word) or "." for word in several if os.path.isfile(word)}
    folder = f"the folder {folders.pop()}" if len(folders) == 1 else "a folder"
    return (
        f"the job {values.job} takes one {job.positional_flag}, got {len(several)}: {shown}; give "
        f"{folder} to have everything in it read; {spaces}"
    )


def check_read(given: Iterable[str], job: str, jobs: Mapping[str, Job]) -> None:
    """Raises ConfigError for a flag that the job does not read, as it would change nothing."""
    for flag in given:
        readers = READERS.get(flag) or [name for name in jobs if jobs[name].configured]
        require(job in readers, f"--{flag} goes with {', '.join(readers)}, not {job}")


def check_once(words: Sequence[str]) -> None:
    """Raises ConfigError if a flag is given twice; the libraries would use the last, or both."""
    seen: set[str] = set()
    for name, _ in _flags(words):
        require(name not in seen, f"--{name} is given twice")
        seen.add(name)


def check_known(words: Sequence[str], values: flags.FlagValues) -> None:
    """Raises ConfigError for a flag that is neither one of the given ones nor a field."""
    for name, _ in _flags(words):
        if not name.startswith(("config.", "noconfig.")):
            known = name in values or name.removeprefix("no") in values
            near = difflib.get_close_matches(name.lower(), ["config", *values], n=1, cutoff=0.75)
            hint = f"; did you mean --{near[0]}?" if near else "; --help lists the flags"
            require(known, f"unknown flag --{name}{hint}")


def check_fields(words: Sequence[str], config: ConfigDict) -> None:
    """Raises ConfigError for fields that do not exist or that no flag sets, and for wrong values.

    Args:
      words: a command line, in which `--config.optim.g_lr=0.01` sets a field.
      config: has all fields.
    """
    for name, value in _flags(words):
        if name.startswith("config."):
            field = name.removeprefix("config.")
            open_stage_field(config, field)
            current, declared = _field(config, field)
            require(name != "config.benchmark.name" or value == current, _CHOOSE_BENCHMARK)
            recorded = field == "code" or re.fullmatch(r"stage\.[^.]*\.code", field)
            require(not recorded or value == current, _CODE)
            if value is not None:
                check_word(value, declared, f"--{name}")


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the name of each flag in a command line, and its value where there is one."""
    for i, word in enumerate(words):
        if word == "--":
            return
        if re.match(r"--?[A-Za-z]", word):
            name, equals, value = word.lstrip("-").partition("=")
            yield name, value if equals else next(iter(words[i + 1 :]), None)


def _field(config: ConfigDict, field: str) -> tuple[Any, type]:
    """Returns value and type of a dotted field; the ConfigError for an unknown suggests names."""
    value: Any = config
    declared: type = ConfigDict
    names = field.split(".")
    for depth, name in enumerate(names):
        place = ".".join(names[:depth])
        if not isinstance(value, ConfigDict):
            raise ConfigError(f"--config.{field}: {place} has no fields, it is {value!r}")
        bare, bracket, _ = name.partition("[")
        if bare not in value:
            raise ConfigError(f"the configuration has no field {field!r}{nearest(config, field)}")
        declared, value = value.get_type(bare), value[bare]  # a value of None has a type, too
        if bracket:
            raise ConfigError(
                f"--config.{field}: values of a tuple are set together, as in "
                f"--config.benchmark.crop=96,192; {'.'.join([*names[:depth], bare])} is {value!r}"
            )
    return value, declared
