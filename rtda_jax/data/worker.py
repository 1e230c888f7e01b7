"""A process that makes parts of a data set; started by `parts.make`, fed a pickle on stdin.

A plain subprocess and not multiprocessing: it neither forks a process that runs TensorFlow or JAX
threads nor imports the caller's main module.
"""

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rtda_jax.data.errors import DataError


class Example(NamedTuple):
    """One finished example: key, encoded image, encoded label."""

    key: str
    image: bytes
    label: bytes


Maker = Callable[[Any], Iterable[Example]]


def write_part(maker: Maker, path: str, argument: Any) -> int:
    """Write one part whole or not at all; the number of its examples."""
    examples = [tuple(example) for example in maker(argument)]
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        pickle.dump(examples, file)
    os.replace(partial, path)
    return len(examples)


class _Plain(pickle.Unpickler):
    """Strings, bytes, lists and tuples: nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def read_part(path: str | os.PathLike) -> list[Example]:
    """The examples of a part; DataError naming it if it is not one."""
    try:
        with open(path, "rb") as file:
            return [Example(*fields) for fields in _Plain(file).load()]
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{os.fspath(path)}: not a part of a data set: {error}") from None


def main() -> int:
    """Write the parts, reporting one JSON line for each on stdout."""
    maker, jobs = pickle.load(sys.stdin.buffer)
    for path, argument in jobs:
        try:
            done = write_part(maker, path, argument)
        except DataError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return error.exit_code
        print(json.dumps({"done": done}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
