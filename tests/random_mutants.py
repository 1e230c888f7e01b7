"""Random mutants: changes one operator or constant of the core and says which no test notices.

    python tests/random_mutants.py --sample 200 --seed 1 --log mutants.jsonl
    python tests/random_mutants.py --sample 200 --seed 1 --log mutants.jsonl --only optim.py:71

Cosmic-ray's operators make the mutants of the modules that `[tests]` of `mutants.toml` names, each
of them equally likely. A mutant is killed if its tests fail or take too long. The log keeps what
was found: the same command goes on where it was stopped, and tries survivors again. At the end
tests that let no mutant pass are run without one, and a Markdown table lists the survivors.
"""

import argparse
import dataclasses
import difflib
import functools
import gc
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from typing import Any

import mutants

# Replacements that a person could make. Others, such as a shift for a sum, fail everywhere.
BINARY = (
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Div",
    "FloorDiv_Mul",
    "Mod_FloorDiv",
    "Pow_Mul",
    "BitAnd_BitOr",
    "BitOr_BitAnd",
    "LShift_RShift",
    "RShift_LShift",
)
COMPARISON = (
    "Eq_NotEq",
    "NotEq_Eq",
    "Lt_LtE",
    "Lt_GtE",
    "LtE_Lt",
    "LtE_Gt",
    "Gt_GtE",
    "Gt_LtE",
    "GtE_Gt",
    "GtE_Lt",
    "Is_IsNot",
    "IsNot_Is",
)
OPERATORS = (
    *(f"ReplaceBinaryOperator_{name}" for name in BINARY),
    *(f"ReplaceComparisonOperator_{name}" for name in COMPARISON),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Not", "Invert")),
    "NumberReplacer",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "AddNot",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "ZeroIterationForLoop",
)
ARITHMETIC = {"arith_expr", "term", "expr", "and_expr", "shift_expr", "power", "factor"}
EXCEPTIONS = {"except_clause", "testlist_comp"}
# Messages are for people, and a cache or `jit` changes only the speed.
LEFT_OUT = {"fstring", "raise_stmt", "tfpdef", "import_name", "import_from", "decorator"}
HEAVY = (
    "jax",
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "ml_collections",
    "tensorflow",
    "torch",
    "hypothesis",
)
CPU_SECONDS = 300  # of one mutant's tests
# Exit codes of pytest: all tests passed, or their modules could not be imported. 1: one failed.
PASSED, INTERRUPTED = 0, 2
BROKEN = 70  # pytest itself failed


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with one changed place.

    Attributes:
      file: the module, relative to `rtda_jax/`.
      operator: a name of `OPERATORS`.
      occurrence: which of the operator's places in the module, from 0.
      line: the number of the line, from 1.
      old: the line.
      new: the line with the change.
    """

    file: str
    operator: str
    occurrence: int
    line: int
    old: str
    new: str

    @property
    def place(self) -> str:
        """The module and the line."""
        return f"{self.file}:{self.line}"


@functools.cache
def _operator(name: str) -> Any:
    from cosmic_ray.plugins import get_operator

    return get_operator(f"core/{name}")()


def changed(source: str, operator: str, occurrence: int) -> str:
    """Returns a module's text with one place changed."""
    from cosmic_ray.mutating import mutate_code

    return mutate_code(source, _operator(operator), occurrence)


def _counts(leaf: Any, operator: str) -> bool:
    """Returns whether the change of a leaf of the syntax tree is one that we draw."""
    if operator.startswith("ReplaceBinary") and leaf.parent.type not in ARITHMETIC:
        return False  # the star of f(*x) or of (a, *, b)
    if operator == "ExceptionReplacer" and leaf.parent.type not in EXCEPTIONS:
        return False  # the operator fails at a.b
    node = leaf
    while node.parent is not None:
        child, node = node, node.parent
        if node.type in LEFT_OUT or (node.type == "funcdef" and child is node.annotation):
            return False
        if node.type == "annassign" and child is node.children[1]:
            return False
    return True


def places(source: str) -> list[tuple[str, int]]:
    """Returns the operator and the occurrence of every mutant of a module's text."""
    from cosmic_ray.ast import ast_nodes, get_ast

    tree = get_ast(source)
    nodes = list(ast_nodes(tree))
    return [
        (name, occurrence)
        for name in OPERATORS
        for occurrence, (start, _) in enumerate(
            place for node in nodes for place in _operator(name).mutation_positions(node)
        )
        if _counts(tree.get_leaf_for_position(start), name)
    ]


def made(file: str, operator: str, occurrence: int) -> Mutant:
    """Returns a mutant of a module, whose name is relative to `rtda_jax/`."""
    source = (mutants.ROOT / "rtda_jax" / file).read_text()
    pairs = zip(
        source.splitlines(), changed(source, operator, occurrence).splitlines(), strict=False
    )
    line, pair = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return Mutant(file, operator, occurrence, line, *(side.strip() for side in pair))


def _compiles(row: tuple[str, str, int]) -> bool:
    """Returns whether a mutant is Python at all."""
    file, operator, occurrence = row
    source = (mutants.ROOT / "rtda_jax" / file).read_text()
    try:
        compile(changed(source, operator, occurrence), file, "exec")
    except SyntaxError:
        return False
    return True


