"""The one error of the data layer."""


class DataError(ValueError):
    """Data that can not be used; the message names the file and what was expected of it."""

    exit_code = 4
