"""User-facing errors and the exit code that each one ends the program with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be run."""

    exit_code = 2


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what was expected of it.

    Names from files are escaped in the message, so that any terminal can print them.
    """

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(printable(line, limit=None) for line in message.split("\n")))


class NotFiniteError(RuntimeError):
    """A loss or a gradient that is no longer a finite number."""

    exit_code = 3


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or a workdir without any readable checkpoint."""

    exit_code = 5


class NotDeterministicError(RuntimeError):
    """Two runs of the same steps that end in different states."""

    exit_code = 7


class DeviceMemoryError(RuntimeError):
    """A program that needs more memory than the device has left."""

    exit_code = 9


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; what is finished is saved and the same command continues."""

    exit_code = 75


# Errors that end the program with a message instead of a traceback.
ERRORS = (
    ConfigError,
    DataError,
    NotFiniteError,
    CheckpointError,
    NotDeterministicError,
    DeviceMemoryError,
    Interrupted,
)


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Returns the entry of a literal table.

    Args:
      table: the known names and what they stand for.
      name: the name that the user gave.
      what: what the name stands for, such as "model.name".

    Raises:
      ConfigError: the name is unknown; the message lists the known ones.
    """
    one_of(name, table, what)
    return table[name]


def one_of(name: str, known: Collection[str], what: str) -> str:
    """Returns the name if it is among the known ones, otherwise raises a ConfigError."""
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")
    return name


def require(condition: object, message: str) -> None:
    """Raises a ConfigError with the message unless the condition is true, or not empty."""
    if not condition:
        raise ConfigError(message)


def check_probability(value: float, what: str) -> None:
    """Raises a ConfigError, which says what the value is, unless it lies in [0, 1]."""
    require(0 <= value <= 1, f"{what} must be a probability, got {value:g}")


def named(names: Sequence[str], *, most: int = 3) -> str:
    """Names the first few of some files or other things, and then "..." for the others."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def printable(text: object, *, limit: int | None = 200) -> str:
    """Returns text that came from a file, such as a name, as one line that is safe to print.

    A terminal would obey control characters, so they are escaped as in a Python string. So are line
    breaks, marks that reverse the direction of writing, and bytes of a file name that are not
    UTF-8.

    Args:
      text: anything; it is converted by `str`.
      limit: the maximum length; a longer text is cut in its middle. None never cuts.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    if limit is not None and len(line) > limit:
        half = (limit - 1) // 2
        line = f"{line[: limit - 1 - half]}…{line[-half:]}" if half else f"{line[: limit - 1]}…"
    return line
