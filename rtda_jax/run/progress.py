"""How far a long job is: count, rate and time left, on a terminal and in a log file."""

import sys
import time
from typing import TextIO

from rtda_jax.run.records import duration

_EVERY = 0.2  # seconds between two rewrites on a terminal


class Progress:
    """A line that is rewritten on a terminal, and written every quarter otherwise.

    Args:
      what: begins the line.
      total: how many there are.
      done: how many of them an earlier run finished.
      unit: of the rate.
      to: where it goes; default stderr.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, *, unit: str = "img", to: TextIO | None = None
    ) -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.to = to or sys.stderr
        self.begin, self.before, self.shown = time.monotonic(), done, 4 * done // max(total, 1)
        self.last = self.begin

    def add(self, count: int) -> None:
        """Count some more as done."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self.before) / max(now - self.begin, 1e-6)
        left = (self.total - self.done) / max(rate, 1e-6)
        line = f"{self.what}: {self.done}/{self.total}  {rate:.1f} {self.unit}/s"
        line += f"  left {duration(left)}"
        if self.to.isatty():
            if now - self.last >= _EVERY or self.done >= self.total:
                self.last = now
                print(f"\r{line}\x1b[K", end="", file=self.to, flush=True)
            return
        quarter = 4 * self.done // max(self.total, 1)
        if quarter > self.shown:
            self.shown = quarter
            print(line, file=self.to, flush=True)

    def end(self) -> None:
        """Leave the line behind."""
        if self.to.isatty() and self.done > self.before:
            print(file=self.to, flush=True)
