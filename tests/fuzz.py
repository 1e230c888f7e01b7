"""Feeds mutilated files to the readers of files from elsewhere, for as long as one likes.

    python tests/fuzz.py --minutes 10                 every reader for an equal share
    python tests/fuzz.py --minutes 1 --only pth npz

Each reader runs in a process of its own. Fails: any exception that the program would not print as a
sentence, more than `SECONDS` of work, more than `MEBIBYTES` of memory, and whatever ends the
process. The file that did it, made as small as Hypothesis can, is kept below --keep; once it is
mended, it belongs into tests/corpus, which `tests/test_fuzz.py` reads again.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import json
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
import traceback
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from rtda_jax.errors import ERRORS

SECONDS = 5  # of work that reading one file may take
MEBIBYTES = 500  # of memory that reading one file may take
HANG = 60  # seconds, by the clock, after which a reader hangs

ROUND = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
)


class TooMuch(Exception):
    """A file that costs more time or memory than it may."""


def memory(name: str) -> int:
    """Returns a size of this process in MiB: VmRSS now, VmHWM at most since it was reset."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) >> 10


@contextlib.contextmanager
def limits(*, seconds: float = SECONDS, mebibytes: int = MEBIBYTES):
    """Raises TooMuch if the block takes more; an allocation of twice the memory fails in it."""
    most = resource.getrlimit(resource.RLIMIT_AS)
    size = (memory("VmSize") + 2 * mebibytes) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, most[1]))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    begin, before = time.process_time(), memory("VmRSS")
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, most)
    took, grew = time.process_time() - begin, memory("VmHWM") - before
    if took > seconds or grew > mebibytes:
        raise TooMuch(f"{took:.1f} s and {grew} MiB")


def attempt(read, path: pathlib.Path, **bounds) -> str:
    """Reads a file within limits; returns the sentence that refuses it, or "" if it is read."""
    sentence = ""
    with limits(**bounds):
        try:
            read(path)
        except (*ERRORS, SystemExit) as error:
            sentence = f"{type(error).__name__}: {error}"
            if any(isinstance(cause, MemoryError) for cause in causes(error)):
                raise TooMuch(f"an allocation failed: {sentence}") from None
    return sentence


def causes(error: BaseException | None):
    """Yields an error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fuzz(name: str, folder: pathlib.Path, *, seconds: float, start: int) -> None:
    """Tries one reader until its time is over; writes a line of JSON to `rows` for each round."""
    from readers import READERS

    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    trial, tried, refused, most = folder / "trial", 0, 0, 0
    with tempfile.TemporaryDirectory() as place, (folder / "rows").open("w") as rows:
        reader = READERS[name](pathlib.Path(place))
        path = pathlib.Path(place) / reader.name
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = memory("VmRSS")

        def one(data: bytes) -> None:
            nonlocal tried, refused, most
            path.write_bytes(data)
            trial.write_bytes(data)
            tried += 1
            refused += bool(attempt(reader.read, path))
            most = max(most, memory("VmHWM"))

        end, number = time.monotonic() + seconds, start
        while time.monotonic() < end:
            problem = ""
            try:
                seed(number)(ROUND(given(reader.files)(one)))()
            except Exception as raised:
                # Hypothesis wraps an error that does not come again, such as a peak of memory.
                error = next(iter(getattr(raised, "exceptions", ())), raised)
                places = "".join(traceback.format_tb(error.__traceback__)[-3:])
                problem = f"{keep(trial)}: {type(error).__name__}: {error}\n{places}"
            number += 1
            row = {"tried": tried, "refused": refused, "grew": most - begun, "problem": problem}
            print(json.dumps(row), file=rows, flush=True)
    trial.unlink(missing_ok=True)


def keep(trial: pathlib.Path) -> str:
    """Gives a file that failed a name of its own, and returns it."""
    name = hashlib.sha256(trial.read_bytes()).hexdigest()[:10]
    trial.replace(trial.with_name(name))
    return name


def watch(name: str, folder: pathlib.Path, *, seconds: float, start: int) -> dict[str, Any]:
    """Runs `fuzz` in processes of its own; returns how much they tried, and all problems."""
    folder.mkdir(parents=True, exist_ok=True)
    total: dict[str, Any] = {"tried": 0, "refused": 0, "grew": 0, "problems": []}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        options = {"seconds": left, "start": start}
        child = multiprocessing.get_context("fork").Process(
            target=fuzz, args=(name, folder), kwargs=options
        )
        (folder / "rows").unlink(missing_ok=True)
        child.start()
        child.join()
        rows = [json.loads(line) for line in (folder / "rows").read_text().splitlines()]
        total["problems"] += [row["problem"] for row in rows if row["problem"]]
        for row in rows[-1:]:
            total["tried"] += row["tried"]
            total["refused"] += row["refused"]
            total["grew"] = max(total["grew"], row["grew"])
        start += 1000
        if child.exitcode:
            said = (folder / "stderr").read_text(errors="replace")[-1500:]
            if not (folder / "trial").exists():
                total["problems"].append(f"the reader does not start\n{said}")
                break
            name_of = keep(folder / "trial")
            total["problems"].append(f"{name_of}: ended with {child.exitcode}\n{said}")
    return total


def main() -> int:
    """Fuzzes the readers that the command line names; returns 1 if a file failed."""
    from readers import READERS

    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--minutes", type=float, default=10, help="for all readers together")
    words.add_argument("--only", nargs="+", default=list(READERS), choices=READERS)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("fuzzed"))
    chosen = words.parse_args()
    share, failed = 60 * chosen.minutes / len(chosen.only), False
    print(f"{'reader':<16} {'files':>8} {'refused':>8} {'MiB':>6}  problems")
    for name in chosen.only:
        total = watch(name, chosen.keep / name, seconds=share, start=chosen.seed)
        problems = total["problems"]
        counts = f"{total['tried']:>8} {total['refused']:>8} {total['grew']:>6}"
        print(f"{name:<16} {counts}  {len(problems)}", flush=True)
        for problem in problems:
            print("    " + problem.replace("\n", "\n    "), flush=True)
        failed = failed or bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