def tests_of() -> dict[str, str]:
    """Returns the tests of each module, as arguments for pytest; the likeliest killers first."""
    return tomllib.loads(mutants.TABLE.read_text())["tests"]


def drawn(count: int, seed: int) -> list[Mutant]:
    """Returns a random sample of the mutants of all modules."""
    population = [
        (file, *place)
        for file in sorted(tests_of())
        for place in places((mutants.ROOT / "rtda_jax" / file).read_text())
    ]
    print(f"{len(population)} mutants in {len(tests_of())} modules", flush=True)
    random.Random(seed).shuffle(population)
    return [made(*row) for row in itertools.islice(filter(_compiles, population), count)]


def _child(tests: str, root: pathlib.Path, log: pathlib.Path) -> None:
    """Ends this process with the exit code of the tests."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(root)
    sys.path[0] = str(root)
    sys.argv = ["pytest"]
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    import pytest

    # Without the plugin and rewritten assertions hypothesis is not compiled again.
    options = "-n 0 -x -q --tb=no --assert=plain -p no:cacheprovider -p no:hypothesispytest"
    code = BROKEN
    try:
        code = int(pytest.main([*options.split(), *shlex.split(tests)]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def tried(tests: str, root: pathlib.Path) -> dict[str, Any]:
    """Runs tests on a copy of the repository, in a process that has imported JAX already.

    Returns:
      `killed`, the `seconds` it took, and `by`: the test that failed first, or "time".
    """
    log = root / "pytest.txt"
    process = multiprocessing.get_context("fork").Process(target=_child, args=(tests, root, log))
    start = time.monotonic()
    process.start()
    process.join(10 * CPU_SECONDS)
    seconds = round(time.monotonic() - start, 1)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return {"killed": True, "by": "time", "seconds": seconds}
    text = log.read_text(errors="replace")
    code = process.exitcode or PASSED
    if code > INTERRUPTED:
        raise RuntimeError(f"pytest {tests} could not be run:\n{text}")
    report = re.search(r"^(FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return {
        "killed": code != PASSED,
        "by": report[2] if report else f"exit code {code}",
        "seconds": seconds,
    }


def table(rows: Sequence[Mutant]) -> str:
    """Returns the mutants as a Markdown table, in the order of the modules."""
    lines = ["| place | original | mutant | reason |", "| --- | --- | --- | --- |"]
    for mutant in sorted(rows, key=lambda row: (row.file, row.line, row.new)):
        old, new = (shortened(mutant.old, mutant.new, side) for side in (0, 1))
        lines.append(f"| `{mutant.place}` | `{old}` | `{new}` |  |")
    return "\n".join(lines)


def shortened(old: str, new: str, side: int, around: int = 24) -> str:
    """Returns the changed part of one of two lines, for a cell of a table."""
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    first = blocks[0].size if blocks[0].a == blocks[0].b == 0 else 0
    last = blocks[-2].size if len(blocks) > 1 and blocks[-2].a + blocks[-2].size == len(old) else 0
    text = (old, new)[side]
    begin, end = max(first - around, 0), min(len(text) - last + around, len(text))
    shown = "…" * (begin > 0) + text[begin:end] + "…" * (end < len(text))
    return shown.replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job and returns its exit code, 1 if any mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, help="how many are drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--log", type=pathlib.Path, required=True, help="JSON lines, kept")
    parser.add_argument("--only", default="", help="try those whose place or new line has this")
    options = parser.parse_args(arguments)
    sample = drawn(options.sample, options.seed)
    options.log.touch()
    rows = [json.loads(line) for line in options.log.read_text().splitlines()]
    killed = {Mutant(**row["mutant"]) for row in rows if row.get("killed")}
    for name in HEAVY:
        try:
            __import__(name)
        except ModuleNotFoundError:
            print(f"without {name}")
    gc.freeze()  # no child walks through these modules again
    with tempfile.TemporaryDirectory() as folder, options.log.open("a", buffering=1) as log:
        root = mutants.copied(pathlib.Path(folder))
        for mutant in sample:
            if mutant in killed or options.only not in f"{mutant.place} {mutant.new}":
                continue
            tests = tests_of()[mutant.file]
            path = root / "rtda_jax" / mutant.file
            text = path.read_text()
            path.write_text(changed(text, mutant.operator, mutant.occurrence))
            try:
                outcome = tried(tests, root)
            finally:
                path.write_text(text)
            log.write(json.dumps({"mutant": dataclasses.asdict(mutant), **outcome}) + "\n")
            killed |= {mutant} if outcome["killed"] else set()
            word = "killed  " if outcome["killed"] else "SURVIVES"
            print(f"{word} {outcome['seconds']:5.1f}s {mutant.place}: {mutant.new}", flush=True)
        survivors = [mutant for mutant in sample if mutant not in killed]
        passing = {tests_of()[mutant.file] for mutant in survivors}
        for tests in sorted({tests_of()[mutant.file] for mutant in sample} - passing):
            if not options.only and tried(tests, root)["killed"]:
                print(f"{tests} fails without any mutant")
                return 2
    print(f"{len(sample) - len(survivors)} of {len(sample)} mutants are killed")
    print(table(survivors))
    return bool(survivors)


if __name__ == "__main__":
    raise SystemExit(main())
