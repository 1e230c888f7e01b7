"""Makes the examples of a data set in parallel, in parts that survive an interruption.

Worker processes are started without the current folder on their path (`python -P`), so that they
never run a `json.py` in that folder. Unlike the workers of a multiprocessing pool, they do not
import the caller's main module.
"""

import contextlib
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from rtda_jax.errors import DataError
from rtda_jax.run.files import replacing
from rtda_jax.run.log import Progress
from rtda_jax.tools import environment

PART = 16  # examples
_LONGEST_HEADER = 2**22  # bytes
_WORKER = "import sys; from rtda_jax.data.parts import main; sys.exit(main())"


class Example(NamedTuple):
    """One finished example: its key, its encoded image and its encoded label."""

    key: str
    image: bytes
    label: bytes


Maker = Callable[[Any], Iterable[Example]]


def make(
    folder: pathlib.Path,
    maker: Maker,
    arguments: dict[str, Any],
    *,
    total: int,
    what: str,
    workers: int | None = None,
) -> None:
    """Writes the examples `maker(argument)` to one file per argument, in worker processes.

    Existing parts are kept, so that an interrupted run continues.

    Args:
      folder: the folder of the parts; created if it does not exist.
      maker: a function of a module that workers can import.
      arguments: name of the part -> argument, which can be pickled.
      total: the number of examples in all parts, for the progress line.
      what: the beginning of the progress line on stderr.
      workers: the number of processes; by default one per core.

    Raises:
      DataError: a maker raised an error, or a worker died.
      OSError: names a part that could not be written, for example because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [
        (str(folder / name), arg) for name, arg in arguments.items() if not (folder / name).exists()
    ]
    progress = Progress(what, total, done=total * (len(arguments) - len(todo)) // len(arguments))
    workers = min(workers or environment.cores(), len(todo))
    try:
        if workers <= 1:
            for path, argument in todo:
                progress.add(write(path, maker(argument)))
        else:
            _run_workers(maker, [todo[n::workers] for n in range(workers)], progress, what)
    finally:
        for partial in folder.glob(".*.partial"):  # left by workers that were killed
            partial.unlink(missing_ok=True)
        progress.end()


def write(path: str | os.PathLike, examples: Iterable[Example]) -> int:
    """Writes one part atomically and returns the number of its examples.

    The file is one line of JSON, [[key, bytes of the image, bytes of the label], ...], and then
    all of these bytes.
    """
    whole = list(examples)
    header = [[e.key, len(e.image), len(e.label)] for e in whole]
    with replacing(pathlib.Path(path)) as partial, partial.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        for example in whole:
            file.write(example.image)
            file.write(example.label)
    return len(whole)


def read(path: str | os.PathLike) -> Iterator[Example]:
    """Yields the examples of a part.

    Raises:
      DataError: the file is not a part, or its size does not agree with its header.
    """
    with open(path, "rb") as file:
        line = file.readline(_LONGEST_HEADER)
        sizes = _header(line)
        rest = os.fstat(file.fileno()).st_size - len(line)
        if sizes is None or sum(image + label for _, image, label in sizes) != rest:
            raise DataError(f"{os.fspath(path)}: not a part of a data set; delete it")
        for key, image, label in sizes:
            yield Example(key, file.read(image), file.read(label))


def read_all(folder: pathlib.Path, names: Iterable[str]) -> Iterator[Example]:
    """Yields the examples of finished parts, in order."""
    for name in names:
        yield from read(folder / name)


def main() -> int:
    """Runs a worker: reads its maker and parts from stdin, reports each as a line of JSON."""
    maker, share = pickle.load(sys.stdin.buffer)
    for path, argument in share:
        try:
            report = {"done": write(path, maker(argument))}
        except DataError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return error.exit_code
        except OSError as error:
            reason = [error.errno, error.strerror or str(error), str(error.filename or path)]
            print(json.dumps({"os_error": reason}), flush=True)
            return 1
        print(json.dumps(report), flush=True)
    return 0


def _header(line: bytes) -> list[tuple[str, int, int]] | None:
    """Returns the sizes of a part's examples; None unless they are what `write` writes."""
    try:
        rows = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list):
        return None
    for row in rows:
        if not isinstance(row, list) or [type(value) for value in row] != [str, int, int]:
            return None
        if min(row[1:]) < 0:
            return None
    return [tuple(row) for row in rows]


def _run_workers(
    maker: Maker, shares: Sequence[list[tuple[str, Any]]], progress: Progress, what: str
) -> None:
    """Runs a process for each share; the first error ends all of them."""
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    counting = threading.Lock()

    def count(done: int) -> None:
        with counting:
            progress.add(done)

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(shares)) as pool:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in shares]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", _WORKER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=variables,
                )
            )
            for log in logs
        ]
        try:
            watching = [
                pool.submit(_supervise, process, pickle.dumps((maker, share)), count)
                for process, share in zip(processes, shares, strict=True)
            ]
            for future in as_completed(watching):
                future.result()
            for process, log in zip(processes, logs, strict=True):
                if process.wait():
                    log.seek(0)
                    error = log.read().decode(errors="replace")[-2000:]
                    raise DataError(
                        f"{what}: a worker process failed ({process.returncode}):\n{error}"
                    )
        finally:
            for process in processes:
                process.kill()


def _supervise(process: subprocess.Popen, task: bytes, count: Callable[[int], None]) -> None:
    """Sends a worker its task and counts the parts that it reports, until it ends."""
    assert process.stdin is not None and process.stdout is not None
    # A worker that died at once has closed the pipe; its exit code is read later.
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(task)
    for line in process.stdout:
        report = json.loads(line)
        if "error" in report:
            raise DataError(report["error"])
        if "os_error" in report:
            raise OSError(*report["os_error"])
        count(report["done"])
