"""Reads the files that runs leave and checks every field where it is read.

A file may come from a stranger. It has a limit on its size, has to be a regular file inside its
run's folder, and what it says is cleaned of characters that do not print.
"""

import io
import json
import pathlib
import reprlib
import stat
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rtda_jax.errors import ConfigError, printable
from rtda_jax.tools import drawing

NUMBER = (int, float)
OPTIONAL = (int, float, type(None))
TEXT = (str, type(None))

LARGEST = 2**63  # absolute value of a number
DEEPEST = 64  # levels of objects and lists
MOST_BYTES = 8 << 20  # of a JSON file
MOST_PICTURE_BYTES = 32 << 20
MOST_PIXELS = 1 << 24  # of a picture: a hundred rows of what a run writes

Cells = Mapping[str, Sequence[np.ndarray]]


class Record:
    """A JSON object of a file; a missing field or one of another type is an error by name."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, found {type(value).__name__}")
        self.where, self.value = where, value

    def get(self, field: str, kind: Any, *, default: Any = ...) -> Any:
        """Returns a field's value, checked to be of `kind`, or the default where it is absent."""
        if field not in self.value:
            if default is ...:
                raise ConfigError(f"{self.where}: no field {field!r}; is this a run's record?")
            return default
        value = self.value[field]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__.replace("NoneType", "null") for k in kinds)
            shown = reprlib.repr(value)
            raise ConfigError(f"{self.where}: field {field!r} must be {names}, found {shown}")
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ConfigError(f"{self.where}: field {field!r} is too large a number")
        return value

    def seconds(self, field: str) -> float:
        """Returns a field that is a duration."""
        value = self.get(field, NUMBER)
        if value < 0:
            raise ConfigError(f"{self.where}: field {field!r} must be 0 or more, found {value!r}")
        return value

    def each(self, field: str, kind: Any, **default: Any) -> list[Any]:
        """Returns a field that is a list whose values are all of one kind."""
        values = self.get(field, list, **default)
        items = Record(self.where, {f"{field}[{i}]": value for i, value in enumerate(values)})
        return [items.get(name, kind) for name in items.value]

    def child(self, field: str) -> "Record":
        """Returns a field that is an object."""
        return Record(f"{self.where}: {field}", self.get(field, dict))

    def table(self, field: str, kind: Any, **default: Any) -> dict[str, Any]:
        """Returns a field that is an object whose values are all of one kind."""
        items = Record(f"{self.where}: {field}", self.get(field, dict, **default))
        return {name: items.get(name, kind) for name in items.value}


def read_json(path: pathlib.Path, *, inside: pathlib.Path | None = None) -> Record:
    """Reads a JSON file's object; a ConfigError names the file."""
    data = read(path, inside=inside, most=MOST_BYTES)
    if data is None:
        raise ConfigError(f"{path}: No such file; a run writes it (--job=run)")
    return parse(str(path), data)


def read(path: pathlib.Path, *, inside: pathlib.Path | None, most: int) -> bytes | None:
    """Reads a regular file of at most `most` bytes that lies inside a folder; None where absent.

    Raises:
      ConfigError: it is something else, too large, unreadable, or a link that leaves the folder.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file")
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            raise ConfigError(f"{path}: a link that leads out of the run's folder")
        if status.st_size > most:
            raise ConfigError(f"{path}: {status.st_size:,} bytes; expected at most {most:,}")
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def parse(where: str, data: bytes) -> Record:
    """Returns the object that JSON text holds, cleaned; a ConfigError names `where`."""
    try:
        # NaN and infinity are no JSON; as null they mean that nothing can be said.
        value = json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    return Record(where, _cleaned(value, where))


def _cleaned(value: Any, where: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ConfigError(f"{where}: more than {DEEPEST} objects and lists in one another")
    match value:
        case str():
            return printable(value, limit=None)
        case dict():
            return {
                printable(k, limit=None): _cleaned(v, where, depth + 1) for k, v in value.items()
            }
        case list():
            return [_cleaned(item, where, depth + 1) for item in value]
        case _:
            return value


def open_sheet(path: pathlib.Path) -> Image.Image:
    """Opens a run's predictions.png; a ConfigError names one that is not or is too large."""
    data = read(path, inside=path.parent.parent, most=MOST_PICTURE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data or b""), formats=["PNG"])
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; expected at most {MOST_PIXELS}")
        image.load()
    except Exception as error:  # what Pillow raises for damaged files has no common class
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from None
    return image


def read_cells(sheet: Image.Image, path: pathlib.Path) -> Cells | None:
    """Returns the images of each of a sheet's columns by title; None of any other picture.

    Raises:
      ConfigError: it says to have cells that it does not have, naming the path.
    """
    try:
        return drawing.cells(sheet)
    # It says so in JSON, whose shape can be anything.
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from None
