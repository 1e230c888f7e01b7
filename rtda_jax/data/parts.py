"""Making the examples of a data set in parallel, in parts that survive an interruption."""

import contextlib
import json
import os
import pathlib
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from rtda_jax.data import worker
from rtda_jax.data.errors import DataError
from rtda_jax.data.worker import Maker
from rtda_jax.run.log import Progress

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
    progress = Progress(what, total, done=total * (len(arguments) - len(todo)) // len(arguments))
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
    lines: queue.Queue[tuple[_Running, str | None]] = queue.Queue()
    running = [_start(environment, lines) for _ in range(workers)]
    try:
        for number, one in enumerate(running):
            # A worker that died at once closed its end; what it said is told below.
            with contextlib.suppress(BrokenPipeError), one.stdin:
                one.stdin.write(pickle.dumps((maker, todo[number::workers])))
        left = workers
        while left:
            one, line = lines.get()
            if line is None:
                left -= 1
                _finish(one, what)
                continue
            report = json.loads(line)
            if "error" in report:
                raise DataError(report["error"])
            progress.add(report["done"])
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
            one.listener.join()
            one.stdout.close()
            one.stderr.close()
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)
        progress.end()


def examples(folder: pathlib.Path, names: Iterable[str]) -> Iterator[worker.Example]:
    """The examples of finished parts, in order."""
    for name in names:
        yield from worker.read_part(folder / name)


def drop(folder: pathlib.Path) -> None:
    """Remove parts that are no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


class _Running(NamedTuple):
    """A worker process, its ends of the pipes, the file of its complaints, and who listens."""

    process: subprocess.Popen
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    listener: threading.Thread


def _start(environment: dict[str, str], lines: queue.Queue) -> _Running:
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 closed by make
    process = subprocess.Popen(
        [sys.executable, "-m", "rtda_jax.data.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None

    def listen() -> None:
        for line in one.stdout:
            lines.put((one, line.decode()))
        lines.put((one, None))

    listener = threading.Thread(target=listen, daemon=True)
    one = _Running(process, process.stdin, process.stdout, complaints, listener)
    listener.start()
    return one


def _finish(one: _Running, what: str) -> None:
    """Nothing more comes from this worker; DataError with its complaints if it failed."""
    if one.process.wait():
        one.stderr.seek(0)
        complaint = one.stderr.read().decode(errors="replace")[-2000:]
        raise DataError(f"{what}: a worker process failed ({one.process.returncode}):\n{complaint}")
