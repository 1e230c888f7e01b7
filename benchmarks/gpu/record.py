"""Writes a child's results after every part, so that a killed child leaves them."""

import json
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)


class Record:
    """The results of one section, by the names of its parts.

    Args:
      path: the JSON file.
      deadline: time.time() after which no part is begun.
    """

    def __init__(self, path: pathlib.Path, *, deadline: float) -> None:
        self.path, self.deadline = path, deadline
        self.parts: dict[str, Any] = {}
        self._lock = threading.Lock()

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """Runs one part and returns what it gives, or None where it failed or was too late.

        Any failure is recorded under the part's name and the section continues: the machine is
        available for minutes, so that the other numbers are worth more than a clean end.
        """
        if time.time() > self.deadline:
            self.set(name, {"skipped": "the time budget is spent"})
            return None
        begin = time.perf_counter()
        try:
            value = function()
        except Exception as error:  # a part that fails is recorded, and the others still run
            lines = traceback.format_exc().splitlines()
            message = f"{type(error).__name__}: {error}"[:800]
            self.set(name, {"error": message, "traceback": lines[-12:]})
            return None
        self.set(name, {"seconds_of_part": time.perf_counter() - begin, **value})
        return value

    def set(self, name: str, value: Any) -> None:
        """Stores one part and writes the file."""
        with self._lock:
            self.parts[name] = value
            write_json(self.path, self.parts)
