"""Mutation job: puts known one-line bugs into a copy of the package and says which no test catches.

    python tests/mutants.py                    all of them, one after the other
    python tests/mutants.py --only adapt/step  those whose file or bug has these words
    python tests/mutants.py --sample 20 --seed 3

The bugs stand in `mutants.toml`. A bug is caught if its tests fail with it and pass without it.
Exits with 1 if any bug survives, and with 2 if its tests fail without it.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).parents[1]
TABLE = pathlib.Path(__file__).with_name("mutants.toml")
PARTS = ("rtda_jax", "configs", "tests", "main.py", "pyproject.toml")
PASSED, FAILED = 0, 1  # exit codes of pytest


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bug that a maintainer could make.

    Attributes:
      bug: what is wrong then, in a few words.
      file: the module, relative to `rtda_jax/`.
      old: a text that occurs exactly once in the module.
      new: what replaces it.
      tests: arguments for pytest, such as a file of `tests/` and `-k`.
    """

    bug: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def path(self) -> pathlib.Path:
        """The module, relative to the root of the repository."""
        return pathlib.Path("rtda_jax", self.file)


def read(path: pathlib.Path = TABLE) -> list[Mutant]:
    """Returns all mutants of the table."""
    return [Mutant(**row) for row in tomllib.loads(path.read_text())["mutant"]]


def chosen(mutants: Iterable[Mutant], *, only: str, sample: int, seed: int) -> list[Mutant]:
    """Returns the mutants whose file or bug contains `only`, or a random sample of them."""
    matching = [mutant for mutant in mutants if only in f"{mutant.file} {mutant.bug}"]
    if not 0 < sample < len(matching):
        return matching
    return random.Random(seed).sample(matching, sample)


def pytest(tests: str, root: pathlib.Path) -> int:
    """Returns the exit code of the tests on a copy of the repository."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *shlex.split(tests)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode not in (PASSED, FAILED):
        print(result.stdout)
    return result.returncode


def copied(root: pathlib.Path) -> pathlib.Path:
    """Copies what the tests need into an empty folder and returns it."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, root / part)
    return root


def survives(mutant: Mutant, root: pathlib.Path) -> bool:
    """Returns whether the tests of a mutant pass although its bug is in the copy."""
    path = root / mutant.path
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return pytest(mutant.tests, root) == PASSED
    finally:
        path.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="words of a file or a bug")
    parser.add_argument("--sample", type=int, default=0, help="how many are drawn; default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args(arguments)
    mutants = chosen(read(), only=options.only, sample=options.sample, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = copied(pathlib.Path(folder))
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if pytest(tests, root) != PASSED:
                print(f"{tests} fails without any bug")
                return 2
        survivors = []
        for mutant in mutants:
            alive = survives(mutant, root)
            survivors += [mutant] if alive else []
            print(f"{'SURVIVES' if alive else 'caught  '}  {mutant.file}: {mutant.bug}", flush=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} bugs are caught")
    return bool(survivors)


if __name__ == "__main__":
    raise SystemExit(main())
