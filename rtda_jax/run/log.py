"""What a run reports: metrics as JSON lines, a readable line for each, progress and rates."""

import contextlib
import json
import math
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rtda_jax.errors import ConfigError, printable
from rtda_jax.run import files
from rtda_jax.run.files import write_bytes

METRICS_FILE = "metrics.jsonl"
# How often the discriminator of a level is right on a domain.
ACCURACY = re.compile(r"d_(.+)_accuracy_(source|target)")

# The values of one log row by name; "step" is among them.
Metrics = Mapping[str, float]

WIDTH = 98  # columns of a line; with an indent of two it fits into 100

_LARGEST = 2**30  # bytes of a log
_WIDEST_END = ("999.9 img/s", "left 99h59m")  # of the lines of a stage
_REDRAW_SECONDS = 0.2  # between two updates of a line on a terminal
_SHORT_SECONDS = 2.0  # a job that ends within them writes no progress to a file


def say(text: str, *, to: TextIO | None = None) -> None:
    """Prints lines and flushes them, on a terminal as in a log file.

    Control characters are escaped, because names of files may contain any of them. So are
    characters that the encoding of the stream lacks.

    Args:
      text: one or several lines.
      to: the stream; by default stdout.
    """
    stream = to or sys.stdout
    text = "\n".join(printable(line, limit=None) for line in text.split("\n"))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a run; none if there is no file.

    An incomplete last line, of a run that was killed or is still being written, is left out.

    Raises:
      ConfigError: names the file and the line if another line is damaged.
    """
    rows, damaged = _rows(path)
    if damaged and damaged != [len(rows) + 1]:
        raise ConfigError(f"{path}: line {damaged[0]} is not a row of this program's log")
    return [row for _, row in rows]


def truncate(path: pathlib.Path, *, after: int) -> None:
    """Drops the rows after the step from which a run resumes, and damaged lines.

    An incomplete last line is normal after a run was killed. Other damaged lines are reported, and
    the original file is kept beside the repaired one as `metrics.jsonl.damaged`.
    """
    rows, damaged = _rows(path)
    if damaged and damaged != [len(rows) + 1]:
        aside = path.with_name(f"{path.name}.damaged")
        write_bytes(aside, _content(path))
        say(
            f"  WARNING: {path}: {len(damaged)} damaged lines, the first is line "
            f"{damaged[0]}, are dropped; the original file is kept as {aside}"
        )
    if path.exists():
        lines = [line for line, row in rows if row["step"] <= after]
        write_bytes(path, b"".join(line + b"\n" for line in lines))


def _rows(path: pathlib.Path) -> tuple[list[tuple[bytes, dict[str, Any]]], list[int]]:
    """Returns the valid lines of a log, their parsed rows, and the numbers of damaged lines."""
    rows, damaged = [], []
    lines = _content(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # bytes that are no text raise a ValueError as well
            row = None
        if isinstance(row, dict) and _is_step(row.get("step")):
            rows.append((line, row))
        else:
            damaged.append(number)
    return rows, damaged


def _content(path: pathlib.Path) -> bytes:
    try:
        return files.read(path, most=_LARGEST)
    except OSError as error:
        raise ConfigError(f"{path}: {files.reason(path, error)}") from None


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def append(path: pathlib.Path, metrics: Metrics) -> None:
    """Appends one row; values that are not finite become null, because JSON cannot express them."""
    row = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()
    }
    try:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def line(metrics: Metrics, *, steps: int, objective: Sequence[str]) -> str:
    """Returns a log row as a readable line, at most `WIDTH` columns wide.

    It always has step, loss, speed and time left. The discriminators' accuracies on source and
    target, terms, learning rates and the share of waiting follow as far as they fit. What fits is
    decided for the widest numbers, so that all lines of a stage show the same. metrics.jsonl has
    everything.
    """
    width = len(str(steps))
    start = [f"step {metrics['step']:>{width}}/{steps}", f"loss {metrics['loss']:.3f}"]
    filled = len("  ".join([start[0], max(start[1], "loss 99.999", key=len), *_WIDEST_END]))
    end = []
    if math.isfinite(metrics["images_per_second"]):
        end.append(f"{metrics['images_per_second']:.1f} img/s")
        end.append(f"left {duration(metrics['seconds_left'])}")
    more = [
        (f"D({level}) acc {source:.2f}/{target:.2f}", "")
        for level, (source, target) in accuracies(metrics).items()
    ]
    more += [(f"{name} {metrics[name]:.3f}", f"{name} 99.999") for name in objective]
    rates = [metrics[name] for name in ("g_lr", "d_lr") if name in metrics]
    widest = "lr " + "/".join(["0.00012"] * len(rates))
    more.append(("lr " + "/".join(f"{rate:.2g}" for rate in rates), widest))
    more.append((f"data {100 * metrics['data_wait']:.0f}%", "data 99%"))
    middle: list[str] = []
    for part, widest in more:
        room = 2 + max(len(part), len(widest))
        if filled + room <= WIDTH:
            filled += room
            middle.append(part)
    return "  ".join([*start, *middle, *end])


def accuracies(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """Returns how often the discriminator of each level is right, on the source and the target."""
    matches = filter(None, map(ACCURACY.fullmatch, metrics))
    levels = [match[1] for match in matches if match[2] == "source"]
    return {
        level: (metrics[f"d_{level}_accuracy_source"], metrics[f"d_{level}_accuracy_target"])
        for level in levels
    }


def duration(seconds: float) -> str:
    """Returns seconds in a readable form: 42s, 3m07s, 2h05m."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(number: int, noun: str) -> str:
    """Returns a number of things in words: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Clock:
    """Measures the wall time between two log rows and the share of it spent waiting for data."""

    def __init__(self, *, step: int, steps: int, images_per_step: int) -> None:
        self.steps = steps
        self.images_per_step = images_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins a new interval at a step."""
        self.step, self.start, self.waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def elapsed(self) -> float:
        """Returns the seconds since the interval began."""
        return time.perf_counter() - self.start

    def lap(self, step: int) -> dict[str, float]:
        """Returns the rates of the interval that ends at a step, and begins the next one.

        Speed and time left are nan in an interval without steps, such as the one after compilation.
        """
        seconds, steps = max(self.elapsed(), 1e-9), step - self.step
        rates = {
            "images_per_second": steps * self.images_per_step / seconds if steps else math.nan,
            "data_wait": min(self.waited / seconds, 1.0),
            "seconds_left": (self.steps - step) * seconds / steps if steps else math.nan,
        }
        self.restart(step)
        return rates


