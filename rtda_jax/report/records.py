"""Reads files that a stranger may have written: with a size limit, and only inside the run's
folder.

Characters that do not print are removed from their content, which is checked against a schema.
"""

import io
import json
import pathlib
import reprlib
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.errors import ConfigError, printable, require
from rtda_jax.run import files
from rtda_jax.tools import drawing

NUMBER, OPTIONAL = int | float, int | float | None
LARGEST = 2**63  # absolute value of a number
DEEPEST = 64  # levels of objects and lists
MOST_BYTES = 8 << 20  # of a JSON file
MOST_PICTURE_BYTES = 32 << 20
MOST_PIXELS = 1 << 24  # of a picture: a hundred rows of what a run writes
JSON = {"dict": "object", "NoneType": "null"}  # types that have another name in JSON

Cells = Mapping[str, Sequence[np.ndarray]]


class Default(NamedTuple):
    """The schema of a field that may be absent, and its default value."""

    schema: Any
    value: Any


class Least(NamedTuple):
    """The schema of a number that has a lower bound."""

    schema: Any
    bound: float


def checked(value: Any, schema: Any, where: str, field: str = "") -> Any:
    """Returns the part of a JSON value that a schema describes.

    Args:
      schema: a type or a union of types; `[schema]` for a list; `{field: schema}` for an object,
        which may have other fields; `{...: schema}` for an object with any fields; `Default`;
        `Least`.
      where: the file, and the objects in it that contain the value.
      field: the name of the value.

    Raises:
      ConfigError: names the place, the field, and what it must be.
    """
    match schema:
        case Default():
            return checked(value, schema.schema, where, field)
        case Least(kind, bound):
            number = checked(value, kind, where, field)
            words = f"{where}: field {field!r} must be {bound} or more, found {number!r}"
            require(number >= bound, words)
            return number
        case [item]:
            items = checked(value, list, where, field)
            scalar = not isinstance(item, dict)
            names = [f"{field}[{i}]" if scalar else field for i in range(len(items))]
            return [checked(v, item, where, name) for v, name in zip(items, names, strict=True)]
        case dict():
            fields = checked(value, dict, where, field)
            inside = f"{where}: {field}" if field else where
            wanted = dict.fromkeys(fields, schema[...]) if ... in schema else schema
            return {name: _field(fields, name, kind, inside) for name, kind in wanted.items()}
    kinds = typing.get_args(schema) or (schema,)
    if type(value) not in kinds:
        names = [JSON.get(kind.__name__, kind.__name__) for kind in kinds]
        words = f"must be {' or '.join(names)}, found {reprlib.repr(value)}"
        raise ConfigError(f"{where}: field {field!r} {words}" if field else f"{where}: {words}")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise ConfigError(f"{where}: field {field!r} is too large a number")
    return value


def _field(fields: dict[str, Any], name: str, schema: Any, where: str) -> Any:
    if name in fields:
        return checked(fields[name], schema, where, name)
    if isinstance(schema, Default):
        return schema.value
    raise ConfigError(f"{where}: no field {name!r}; is this a run's record?")


def read_json(path: pathlib.Path, *, inside: pathlib.Path | None = None) -> Any:
    """Returns the content of a JSON file; a ConfigError names a file that is missing or invalid."""
    data = read(path, inside=inside, most=MOST_BYTES)
    if data is None:
        raise ConfigError(f"{path}: no such file; the job run writes it")
    return parse(str(path), data)


def read(path: pathlib.Path, *, inside: pathlib.Path | None, most: int) -> bytes | None:
    """Reads a regular file of at most `most` bytes inside a folder; None if it does not exist.

    Raises:
      ConfigError: it is no regular file, too large, unreadable, or a link that leaves the folder.
    """
    try:
        data = files.read(path, most=most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {files.reason(path, error)}") from None
    inner = inside is None or path.resolve().is_relative_to(inside.resolve())
    require(inner, f"{path}: a link that leads out of the run's folder")
    return data


def parse(where: str, data: bytes) -> Any:
    """Returns the cleaned content of a JSON text; a ConfigError names `where`."""
    try:
        # NaN and infinity are not JSON; they become null, which means that there is no value.
        value = json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    return _cleaned(value, where)


def _cleaned(value: Any, where: str, depth: int = 0) -> Any:
    require(depth <= DEEPEST, f"{where}: more than {DEEPEST} objects and lists in one another")
    match value:
        case str():
            return printable(value, limit=None)
        case dict():
            fields = {printable(k, limit=None): v for k, v in value.items()}
            return {k: _cleaned(v, where, depth + 1) for k, v in fields.items()}
        case list():
            return [_cleaned(item, where, depth + 1) for item in value]
        case _:
            return value


def read_cells(path: pathlib.Path) -> Cells:
    """Returns the images of each column of a run's predictions.png by title.

    There are none if the picture does not describe its cells.

    Raises:
      ConfigError: it is not such a picture, too large, or lacks cells that it describes.
    """
    data = read(path, inside=path.parent.parent, most=MOST_PICTURE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            sheet = Image.open(io.BytesIO(data or b""), formats=["PNG"])
        if sheet.width * sheet.height > MOST_PIXELS:
            raise ValueError(f"{sheet.width}x{sheet.height} pixels; expected at most {MOST_PIXELS}")
        sheet.load()
        return drawing.cells(sheet) or {}
    except MemoryError:  # of this process, which says nothing about the picture
        raise
    except Exception as error:  # what Pillow raises for damaged files has no common class
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from error
