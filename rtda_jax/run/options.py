"""Configurations: sections, the option dataclasses that they become, and plain values.

Every pure module owns a frozen dataclass of its options, the only place that holds defaults and
validates values. `section` makes a part of `configs/base.py` from such dataclasses. `read` makes a
dataclass from that part, including the user's changes.
"""

import ast
import contextlib
import dataclasses
import difflib
import json
import pathlib
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rtda_jax.errors import ConfigError, printable, require

Fields = dict[str, Any]
Options = TypeVar("Options")


def section(*classes: type, **overrides: Any) -> ConfigDict:
    """Returns a configuration section with the default of every field of the dataclasses.

    Args:
      *classes: dataclasses whose fields all have defaults; together they own the section.
      **overrides: values that a benchmark sets instead of a default.
    """
    values: dict[str, Any] = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if hasattr(ConfigDict, field.name):  # --config.SECTION.NAME would find the method
                raise TypeError(f"the option {field.name} has the name of a method of ConfigDict")
            values[field.name] = _initial(field, hints[field.name])
    unknown = sorted(overrides.keys() - values.keys())
    if unknown:
        raise TypeError(f"no option class has the field {unknown[0]!r}")
    return ConfigDict(values | overrides)


def _initial(field: dataclasses.Field, hint: Any) -> Any:
    """Returns the initial value of a field in a section, so that an override keeps its type."""
    if dataclasses.is_dataclass(hint):
        return section(typing.cast(type, hint))
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        raise TypeError(f"the option {field.name} needs a default")
    if field.default is None:
        declared = _without_none(hint)
        return placeholder(typing.get_origin(declared) or declared)
    return field.default


def read(cls: type[Options], values: Any, path: str) -> Options:
    """Returns an option dataclass with the values of a section.

    Args:
      cls: the dataclass; fields of the section that belong to another one are left alone.
      values: the section of a stage's configuration.
      path: the name of the section, such as "loss", or "" for the top; errors begin with it.

    Raises:
      ConfigError: a value has another type than its field declares, or the dataclass refuses it.
    """
    arguments: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        place = f"{path}.{name}" if path else name
        if dataclasses.is_dataclass(hint):
            arguments[name] = read(typing.cast(type, hint), values[name], place)
        else:
            arguments[name] = typed(values[name], hint, place)
    return cls(**arguments)


