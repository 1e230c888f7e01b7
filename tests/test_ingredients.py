"""The figure of the ingredients shows the scores of its file, and so does docs/results.md."""

import json
import pathlib
import statistics
import subprocess
import sys

import pytest

from benchmarks import ingredients

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCORES = json.loads((ROOT / "docs/ingredients.json").read_text())


@pytest.fixture
def runs(tmp_path):
    """A folder of `methods.py` with two rows of three seeds and one, and a file of older scores."""
    stages = {
        "adabn": {"eval_source_only": [0.3, 0.32, 0.37], "eval_adabn": [0.35, 0.35, 0.36]},
        "target_only": {"evaluate": [0.5]},
    }
    for row, found in stages.items():
        scored = {name: {"miou": {"values": values}} for name, values in found.items()}
        (tmp_path / "runs" / row).mkdir(parents=True)
        summary = {"benchmark": "streets", "stages": scored}
        (tmp_path / "runs" / row / "summary.json").write_text(json.dumps(summary))
    older = {"streets": {"adabn/eval_adabn": [1.0], "dacs/eval_student": [20.0, 22.0]}}
    (tmp_path / "scores.json").write_text(json.dumps(older))
    return tmp_path


def drawn(*words):
    command = [sys.executable, ROOT / "benchmarks/ingredients.py", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_runs_replace_the_scores_of_their_rows_only(runs):
    done = drawn(runs / "scores.json", runs / "runs")
    assert done.returncode == 0, done.stderr
    assert json.loads((runs / "scores.json").read_text()) == {
        "streets": {
            "adabn/eval_source_only": [30.0, 32.0, 37.0],
            "adabn/eval_adabn": [35.0, 35.0, 36.0],
            "target_only/evaluate": [50.0],
            "dacs/eval_student": [20.0, 22.0],
        }
    }
    figure = (runs / "scores.svg").read_text()
    spread = statistics.stdev([30, 32, 37])
    for number in (f"33.0 ± {spread:.1f}", "35.3 ± 0.6", "50.0", "21.0 ± 1.4"):
        assert f">{number}<" in figure


def test_a_folder_without_runs_is_named_and_changes_nothing(runs):
    before = (runs / "scores.json").read_text()
    done = drawn(runs / "scores.json", runs)
    assert done.returncode == 1 and f"{runs} holds no finished row" in done.stderr
    assert (runs / "scores.json").read_text() == before


@pytest.mark.parametrize("benchmark", SCORES)
def test_documents_and_figure_have_the_numbers_of_the_scores(benchmark):
    in_short, _, _ = (ROOT / "docs/results.md").read_text().partition("## Real images")
    figure = (ROOT / "docs/ingredients.svg").read_text()
    (panel,) = ingredients.panels({benchmark: SCORES[benchmark]})
    assert len(panel.lines) == len(SCORES[benchmark]), "a score that no line of the figure shows"
    for line in panel.lines:
        number = f"{line.mean:.1f} ± {line.std:.1f}" if line.std else f"{line.mean:.1f}"
        assert number in in_short, f"{benchmark}: {line.words} {number}"
        assert f">{number}<" in figure
