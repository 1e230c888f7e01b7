"""Every bug of `mutants.toml` can still be put into its module, and random mutants are code."""

import pathlib
import shlex

import mutants
import pytest
import random_mutants

MUTANTS = mutants.read()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.bug}")
def test_a_bug_can_still_be_put_into_its_module(mutant):
    assert (mutants.ROOT / mutant.path).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    tests = mutants.ROOT / shlex.split(mutant.tests)[0]
    assert tests.is_file() and tests.parent == pathlib.Path(mutants.ROOT, "tests")


def test_bugs_are_chosen_by_their_words_or_drawn_by_a_seed():
    every = {"only": "", "sample": 0, "seed": 0}
    assert mutants.chosen(MUTANTS, **every) == MUTANTS
    some = mutants.chosen(MUTANTS, **{**every, "only": "adapt/step"})
    assert some and all(mutant.file == "adapt/step.py" for mutant in some)
    draws = [mutants.chosen(MUTANTS, **{**every, "sample": 5, "seed": s}) for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == len({mutant.bug + mutant.file for mutant in draws[0]}) == 5


@pytest.mark.parametrize(("code", "alive"), [(0, True), (1, False)])
def test_a_bug_survives_if_its_tests_pass_with_it(code, alive, tmp_path, monkeypatch):
    (tmp_path / "rtda_jax").mkdir()
    path = tmp_path / "rtda_jax/module.py"
    path.write_text("a = 1\nb = 2\n")
    mutant = mutants.Mutant("bug", "module.py", "b = 2", "b = 3", "tests/test_module.py")

    def pytest(tests, root):
        assert (tests, root) == ("tests/test_module.py", tmp_path)
        assert path.read_text() == "a = 1\nb = 3\n"
        return code

    monkeypatch.setattr(mutants, "pytest", pytest)
    assert mutants.survives(mutant, tmp_path) == alive
    assert path.read_text() == "a = 1\nb = 2\n"


def test_modules_with_random_mutants_and_their_tests_exist():
    for module, tests in random_mutants.tests_of().items():
        assert (mutants.ROOT / "rtda_jax" / module).is_file()
        assert all((mutants.ROOT / path).is_file() for path in tests.split())


def test_random_mutants_leave_types_and_messages_alone():
    pytest.importorskip("cosmic_ray")
    source = (
        "def f(a: int | None, *, b: float = 2.0) -> int | None:\n"
        "    if a is None:\n"
        '        raise ValueError(f"{1 + 1}" * 3)\n'
        "    return a + b\n"
    )
    lines = source.splitlines()
    changes = [
        [(old, new) for old, new in zip(lines, text.splitlines(), strict=True) if old != new]
        for text in (random_mutants.changed(source, *p) for p in random_mutants.places(source))
    ]
    assert all(len(change) == 1 for change in changes)
    assert {"".join(change[0][1].split()) for change in changes} == {
        "returna-b",
        "ifaisnotNone:",
        "ifnotaisNone:",
        "deff(a:int|None,*,b:float=3.0)->int|None:",
        "deff(a:int|None,*,b:float=1.0)->int|None:",
    }


def test_a_mutant_is_shown_by_what_changed():
    old, new = "a" * 30 + "|" + "b" * 30, "a" * 30 + "&" + "b" * 30
    shown = [random_mutants.shortened(old, new, side) for side in (0, 1)]
    assert shown == [f"…{'a' * 24}\\|{'b' * 24}…", f"…{'a' * 24}&{'b' * 24}…"]