def typed(value: Any, hint: Any, path: str) -> Any:
    """Returns a value with the type that a hint declares, immutable; whole numbers become floats.

    The configuration library accepts None for a field of any type, and a recorded configuration can
    hold anything.

    Args:
      value: what the configuration holds.
      hint: bool, int, float or str; a tuple, sequence or mapping of these; or one of them | None.
      path: names the value in errors.

    Raises:
      ConfigError: the value has another type, or is a number that is not finite or too large.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else typed(value, _without_none(hint), path)
    if origin is Mapping:
        fields = value.to_dict() if isinstance(value, ConfigDict) else value
        return _immutable(dict(_of(fields, (Mapping,), "fields and values", path)))
    if origin in (tuple, Sequence):
        items = _of(value, (tuple, list), "a tuple", path)
        if origin is tuple and arguments[-1] is not Ellipsis:
            length = len(arguments)
            require(len(items) == length, f"{path} must have {length} values, got {value}")
        return tuple(typed(item, arguments[0], path) for item in items)
    if hint is float:
        number = _of(value, (int, float), "a number", path)
        require(abs(number) <= sys.float_info.max, f"{path} must be finite, got {number}")
        return float(number)
    if hint is int:
        whole = _of(value, (int,), _WORDS[int], path)
        require(abs(whole) <= sys.maxsize, f"{path} must fit into 64 bits")
        return whole
    return _of(value, (hint,), _WORDS[hint], path)


_WORDS = {bool: "True or False", int: "a whole number", str: "a text"}


def check_word(word: str, declared: type, name: str) -> None:
    """Raises ConfigError unless a word of a command line is a value of the declared type."""
    what, parse = _WORD_PARSERS.get(declared, ("", str))
    try:
        parse(word)
    except (ValueError, SyntaxError):
        raise ConfigError(f"{name} must be {what}, got {word!r}") from None


def _bool(word: str) -> None:
    if not word.startswith("-") and word.lower() not in ("true", "t", "1", "false", "f", "0"):
        raise ValueError


def _tuple(word: str) -> None:
    """Parses a tuple as the flag library does, which reads values without brackets as strings."""
    if word.startswith(("(", "[", "{", "'", '"')):
        ast.literal_eval(word)


def _dict(word: str) -> None:
    if not isinstance(ast.literal_eval(word), dict):
        raise ValueError


# By type: what errors call a value, and a function that parses it or raises ValueError or
# SyntaxError.
_WORD_PARSERS: dict[type, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    bool: ("true or false", _bool),
    tuple: ("values with commas between them, such as 96,192 or \"('a','b')\"", _tuple),
    ConfigDict: ("set by its fields, as in --config.optim.g_lr=0.01", _dict),
}


def _of(value: Any, classes: tuple[type, ...], words: str, path: str) -> Any:
    # In Python a bool is an int, but in a configuration it is a mistake.
    if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
        raise ConfigError(f"{path} must be {words}, got {value!r}")
    return value


def _without_none(hint: Any) -> Any:
    """Returns the type that a hint such as `float | None` allows besides None."""
    (declared,) = (t for t in typing.get_args(hint) if t is not type(None))
    return declared


def _immutable(value: Any) -> Any:
    """Returns a value with tuples for lists, which a record in JSON has in their place."""
    if isinstance(value, list | tuple):
        return tuple(_immutable(item) for item in value)
    if isinstance(value, Mapping):
        return {name: _immutable(item) for name, item in value.items()}
    return value


def stage_fields(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """Returns the fields that each stage of an experiment sets for itself, by its name."""
    sections = config.stage.to_dict()
    return {name: flat(sections[name]) for name in config.stages if name in sections}


def stage_names(config: Fields) -> list[str]:
    """Returns the stages of a configuration in their order.

    Raises:
      ConfigError: the configuration is not that of an experiment.
    """
    names, stages = config.get("stages"), config.get("stage")
    if not isinstance(names, list) or not isinstance(stages, dict):
        raise ConfigError("not the configuration of an experiment: it has no stages")
    for name in names:
        stage = stages.get(name) if isinstance(name, str) else None
        if not isinstance(stage, dict) or not isinstance(stage.get("kind"), str):
            raise ConfigError(f"`stages` names {printable(name)}, which `stage` does not describe")
    return names


def open_stage_field(config: ConfigDict, field: str) -> None:
    """Gives a stage a field of the experiment that it does not set yet, with the same value.

    A flag can then change the field for that stage alone.

    Args:
      config: the experiment's configuration, which is changed.
      field: a dotted name, such as "stage.train.optim.g_lr"; other names change nothing.
    """
    first, _, rest = field.partition(".")
    stage, _, rest = rest.partition(".")
    *sections, last = rest.split(".")
    if first != "stage" or stage not in config.stage or rest in flat(config.stage[stage].to_dict()):
        return
    whole, own = config, config.stage[stage]
    for section in sections:
        if not isinstance(whole.get(section), ConfigDict):
            return
        whole = whole[section]
    if last not in whole or isinstance(whole[last], ConfigDict):
        return
    with config.unlocked():
        for section in sections:
            if section not in own:
                own[section] = ConfigDict()
            own = own[section]
        own[last] = whole.get_oneway_ref(last)


def check_known(config: ConfigDict, fields: Iterable[str]) -> None:
    """Raises ConfigError for the first dotted field of a stage that no experiment has."""
    whole = ConfigDict({name: value for name, value in config.items() if name != "stage"})
    for field in fields:
        section: Any = whole
        for name in field.split("."):
            known = isinstance(section, ConfigDict) and name in section
            require(known, f"the configuration has no field {field!r}{nearest(whole, field)}")
            section = section[name]


def nearest(config: ConfigDict, field: str) -> str:
    """Returns the end of an error message: similar names, or all known names of the section."""
    known = list(flat(config.to_dict()))
    if field.startswith("stage.") and "stage" in config:
        known = [f"stage.{stage}.{name}" for stage in config.stage for name in known]
    last = field.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(field, known, n=3, cutoff=0.75)
    if near:
        return f"; did you mean {' or '.join(dict.fromkeys(near[:3]))}?"
    names = field.split(".")
    section: Any = config
    while names and isinstance(section.get(names[0]), ConfigDict):
        section = section[names.pop(0)]
    return f"; known: {', '.join(sorted(section))}"


def check_followed(
    config: ConfigDict, before: Mapping[str, Mapping[str, Any]], fields: Iterable[str]
) -> list[str]:
    """Returns a sentence for each changed field that some stages have a value of their own for.

    Args:
      config: the experiment's configuration with the changes.
      before: `stage_fields` before the changes; a field of a stage may follow that of the
        experiment.
      fields: the dotted names of the changed fields.

    Raises:
      ConfigError: a change does nothing, because all stages that could read it have their own
        value.
    """
    now, whole = stage_fields(config), flat(config.to_dict())
    sentences = []
    for field in fields:
        own = {
            name: values[field]
            for name, values in now.items()
            if field in values
            and values[field] != whole.get(field)
            and values[field] == before.get(name, {}).get(field)
        }
        kinds = {now[name]["kind"] for name in own}
        readers = [name for name, values in now.items() if values["kind"] in kinds]
        if own:
            stages = ", ".join(f"{name} ({value!r})" for name, value in own.items())
            sentence = f"--config.{field} does not change what a stage sets for itself: {stages}"
            require(
                len(own) < len(readers),
                f"{sentence}. No stage would read it: give --config.stage.{min(own)}.{field}",
            )
            sentences.append(sentence)
    return sentences


def own_file(record: Mapping[str, Any]) -> str:
    """Returns the end of an error about a name that only a file of the user's own may define.

    Args:
      record: the configuration that a run recorded.
    """
    made_by = printable(str(record.get("code", "")).rpartition(" ")[0]) or "FILE.py"
    return (
        f"; if a configuration file of your own defines it, give --config {made_by} and the flags "
        "that the run began with"
    )


def explained(error: ConfigError, workdir: pathlib.Path) -> ConfigError:
    """Returns an error of a job without --config, with the file that may define an unknown name.

    An error about anything but a name in the run's record stays as it is.
    """
    name = re.search(r"unknown [^']*'([^']+)'", str(error))
    if name is None or "--config" in str(error):
        return error
    for path in (workdir / "config.json", workdir / "seed0" / "config.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):  # no run, or a damaged one
            record = json.loads(path.read_text())
            if isinstance(record, dict) and json.dumps(name[1]) in json.dumps(record):
                return ConfigError(f"{error}{own_file(record)}")
    return error


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a configuration as nested plain values, as if it had been read from JSON."""
    return json.loads(config.to_json_best_effort())


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested dict as one level of dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows


def only(fields: Fields, names: Sequence[str]) -> Fields:
    """Returns the fields that have one of the names or belong to a group of that name."""
    return {field: value for field, value in fields.items() if among(field, names)}


def among(field: str, names: Sequence[str]) -> bool:
    """Returns whether a dotted field has one of the names or belongs to a group of that name."""
    return any(field == name or field.startswith(f"{name}.") for name in names)
