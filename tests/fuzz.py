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
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback

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


def peak() -> int:
    """Returns the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.contextmanager
def limits(*, seconds: float = SECONDS, mebibytes: int = MEBIBYTES):
    """Raises TooMuch if the block takes more; an allocation of twice the memory fails in it."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * (mebibytes << 20), most[1]))
    begin, before = time.process_time(), peak()
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, most)
    took, grew = time.process_time() - begin, peak() - before
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


def fuzz(name: str, *, seconds: float, start: int, keep: pathlib.Path) -> None:
    """Tries one reader until its time is over; prints a line of JSON for each round."""
    from readers import READERS

    with tempfile.TemporaryDirectory() as folder:
        reader = READERS[name](pathlib.Path(folder))
        path = pathlib.Path(folder) / reader.name
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = keep / name / "trial"
        trial.parent.mkdir(parents=True, exist_ok=True)
        tried = refused = 0
        begun = peak()

        def one(data: bytes) -> None:
            nonlocal tried, refused
            path.write_bytes(data)
            trial.write_bytes(data)
            tried += 1
            refused += bool(attempt(reader.read, path))

        end, number = time.monotonic() + seconds, start
        while time.monotonic() < end:
            problem = ""
            try:
                seed(number)(ROUND(given(reader.files)(one)))()
            except Exception as error:
                digest = hashlib.sha256(trial.read_bytes()).hexdigest()[:10]
                trial.replace(trial.with_name(digest))
                problem = f"{digest}: {''.join(traceback.format_exception(error)[-4:])}"
            number += 1
            row = {"tried": tried, "refused": refused, "grew": peak() - begun, "problem": problem}
            print(json.dumps(row), flush=True)
        trial.unlink(missing_ok=True)


def watch(name: str, *, seconds: float, start: int, keep: pathlib.Path) -> tuple[dict, list[str]]:
    """Runs `fuzz` in processes of its own; returns the last row's counts and all problems."""
    command = [sys.executable, __file__, "--child", name, "--keep", str(keep)]
    problems, total = [], {"tried": 0, "refused": 0, "grew": 0}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        words = [*command, "--seconds", f"{left:.0f}", "--seed", str(start)]
        done = subprocess.run(words, capture_output=True, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        last = rows[-1] if rows else {"tried": 0, "refused": 0, "grew": 0}
        problems += [row["problem"] for row in rows if row["problem"]]
        total["grew"] = max(total["grew"], last["grew"])
        for count in ("tried", "refused"):
            total[count] += last[count]
        start += 1000
        trial = keep / name / "trial"
        if done.returncode and trial.exists():
            digest = hashlib.sha256(trial.read_bytes()).hexdigest()[:10]
            trial.replace(trial.with_name(digest))
            problems.append(f"{digest}: ended with {done.returncode}\n{done.stderr[-1500:]}")
        elif done.returncode:
            problems.append(f"the reader does not start\n{done.stderr[-1500:]}")
            break
    return total, problems


def main() -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    words.add_argument("--minutes", type=float, default=10, help="for all readers together")
    words.add_argument("--only", nargs="+", default=[], help="names of readers")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("fuzzed"))
    words.add_argument("--child", help=argparse.SUPPRESS)
    words.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.child:
        fuzz(chosen.child, seconds=chosen.seconds, start=chosen.seed, keep=chosen.keep)
        return 0
    from readers import READERS

    names = chosen.only or list(READERS)
    failed = 0
    print(f"{'reader':<16} {'files':>8} {'refused':>8} {'MiB':>6}  problems")
    for name in names:
        share = 60 * chosen.minutes / len(names)
        total, problems = watch(name, seconds=share, start=chosen.seed, keep=chosen.keep)
        counts = f"{total['tried']:>8} {total['refused']:>8} {total['grew']:>6}"
        print(f"{name:<16} {counts}  {len(problems)}")
        for problem in problems:
            print("    " + problem.replace("\n", "\n    "))
        sys.stdout.flush()
        failed += len(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
