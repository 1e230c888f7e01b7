"""What a run reports: metrics as JSON lines, one line a log step for people, progress and rates."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO

from rtda_jax.run.files import write_bytes
from rtda_jax.run.workdir import read_json, write_json

METRICS_FILE = "metrics.jsonl"
LEFTOVERS_FILE = "leftovers.json"

# The values of one log row by name; "step" is among them.
Metrics = Mapping[str, float]

_REDRAW_SECONDS = 0.2  # between two updates of a line on a terminal


def say(text: str = "") -> None:
    """Prints a line at once, to a terminal and to a log file alike."""
    print(text, flush=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a run that is not being written; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def truncate(path: pathlib.Path, *, after: int) -> None:
    """Drops the rows of later steps than the one a run resumes from, and a torn last line."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= after:
            lines.append(line)
    write_bytes(path, "".join(line + "\n" for line in lines).encode())


def append(path: pathlib.Path, metrics: Metrics) -> None:
    """Adds one row; values that are not finite become null, because JSON has no name for them."""
    row = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()
    }
    try:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def save_leftovers(
    path: pathlib.Path, leftovers: Mapping[str, Any], *, step: int, steps: Collection[int]
) -> None:
    """Saves the metrics since the last log row, so that a resumed run writes the same row.

    Called before the checkpoint of the step is written, which may be between two rows.

    Args:
      path: the file; it is absent as long as no checkpoint has leftovers.
      leftovers: plain values by name, see `PendingSteps.leftovers`.
      step: the step of the checkpoint.
      steps: the steps that already have a checkpoint; entries of all others are dropped.
    """
    saved = read_json(path) if path.exists() else {}
    new = {s: values for s, values in saved.items() if int(s) in steps and int(s) != step}
    if any(leftovers.values()):
        new[str(step)] = dict(leftovers)
    if new != saved:
        write_json(path, new)


def read_leftovers(path: pathlib.Path, *, step: int) -> dict[str, Any]:
    """Returns the leftovers of a checkpoint's step; empty where there are none."""
    return read_json(path).get(str(step), {}) if path.exists() else {}


def line(metrics: Metrics, *, steps: int, objective: list[str]) -> str:
    """Returns a log row for people: step, terms, discriminators, rates, speed and time left."""
    width = len(str(steps))
    parts = [f"step {metrics['step']:>{width}}/{steps}", f"loss {metrics['loss']:.3f}"]
    parts += [f"{name} {metrics[name]:.3f}" for name in objective]
    for key in metrics:
        if key.startswith("d_") and key.endswith("_accuracy_source"):
            level = key.removeprefix("d_").removesuffix("_accuracy_source")
            pair = metrics[key], metrics[f"d_{level}_accuracy_target"]
            parts.append(f"D({level}) right {pair[0]:.2f}/{pair[1]:.2f}")
    rates = f"lr {metrics['g_lr']:.2g}"
    parts.append(rates + (f"/{metrics['d_lr']:.2g}" if "d_lr" in metrics else ""))
    parts.append(f"{metrics['images_per_second']:.1f} img/s")
    parts.append(f"data {100 * metrics['data_wait']:.0f}%")
    parts.append(f"left {duration(metrics['seconds_left'])}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Returns seconds as people read them: 42s, 3m07s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


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
        """Returns the rates of the interval that ends at a step, and begins the next one."""
        seconds, steps = max(self.elapsed(), 1e-9), step - self.step
        rates = {
            "images_per_second": steps * self.images_per_step / seconds,
            "data_wait": min(self.waited / seconds, 1.0),
            "seconds_left": (self.steps - step) * seconds / max(steps, 1),
        }
        self.restart(step)
        return rates


class Progress:
    """Shows how far a job is: redrawn on a terminal, one line every quarter in a log file.

    Args:
      what: begins the line.
      total: how many items there are.
      done: how many of them an earlier run finished.
      unit: the unit of the rate.
      to: where the line goes; default stderr.
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
        now = time.monotonic()
        rate = (self.done - self.done_before) / max(now - self.start, 1e-6)
        left = (self.total - self.done) / max(rate, 1e-6)
        text = f"{self.what}: {self.done}/{self.total}  {rate:.1f} {self.unit}/s"
        text += f"  left {duration(left)}"
        if self.to.isatty():
            if now - self.drawn >= _REDRAW_SECONDS or self.done >= self.total:
                self.drawn = now
                print(f"\r{text}\x1b[K", end="", file=self.to, flush=True)
            return
        quarter = 4 * self.done // max(self.total, 1)
        if quarter > self.quarter:
            self.quarter = quarter
            print(text, file=self.to, flush=True)

    def end(self) -> None:
        """Ends the line on a terminal, so that it stays."""
        if self.to.isatty() and self.done > self.done_before:
            print(file=self.to, flush=True)
