"""The error of the data layer."""

from rtda_jax.errors import printable


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what was expected of it.

    Names from files stand in it as they can be printed on any terminal.
    """

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(printable(line, limit=None) for line in message.split("\n")))
