"""Option dataclasses and the sections of a configuration that hold their values.

Every pure module owns a frozen dataclass of its options. That is the only place where a default
stands and where a value is validated. `section` makes a part of `configs/base.py` from such
dataclasses; `read` makes a dataclass from that part and what the user changed in it.
"""

import dataclasses
import typing
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rtda_jax.errors import ConfigError

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
            values[field.name] = _initial(_default(field), hints[field.name])
    unknown = sorted(overrides.keys() - values.keys())
    if unknown:
        raise TypeError(f"no option class has the field {unknown[0]!r}")
    return ConfigDict(values | overrides)


def read(cls: type[Options], values: Any, path: str) -> Options:
    """Returns an option dataclass with the values of a section.

    Args:
      cls: the dataclass; fields of the section that belong to another one are left alone.
      values: the section of a stage's configuration.
      path: where the section stands, such as "loss", or "" for the top; errors begin with it.

    Raises:
      ConfigError: a value has the wrong type, or the dataclass refuses it.
    """
    arguments = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{path}.{field.name}" if path else field.name
        default = _default(field)
        if dataclasses.is_dataclass(default):
            arguments[field.name] = read(type(default), values[field.name], name)
        else:
            arguments[field.name] = _plain(values[field.name], default, name)
    return cls(**arguments)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        raise TypeError(f"the option {field.name} needs a default")
    return field.default


def _initial(default: Any, hint: Any) -> Any:
    """Returns what a section holds at first, so that an override keeps the declared type."""
    if dataclasses.is_dataclass(default):
        return section(type(default))
    if default is None:
        return placeholder(_declared(hint))
    return default


def _declared(hint: Any) -> type:
    """Returns the type that a hint such as `float | None` allows besides None."""
    types = [t for t in typing.get_args(hint) if t is not type(None)]
    return typing.get_origin(types[0]) or types[0]


def _plain(value: Any, default: Any, path: str) -> Any:
    """Returns a plain value as the dataclass declares it, or says that its type is wrong."""
    if isinstance(value, ConfigDict):
        return value.to_dict()
    if isinstance(value, list):
        return tuple(value)
    if isinstance(default, tuple) and not isinstance(value, tuple):
        raise ConfigError(f"{path} must be a tuple such as {default}, got {value!r}")
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    return value
