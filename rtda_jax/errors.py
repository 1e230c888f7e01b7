"""What can go wrong by the user's hand, each with the exit code it ends the program with."""

from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A configuration that can not be run."""

    exit_code = 2


class NotFiniteError(RuntimeError):
    """A loss or gradient that is no longer a number."""

    exit_code = 3


class CheckpointError(RuntimeError):
    """A checkpoint that can not be written, or none left that can be read."""

    exit_code = 5


class NotDeterministicError(RuntimeError):
    """Two runs of the same steps that differ."""

    exit_code = 7


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the state is saved and the same command continues."""

    exit_code = 75


# What ends the program with a sentence and not with a traceback.
ERRORS = (ConfigError, NotFiniteError, CheckpointError, NotDeterministicError, Interrupted)


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry of a literal table, or a ValueError that lists the known names."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]
