"""What can go wrong by the user's hand, each with the exit code it ends the program with."""


class ConfigError(ValueError):
    """A configuration that can not be run."""

    exit_code = 2


class NotFiniteError(RuntimeError):
    """A loss or gradient that is no longer a number."""

    exit_code = 3


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the state is saved and the same command continues."""

    exit_code = 75