class Progress:
    """Shows the progress of a job: redrawn on a terminal, a line for every quarter in a log file.

    Nothing is written to a file in the first seconds, so that short jobs leave no lines.

    Args:
      what: the beginning of the line.
      total: how many items there are.
      done: how many of them an earlier run finished.
      unit: the unit of the rate.
      to: the stream; by default stderr.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, *, unit: str = "img", to: TextIO | None = None
    ) -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.to = to or sys.stderr
        self.start, self.done_before = time.monotonic(), done
        self.quarter, self.drawn = 4 * done // max(total, 1), self.start

    def add(self, count: int) -> None:
        """Counts more items as done."""
        self.done += count
        now, text = time.monotonic(), self._line()
        if self.to.isatty():
            if now - self.drawn >= _REDRAW_SECONDS or self.done >= self.total:
                self.drawn = now
                columns = shutil.get_terminal_size().columns - 1
                print(f"\r{text[:columns]}\x1b[K", end="", file=self.to, flush=True)
            return
        quarter = 4 * self.done // max(self.total, 1)
        if quarter > self.quarter:
            self.quarter = quarter
            if now - self.start >= _SHORT_SECONDS:
                print(text, file=self.to, flush=True)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-6)
        rate = (self.done - self.done_before) / seconds
        if self.done > self.total:  # the total was an estimate
            count, left = str(self.done), ""
        else:
            count = f"{self.done}/{self.total}"
            left = f"  left {duration((self.total - self.done) / max(rate, 1e-6))}"
        counts = f": {count}  {rate:.1f} {self.unit}/s{left}"
        return printable(self.what, limit=WIDTH - len(counts)) + counts

    def end(self) -> None:
        """Ends the line on a terminal, so that it stays."""
        if self.to.isatty() and self.done > self.done_before:
            print(file=self.to, flush=True)
