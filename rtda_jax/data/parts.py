"""Making the examples of a data set in parallel, in parts that survive an interruption."""

import json
import os
import pathlib
import pickle
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rtda_jax.data import worker
from rtda_jax.data.errors import DataError
from rtda_jax.data.worker import Maker

PART = 16  # examples


def make(
    folder: pathlib.Path,
    maker: Maker,
    arguments: dict[str, Any],
    *,
    total: int,
    what: str,
    workers: int | None = None,
) -> None:
    """Let worker processes write `maker(argument)` to `folder/name` for each name.

    Parts that are already there are kept, so an interrupted run continues.

    Args:
      folder: of the parts; made if need be.
      maker: a function of a module; argument -> examples.
      arguments: part name -> argument, picklable.
      total: examples in all parts, for the progress line.
      what: begins the progress line on stderr.
      workers: processes; default one per core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [
        (str(folder / name), arg) for name, arg in arguments.items() if not (folder / name).exists()
    ]
    progress = _Progress(what, total, done=total * (len(arguments) - len(todo)) // len(arguments))
    workers = min(workers or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        for path, argument in todo:
            progress.add(worker.write_part(maker, path, argument))
        progress.end()
        return
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "rtda_jax.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for _ in range(workers)
    ]
    try:
        for number, process in enumerate(running):
            process.stdin.write(pickle.dumps((maker, todo[number::workers])))  # type: ignore[union-attr]
            process.stdin.close()  # type: ignore[union-attr]
            threading.Thread(target=_listen, args=(number, process, lines), daemon=True).start()
        left = workers
        while left:
            number, line = lines.get()
            if line is None:
                left -= 1
                _finish(running[number], what)
                continue
            report = json.loads(line)
            if "error" in report:
                raise DataError(report["error"])
            progress.add(report["done"])
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                pipe.close()  # type: ignore[union-attr]
        progress.end()


def examples(folder: pathlib.Path, names: Iterable[str]) -> Iterator[worker.Example]:
    """The examples of finished parts, in order."""
    for name in names:
        with open(folder / name, "rb") as file:
            yield from (worker.Example(*fields) for fields in pickle.load(file))


def drop(folder: pathlib.Path) -> None:
    """Remove parts that are no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _listen(number: int, process: subprocess.Popen, lines: queue.Queue) -> None:
    for line in process.stdout:  # type: ignore[union-attr]
        lines.put((number, line.decode()))
    lines.put((number, None))


def _finish(process: subprocess.Popen, what: str) -> None:
    complaint = process.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
    if process.wait():
        raise DataError(
            f"{what}: a worker process failed ({process.returncode}):\n{complaint[-2000:]}"
        )


class _Progress:
    """A line that is rewritten on a terminal, and written every quarter otherwise."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.done = what, total, done
        self.begin, self.before, self.shown = time.monotonic(), done, -1

    def add(self, count: int) -> None:
        self.done += count
        quarter = 4 * self.done // max(self.total, 1)
        if not sys.stderr.isatty() and quarter == self.shown:
            return
        self.shown = quarter
        rate = (self.done - self.before) / max(time.monotonic() - self.begin, 1e-6)
        left = (self.total - self.done) / max(rate, 1e-6)
        line = f"{self.what}: {self.done}/{self.total}, {rate:.0f}/s, {left:.0f} s left"
        end = "" if sys.stderr.isatty() else "\n"
        print(f"\r{line}   " if not end else line, end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if sys.stderr.isatty() and self.shown >= 0:
            print(file=sys.stderr, flush=True)
