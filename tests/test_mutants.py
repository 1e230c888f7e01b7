"""Every bug of `mutants.toml` can still be put into its module; `mutants.py` does so."""

import pathlib
import shlex

import mutants
import pytest

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
