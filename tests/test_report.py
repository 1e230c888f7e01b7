import base64
import hashlib
import importlib
import importlib.util
import io
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from rtda_jax import evaluate, report
from rtda_jax.data import labels
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.report import compare, contents, figures, gallery, page, runs
from rtda_jax.report.published import PUBLISHED
from rtda_jax.report.published import TITLE as PUBLISHED_TITLE
from rtda_jax.run import files, log
from rtda_jax.run.files import LOCK
from rtda_jax.run.workdir import plain, write_json
from rtda_jax.tools import drawing

HEAD = class_set("cityscapes19")


def write_run(folder, name, seed, *, skill, benchmark="streets", steps=40, colour=90):
    """The records of a run whose confusion matrix is right for a share `skill` of the pixels."""
    config = importlib.import_module(f"configs.{name}").get_config(benchmark)
    config.seed, config.steps = seed, steps
    config = plain(config.lock())
    rng = np.random.default_rng([seed, int(1000 * skill)])
    stages = {}
    for stage in config["stages"]:
        overrides = config["stage"][stage]
        if overrides["kind"] == "train":
            overrides = {k: v for k, v in overrides.items() if not isinstance(v, dict)}
            stages[stage] = train_record(folder / stage, config | overrides)
        elif overrides["kind"] == "evaluate":
            confusion = rng.integers(0, 50, (19, 19))
            confusion += np.diag(rng.integers(0, 1 + int(9000 * skill), 19))
            confusion[16] = confusion[:, 16] = 0  # a class that does not occur
            validators = {"source_miou": 0.5, "entropy": 1 - skill + 0.01 * seed}
            stages[stage] = {
                **evaluation_record(confusion, config | overrides),
                "validators": validators,
            }
            image = rng.integers(0, 256, (8, 16, 3), np.uint8)
            write_sheet(folder / stage, image=image, truth=90, prediction=colour)
        else:
            stages[stage] = {"models": overrides["models"], "seconds": 1.0}
    results = {
        "config": config,
        "benchmark": benchmark,
        "seed": seed,
        "commit": "0123456789ab",
        "environment": {"python": "3.11", "packages": {"jax": "0.10"}, "devices": ["1 x cpu"]},
        "command": f"python main.py --config configs/{name}.py --config.seed={seed}",
        "stages": stages,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "results.json", results)
    return folder


def train_record(folder, config):
    names = ["seg", "adv_output"] if config["objective"]["adv_output"] else ["seg"]
    folder.mkdir(parents=True, exist_ok=True)
    steps = config["steps"]
    for step in range(steps // 4, steps + 1, steps // 4):
        row = {"step": step, "loss": 2 / step, **dict.fromkeys(names, 1 / step)}
        if "adv_output" in names:
            accuracies = {"source": 0.9 - 0.4 * step / steps, "target": 0.5}
            row |= {f"d_output_accuracy_{d}": v for d, v in accuracies.items()}
        row |= {"images_per_second": 10.0, "data_wait": 0.02, "seconds_left": 1.0}
        log.append(folder / log.METRICS_FILE, row)
    return {
        "step": steps,
        "seconds": 60.0 + config["seed"],
        "objective": " + ".join(f"1·{n}" for n in names),
        "fda_beta": config["fda_beta"],
        "networks": ["bisenet_resnet18: 12,068,672 parameters"],
    }


def evaluation_record(confusion, config):
    benchmark = config["benchmark"]
    return {
        **evaluate.report(confusion, names=HEAD.names, rows=range(19)),
        "images": 100,
        "protocol": {
            "mode": "whole",
            "input_size": benchmark["eval_size"],
            "upsampled": "logits",
            "split": benchmark["eval"],
            "classes": benchmark["eval_classes"],
            "head_classes": benchmark["classes"],
        },
        "step": config["steps"],
        "models": config["models"],
        "confusion": confusion.tolist(),
        "seconds": 3.5,
    }


def write_sheet(folder, *, image, truth, prediction):
    cells = [np.full((8, 16, 3), value, np.uint8) for value in (prediction, truth)]
    sheet = drawing.grid(
        [[image, *cells]] * 2,
        titles=["target", "prediction", "truth"],
        names=HEAD.names,
        colours=np.asarray(HEAD.colours, np.uint8),
        width=32,
    )
    drawing.save(sheet, folder / "predictions.png")


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(root / f"source_only-seed{s}", "source_only", s, skill=0.1) for s in range(3)
    ]
    folders += [write_run(root / f"fda_mbt-seed{s}", "fda_mbt", s, skill=0.4) for s in range(3)]
    folders.append(write_run(root / "target_only", "target_only", 0, skill=0.9))
    return [str(path) for path in folders]


@pytest.fixture(scope="module")
def written(workdirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report.write(workdirs, out)
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out most drawings, which take most of the time."""

    def nothing(*drawn):
        words = " ".join(str(getattr(thing, "label", thing)) for thing in drawn)
        return figures.Panel(words[:40], '<svg viewBox="0 0 9 9"></svg>', "nothing")

    for name in ("class_bars", "confusion", "training_curve", "discriminator", "validator"):
        monkeypatch.setattr(figures, name, nothing)


def series(workdirs):
    folders, _ = runs.find([str(path) for path in workdirs])
    return compare.series(runs.load_all(folders))


def board(workdirs):
    (only,) = series(workdirs)[1]
    return only


def edited(workdir, folder, change):
    """A copy of a workdir, at `folder`, whose results were changed."""
    shutil.copytree(workdir, folder)
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def same(results):
    """Change nothing."""


def contents_of(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != LOCK]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def table(text, first):
    """The rows of the Markdown table whose head begins with `first`, by their first cell."""
    lines = text[text.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()
    rows = [[cell.strip(" *") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip(): dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


# What is compared with what.


def test_scores_are_mean_and_sample_deviation_over_seeds(workdirs, written):
    values = [
        100
        * json.loads((pathlib.Path(p) / "results.json").read_text())["stages"]["evaluate"]["miou"]
        for p in workdirs[:3]
    ]
    row = table((written / "report.md").read_text(), "method")["source_only"]
    assert row["mIoU, %"] == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert [row[f"seed {s}"] for s in range(3)] == [f"{v:.1f}" for v in values]
    assert row["steps"] == "40"


def test_numbers_of_a_record_written_by_hand(tmp_path):
    """Two seeds of two classes: every number of the page follows on paper."""
    for seed, confusion in enumerate(([[60, 20], [10, 10]], [[50, 30], [0, 20]])):
        folder = write_run(tmp_path / f"hand-s{seed}", "source_only", seed, skill=0.5)
        results = json.loads((folder / "results.json").read_text())
        whole = np.zeros((19, 19), np.int64)
        whole[:2, :2] = confusion
        numbers = evaluate.report(whole, names=HEAD.names, rows=range(19))
        results["stages"]["evaluate"] |= {**numbers, "confusion": whole.tolist()}
        (folder / "results.json").write_text(json.dumps(results))
    report.write([str(tmp_path / "hand-s*")], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    # IoU 60/90 and 10/40, mean 45.83; 50/80 and 20/50, mean 51.25
    row = table(text, "method")["hand"]
    assert (row["seed 0"], row["seed 1"], row["mIoU, %"]) == ("45.8", "51.2", "48.5 ± 3.8")
    assert row["pixel accuracy, %"] == "70.0 ± 0.0"
    row = table(text, "IoU, %")["hand"]
    assert (row["road"], row["sidewalk"], row["building"]) == ("64.6", "32.5", "n/a")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<title>road: 64.6 (66.7, 62.5)</title>" in html
    # 110 of 160 pixels of road are right, and 10 of 40 of sidewalk are taken for road.
    assert "<title>road: right, 68.8% of its pixels</title>" in html
    assert "<title>sidewalk taken for road, 25.0% of its pixels</title>" in html
    assert "sidewalk: right, 75.0%" in html


def test_order_bold_oracle_and_gap(workdirs):
    rows = board(workdirs).rows
    assert rows[0].label == "source_only"
    assert rows[-1].label == "target_only"
    assert [row.oracle for row in rows] == [False] * 4 + [True]
    assert [row.source_only for row in rows] == [True] + [False] * 4
    assert board(workdirs).best(40).label == rows[-2].label
    lower, upper = board(workdirs).ends(40)
    low, here, high = (r.miou.mean for r in (lower, rows[2], upper))
    gap = board(workdirs).gap_closed(rows[2])
    assert gap == pytest.approx((here - low) / (high - low))


def row(label, miou, *, stage="evaluate", budget=40, seen=()):
    """A row of a table that has scores only."""
    planned = {stage: "evaluate"}
    stages = []
    for seed, value in enumerate(miou):
        evaluation = runs.Evaluation(value, value, {}, [], {}, {}, [], 1, budget, 1.0, None)
        run = runs.Run(f"{label}-s{seed}", {}, "b", seed, planned, evaluations={stage: evaluation})
        stages.append(compare.Stage(run, stage, "evaluate", {}, budget, frozenset(seen)))
    return compare.Series(label, stages, [], 0, 0)


IMAGES, LABELS = (compare.IMAGES,), (compare.LABELS,)


def test_the_gap_is_left_out_where_it_would_be_noise_or_of_other_steps():
    adapted = row("adv", [0.3, 0.32], seen=IMAGES)
    oracle = row("oracle", [0.5, 0.52], seen=LABELS)
    source = row("source_only", [0.1, 0.12])
    assert compare.Board("b", {}, [source, adapted, oracle]).gap_closed(adapted) == 0.5
    noisy = row("source_only", [0.0, 0.9])
    assert compare.Board("b", {}, [noisy, adapted, oracle]).gap_closed(adapted) is None
    other = row("oracle", [0.5, 0.52], seen=LABELS, budget=80)
    assert compare.Board("b", {}, [source, adapted, other]).gap_closed(adapted) is None
    assert compare.Board("b", {}, [source, oracle]).gap_closed(source) is None


def test_the_ends_are_the_only_ones_of_their_kind_or_so_called():
    plain, twin = row("source_only", [0.1]), row("focal", [0.1])
    staged = row("adabn", [0.1], stage="eval_source_only")

    def lower(*rows):
        end, _ = compare.Board("b", {}, rows).ends(40)
        return end.label if end else None

    assert lower(twin) == "focal"
    assert lower(twin, plain) == "source_only"
    assert lower(twin, twin) is None
    assert lower(twin, staged) == "adabn"
    assert lower(staged, plain) == "source_only"


def test_only_rows_of_the_same_steps_are_compared():
    short = [row("adv", [0.2, 0.21], seen=IMAGES), row("mbt", [0.22, 0.23], seen=IMAGES)]
    long = row("longer", [0.4, 0.41], seen=IMAGES, budget=80)
    found = compare.Board("b", {}, [*short, long])
    assert found.best(40).label == "mbt"
    assert found.best(80) is None  # nothing to compare it with
    assert contents._facts([found]) == [("22.5 ± 0.7", "mIoU, %: mbt, best adapted")]


def test_a_single_row_of_several_seeds_is_not_bold_nor_one_of_single_seeds(
    undrawn, workdirs, tmp_path
):
    assert compare.Board("b", {}, [row("adv", [0.2, 0.3]), row("x", [0.9])]).best(40) is None
    labelled = row("oracle", [0.9, 0.91], seen=LABELS)
    rows = [row("adv", [0.2, 0.3]), row("fda", [0.1, 0.3]), labelled]
    assert compare.Board("b", {}, rows).best(40).label == "adv"
    report.write([workdirs[0], workdirs[3], workdirs[6]], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.count("(one seed)") == 5
    assert not re.search(r"^\| \*\*", text, flags=re.MULTILINE)
    assert "±" not in text.split("Mean ±")[0]


@pytest.mark.parametrize(("name", "adapted"), [("adabn", "eval_adabn"), ("ssl", "eval_ssl")])
def test_networks_that_another_stage_made_are_no_source_only_ones(name, adapted, tmp_path):
    folder = write_run(tmp_path / name, name, 0, skill=0.4)
    rows = {row.stages[0].name: row for row in board([folder]).rows}
    assert not rows[adapted].source_only


def test_steps_are_those_behind_a_network(tmp_path):
    """Self-training has the steps of both its stages, a fusion those of one network."""
    folders = [write_run(tmp_path / n, n, 0, skill=0.4) for n in ("ssl", "fda_mbt")]
    budgets = {row.stages[0].name: row.budget for row in board(folders).rows}
    assert budgets == {
        "eval_adversarial": 40,
        "eval_ssl": 80,
        "eval_001": 40,
        "eval_005": 40,
        "eval_mbt": 40,
    }


def test_one_configuration_is_one_row_wherever_its_runs_lie(undrawn, tmp_path):
    """Also where it is a stage of a larger experiment: its own seeds count first."""
    alone = [
        write_run(tmp_path / "a" / f"adv-s{s}", "adversarial", s, skill=0.2 + s / 10)
        for s in range(2)
    ]
    inside = [write_run(tmp_path / "b" / f"aaa-s{s}", "ssl", s, skill=0.4) for s in (1, 2)]
    trained, (only,) = series([*alone, *inside])
    rows = {row.label: row for row in only.rows}
    assert set(rows) == {"adv", "aaa · eval_ssl"}
    assert [(s.run.name, s.name) for s in rows["adv"].stages] == [
        ("adv-s0", "evaluate"),
        ("adv-s1", "evaluate"),
        ("aaa-s2", "eval_adversarial"),
    ]
    assert [s.run.name for s in rows["adv"].repeats] == ["aaa-s1"]
    assert {s.label: len(s.stages) for s in trained} == {"adv": 3, "aaa · ssl": 2}
    report.write([str(path) for path in (*alone, *inside)], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    repeat = table(text, "stage")["aaa-s1 · eval_adversarial"]
    assert (repeat["method"], repeat["seed"]) == ("adv", "1")
    assert repeat["what counts, %"] == table(text, "method")["adv"]["seed 1"]
    assert repeat["its mIoU, %"] != repeat["what counts, %"]


def test_a_workdir_and_the_seeds_in_it_are_one_row(workdirs, tmp_path):
    for seed in (0, 1, 2):
        shutil.copytree(workdirs[seed], tmp_path / "mine" / f"seed{seed}")
    for name in ("results.json", "config.json", "evaluate", "train"):
        copy = shutil.copytree if "." not in name else shutil.copy
        copy(pathlib.Path(workdirs[0]) / name, tmp_path / "mine" / name)
    (tmp_path / "mine" / "summary.json").write_text("{}")
    folders, _ = runs.find([str(tmp_path / "mine"), str(tmp_path / "mine" / "seed1")])
    assert [p.name for p in folders] == ["mine", "seed0", "seed1", "seed2"]
    (only,) = board([tmp_path / "mine"]).rows
    assert only.label == "mine"
    assert [stage.run.name for stage in only.stages] == ["mine", "mine/seed1", "mine/seed2"]
    assert [stage.run.name for stage in only.repeats] == ["mine/seed0"]


def test_runs_of_other_settings_share_no_row_and_other_protocols_no_table(
    undrawn, workdirs, tmp_path
):
    def change(results):
        results["config"]["optim"]["g_lr"] = 0.5
        results["stages"]["evaluate"]["protocol"]["input_size"] = [48, 96]

    other = edited(workdirs[1], tmp_path / "edited", change)
    trained, boards = series([workdirs[0], other])
    assert len(trained) == len(boards) == 2
    assert compare.differences(trained)["optim.g_lr"] in ([0.5, 0.025], [0.025, 0.5])
    written = report.write([workdirs[0], other], tmp_path / "out")
    tags = Tags()
    tags.feed(written.read_text())
    assert {"scores-on-streets-protocol-1", "scores-on-streets-protocol-2"} <= tags.ids


def test_labels_of_different_configurations_are_distinct(undrawn, workdirs, tmp_path):
    def change(results):
        results["config"]["optim"]["g_lr"] = 0.5

    for name in ("a", "b", "c"):
        folder = tmp_path / name / "adv-s1"
        edited(workdirs[1], folder, change if name == "b" else same)
    rows = board([tmp_path / n / "adv-s1" for n in "ab"]).rows
    assert sorted(row.label for row in rows) == ["a/adv", "b/adv"]
    (only,) = board([tmp_path / n / "adv-s1" for n in "ac"]).rows
    assert (only.label, len(only.repeats)) == ("a/adv", 1)
    shutil.copytree(tmp_path / "b" / "adv-s1", tmp_path / "b" / "adv-s2")
    page = report.write([str(tmp_path / n / "adv-s*") for n in "abc"], tmp_path / "out")
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.repeated == set()
    assert {"run-a.2fadv-s1", "run-b.2fadv-s1", "run-c.2fadv-s1", "run-adv-s2"} <= tags.ids


def test_runs_of_two_versions_are_one_method_if_their_shared_fields_agree(workdirs, tmp_path):
    def older(results):
        del results["config"]["optim"]["g_momentum"]

    shutil.copytree(workdirs[0], tmp_path / "a-seed0")
    edited(workdirs[1], tmp_path / "a-seed1", older)
    edited(workdirs[2], tmp_path / "b", older)
    trained, _ = series([tmp_path / name for name in ("a-seed0", "a-seed1", "b")])
    # b is equal to one of a's runs, and agrees with the other in all that both know.
    assert [(s.label, len(s.stages), s.unshared) for s in trained] == [
        ("a", 3, ["optim.g_momentum"])
    ]
    # The same seed twice, and not the same fields: which of them would count?
    edited(workdirs[0], tmp_path / "a-s0", older)
    trained, _ = series([tmp_path / name for name in ("a-seed0", "a-s0")])
    assert [len(s.stages) for s in trained] == [1, 1]
    trained, _ = series([tmp_path / name for name in ("a-seed0", "b")])
    assert [(s.label, len(s.stages), s.unshared) for s in trained] == [("a", 1, []), ("b", 1, [])]


# What the sections say.


def test_absent_classes_are_not_zero(written):
    rows = table((written / "report.md").read_text(), "IoU, %")
    assert {row["train"] for row in rows.values()} == {"n/a"}
    assert "n/a" not in {row["road"] for row in rows.values()}


def test_an_unfinished_run_shows_what_it_has(undrawn, workdirs, tmp_path):
    partial = edited(workdirs[3], tmp_path / "run", lambda r: [r["stages"].pop("eval_mbt")])
    report.write([partial], tmp_path / "out")
    assert "not yet: eval_mbt" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("count", [2, 250])
def test_own_classes_have_their_names_and_colours(tmp_path, count):
    names = ["sea & land", "sky <2>", *(f"class {i}" for i in range(count - 2))]
    rows = [{"name": n, "colour": [i, 100, 200]} for i, n in enumerate(names)]
    classes = class_set(labels.define(rows))
    folder = write_run(tmp_path / "own", "source_only", 0, skill=0.5)
    results = json.loads((folder / "results.json").read_text())
    confusion = np.full((count, count), 100 // count) + 50 * np.eye(count, dtype=int)
    stage = results["stages"]["evaluate"]
    stage |= evaluate.report(confusion, names=classes.names, rows=range(count))
    stage["protocol"] |= {"classes": classes.name, "head_classes": classes.name}
    stage["confusion"] = confusion.tolist()
    (folder / "results.json").write_text(json.dumps(results))
    report.write([str(folder)], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<title>sea &amp; land: right," in html
    assert "sky &lt;2&gt;</li>" in html
    assert "head_classes the run&#39;s own" in html
    assert len(html) < 2_000_000


def test_scores_by_other_protocols_stand_with_their_run(undrawn, workdirs, tmp_path):
    def change(results):
        stage = results["stages"]["evaluate"]
        protocol = stage["protocol"] | {"mode": "slide"}
        stage["others"] = [
            {"miou": 0.5, "pixel_accuracy": None, "step": 20, "protocol": protocol, "models": []}
        ]

    report.write([edited(workdirs[0], tmp_path / "run", change)], tmp_path / "out")
    lines = table((tmp_path / "out" / "report.md").read_text(), "evaluation")
    line = lines["evaluate, earlier: 20 steps, mode slide"]
    assert (line["mIoU, %"], line["pixel accuracy, %"]) == ("50.0", "n/a")
    with pytest.raises(ConfigError, match="evaluate: others: no field 'miou'"):
        odd = edited(
            workdirs[0], tmp_path / "odd", lambda r: r["stages"]["evaluate"].update(others=[{}])
        )
        report.write([odd], tmp_path / "out")


def test_a_run_that_has_only_begun_is_listed(undrawn, workdirs, tmp_path):
    shutil.copytree(workdirs[3], tmp_path / "begun")
    (tmp_path / "begun" / "results.json").unlink()
    report.write([workdirs[0], str(tmp_path / "begun")], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "begun · seed 0 · commit unknown · not yet: beta_001, beta_005, eval_001" in text
    assert "2 runs, 1 method, seed 0;" in text
    report.write([str(tmp_path / "begun")], tmp_path / "alone")


def test_folders_that_a_glob_names_and_that_hold_no_run_are_named(undrawn, workdirs, tmp_path):
    shutil.copytree(workdirs[0], tmp_path / "runs" / "a")
    (tmp_path / "runs" / "bench").mkdir()
    report.write([str(tmp_path / "runs" / "*")], tmp_path / "out")
    assert "Named, but no runs: bench." in (tmp_path / "out" / "report.md").read_text()


def test_a_folder_is_taken_by_its_name_before_it_is_a_glob(workdirs, tmp_path):
    shutil.copytree(workdirs[0], tmp_path / "a[1]")
    shutil.copytree(workdirs[1], tmp_path / "a1")
    folders, _ = runs.find([str(tmp_path / "a[1]")])
    assert [path.name for path in folders] == ["a[1]"]


def naive_ranks(values):
    """Ranks from 1, ties sharing the mean of theirs, by counting."""
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)]


def test_rank_correlation_against_its_definition():
    rng = np.random.default_rng(1)
    a, b = rng.permutation(9), rng.permutation(9)
    expected = 1 - 6 * np.sum((a - b) ** 2) / (9 * (81 - 1))
    assert compare.spearman(list(zip(a, b, strict=True))) == pytest.approx(expected)
    assert compare.spearman([(1, 2), (2, 3)]) is None
    assert compare.spearman([(1, 2), (1, 3), (1, 4)]) is None
    assert compare.spearman([(1, 2), (2, 3), (3, 9)]) == pytest.approx(1)


def test_rank_correlation_with_ties():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, 30).tolist(), rng.integers(0, 4, 30).tolist()
    ranks = [naive_ranks(side) for side in (a, b)]
    assert compare.spearman(list(zip(a, b, strict=True))) == pytest.approx(
        statistics.correlation(*ranks)
    )


def test_an_entropy_that_falls_as_scores_rise_correlates_positively(workdirs):
    name, rank, count = contents.correlation("entropy", board(workdirs))
    assert (name, count) == ("entropy", "13")
    assert float(rank) > 0.5
    assert contents.correlation("source_miou", board(workdirs))[1] == "n/a"


@pytest.mark.parametrize(
    ("balanced", "words"),
    [
        (0.5, "at chance: deceived, or not learning"),
        (0.549, "at chance: deceived, or not learning"),
        (0.55, "contested"),
        (0.95, "contested"),
        (0.951, "saturated"),
    ],
)
def test_reading_of_a_discriminator(balanced, words):
    assert contents.reading(balanced) == words


def test_discriminators_are_read_from_the_last_quarter(written):
    text = (written / "report.md").read_text()
    row = table(text, "train stage")["fda_mbt · beta_001"]
    # The last of four rows: 0.9 - 0.4 on the source, 0.5 on the target.
    assert (row["source"], row["target"], row["balanced"]) == ("0.50", "0.50", "0.50")
    assert row["reads as"] == "at chance: deceived, or not learning"


def test_cost_is_measured_over_seeds(written):
    text = (written / "report.md").read_text()
    rows = table(text[text.index("## Cost") :], "train stage")
    assert rows["source_only"]["wall time"] == "1m00s to 1m02s"
    assert rows["source_only"]["images/s"] == "10.0"
    assert rows["target_only"]["wall time"] == "1m00s"
    assert text.count("| bisenet_resnet18 | 12,068,672 parameters |") == 1


def test_published_numbers_show_for_their_data_or_when_asked_and_apart(undrawn, workdirs, tmp_path):
    report.write(workdirs[:1], tmp_path / "a")
    assert PUBLISHED_TITLE not in (tmp_path / "a" / "report.md").read_text()
    report.write(workdirs[:1], tmp_path / "b", published=["nikiforos"])
    after = (tmp_path / "b" / "report.md").read_text().split(PUBLISHED_TITLE)[1]
    assert "Nikiforos, Cappello" in after
    assert "Bartoletti" not in after
    real = write_run(tmp_path / "real", "fda", 0, skill=0.3, benchmark="gta5_to_cityscapes")
    report.write([str(real)], tmp_path / "c")
    after = page.plain((tmp_path / "c" / "report.md").read_text().split(PUBLISHED_TITLE)[1])
    for name, paper in PUBLISHED.items():
        assert (page.plain(paper.title.split(",")[0]) in after) == (name != "tufl")
    for old in ("s1", "nikiforo"):
        with pytest.raises(ConfigError, match=r"unknown paper .*; known: bartoletti, brunstein"):
            report.write(workdirs[:1], tmp_path / "d", published=[old])


def test_speed_files_make_a_plot_and_are_checked(undrawn, workdirs, tmp_path):
    process = {"device": "cpu", "sizes": {"512x1024": {"rows": {"host": {"seconds": [0.2, 0.1]}}}}}
    timed = {"model": "bisenet_resnet18", "cores": 2, "infer": {"ours": [process]}}
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(timed))
    report.write(workdirs, tmp_path / "out", speeds=[str(path)])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| bisenet_resnet18 | 512x1024 | 150.0 | 6.7 | cpu, 2 cores | unknown |" in text
    assert (tmp_path / "out" / "figures" / "speed.svg").exists()
    with pytest.raises(ConfigError, match="was timed by an earlier file"):
        report.write(workdirs, tmp_path / "out", speeds=[str(path), str(path)])
    del process["sizes"]["512x1024"]["rows"]
    path.write_text(json.dumps(timed))
    with pytest.raises(ConfigError, match=r"speed\.json: infer: ours: sizes: 512x1024: no field"):
        report.write(workdirs, tmp_path / "out", speeds=[str(path)])


# Drawings and pictures.


def test_curves_are_means_over_common_steps(workdirs):
    axes = figures.Drawing(100, margins=(0, 0, 0, 0))
    training = {
        seed: runs.Training([], 1, 20, [{"step": s, "loss": seed + s} for s in steps], [])
        for seed, steps in ((1, (10, 20)), (2, (20, 30)))
    }
    stages = [
        compare.Stage(
            runs.Run(f"a-s{seed}", {}, "b", seed, {"t": "train"}, trainings={"t": made}),
            *("t", "train", {}, 20, frozenset()),
        )
        for seed, made in training.items()
    ]
    figures._line(axes, compare.Series("a", stages, [], 3, 0), "loss", colour=3)
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.axes.lines]
    assert lines == [([10, 20], [11, 21]), ([20, 30], [22, 32]), ([20], [21.5])]


def test_long_curves_are_thinned_to_the_means_of_neighbours():
    steps, values = figures._thin({step: step % 2 for step in range(1, 1601)})
    assert (len(steps), steps[0], steps[-1]) == (160, 10, 1600)
    assert set(values) == {0.5}


def test_cells_come_back_out_of_a_sheet(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 16, 3), np.uint8) for _ in "ab"] for _ in range(3)]
    colours = np.asarray(HEAD.colours, np.uint8)
    sheet = drawing.grid(rows, titles=["a", "b"], names=HEAD.names, colours=colours, width=16)
    drawing.save(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        cells = drawing.cells(image)
    assert list(cells) == ["a", "b"]
    for c, name in enumerate("ab"):
        np.testing.assert_array_equal(cells[name], [row[c] for row in rows])
    sheet.info.clear()
    drawing.save(sheet, tmp_path / "older.png")
    with Image.open(tmp_path / "older.png") as image:
        assert drawing.cells(image) is None


def test_runs_called_like_columns_of_the_gallery_replace_none(tmp_path):
    names = ("target", "truth", "prediction", "(target)")
    for i, name in enumerate(names):
        write_run(tmp_path / name, "source_only", i, skill=0.1 + i / 10, colour=100 + i)
        results = tmp_path / name / "results.json"
        record = json.loads(results.read_text())
        record["config"]["optim"]["g_lr"] = 0.1 + i  # another configuration each
        results.write_text(json.dumps(record))
        rng = np.random.default_rng(5)
        image = rng.integers(0, 256, (8, 16, 3), np.uint8)
        write_sheet(tmp_path / name / "evaluate", image=image, truth=90, prediction=100 + i)
    shown, sheets = gallery.galleries(board([tmp_path / name for name in names]))
    assert sheets is None
    columns = shown.columns
    assert [title for title, _ in columns] == ["(target)", "(truth)", *names]
    photo = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(columns[0][1][0], photo)
    assert [int(images[0][0, 0, 0]) for _, images in columns[1:]] == [90, 100, 101, 102, 103]


def test_images_of_few_colours_are_kept_exactly():
    rng = np.random.default_rng(3)
    labels = np.asarray(HEAD.colours, np.uint8)[rng.integers(0, 19, (20, 30))]
    data, ending = page.encode(labels)
    assert ending == "png"
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), labels)
    assert page.encode(rng.integers(0, 256, (40, 40, 3), np.uint8))[1] == "jpg"


# The two files.


def test_deleted_and_regenerated_it_is_equal_in_any_order(workdirs, written, tmp_path):
    before = contents_of(written)
    assert {"report.html", "report.md", "report.json"} < set(before)
    shuffled = random.Random(3).sample(workdirs, len(workdirs))
    report.write(shuffled, tmp_path)
    assert contents_of(tmp_path) == before
    globbed, _ = runs.find([str(pathlib.Path(workdirs[0]).parent / "*")])
    assert globbed == runs.find(shuffled)[0]


def test_the_committed_report_is_what_its_records_give(tmp_path):
    docs = pathlib.Path(__file__).parents[1] / "docs" / "report"
    report.write([str(docs / "runs" / "*")], tmp_path)
    # What other versions of matplotlib and of the encoders may write otherwise is left out.
    drawn = re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+|<svg.*?</svg>", flags=re.DOTALL)
    for name in ("report.md", "report.html", "report.json"):
        texts = [drawn.sub("", (folder / name).read_text()) for folder in (docs, tmp_path)]
        assert texts[0] == texts[1]
    assert sorted(p.name for p in (docs / "figures").iterdir()) == sorted(
        p.name for p in (tmp_path / "figures").iterdir()
    )
    # What drawings say does not depend on their geometry.
    says = [
        re.findall("<title>(.*?)</title>", (folder / "report.html").read_text())
        for folder in (docs, tmp_path)
    ]
    assert says[0] == says[1]
    assert len(says[0]) > 1000


class Tags(HTMLParser):
    """Checks nesting and collects what the page would load."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.repeated = [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[k] for k in ("src", "href") if k in values]
        if "id" in values and values["id"] in self.ids:
            self.repeated.add(values["id"])
        self.ids.add(values.get("id"))
        assert not any(name.startswith("on") for name in values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(written):
    text = (written / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.repeated == set()
    assert all(load.startswith(("data:", "#")) for load in tags.loads)
    links = {load[1:] for load in tags.loads if load.startswith("#")}
    assert {"method-fda_mbt:eval_mbt", "run-fda_mbt-seed1"} <= links <= tags.ids
    assert re.findall(r"https?://[^\"\s<]+", text) == []
    assert "nan" not in re.findall(r"\"(nan|inf|None)[^\"]*\"", text)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) > 12
    for svg in drawings:
        xml.etree.ElementTree.fromstring(svg)
        assert "0bad" not in svg  # an ink that was not replaced


def test_only_the_pages_own_script_may_run(written):
    text = (written / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_each_number_leads_to_its_run(written):
    text = (written / "report.html").read_text()
    line = next(part for part in text.split("<tr") if ">source_only</a>" in part)
    assert 'href="#method-source_only"' in line
    for seed in range(3):
        assert f'href="#run-source_only-seed{seed}"' in line
        details = text[text.index(f'<details id="run-source_only-seed{seed}"') :]
        command = f"python main.py --config configs/source_only.py --config.seed={seed}"
        assert command in details[: details.index("</details>")]


def test_different_words_have_different_anchors():
    words = ["a b", "a_b", "a-b", "a/b", "a.b", "A b", "a · b", "a: b", "a:b", "a.20b", "é", "e"]
    assert len({page.anchor("run", text) for text in words}) == len(words)
    assert page.anchor("method", "mbt · eval_mbt") == "method-mbt:eval_mbt"
    assert all(re.fullmatch(r"[\w:.-]+", page.anchor("x", text)) for text in words)


def test_markdown_refers_to_every_file_beside_it(written):
    text = (written / "report.md").read_text()
    beside = contents_of(written)
    named = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert named == {name for name in beside if name.startswith("figures/")}
    listed = json.loads(beside["report.json"])["files"]
    assert listed == sorted({*named, "report.md", "report.html"})
    for name in named:
        if name.endswith(".svg"):
            svg = (written / name).read_text()
            xml.etree.ElementTree.fromstring(svg)
            assert "prefers-color-scheme:dark" in svg


def test_both_files_have_the_same_tables(written):
    html = (written / "report.html").read_text()
    markdown = (written / "report.md").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    plain = [re.sub(r"<[^>]+>", "", cell) for cell in cells]
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    in_text = [cell.strip(" *") for line in lines for cell in line.strip("|").split(" | ")]
    assert [c for c in in_text if re.match(r"\d+\.\d", c)] == [
        c for c in plain if re.match(r"\d+\.\d", c)
    ]


# What it refuses, and what it leaves alone.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("stages"), r"results\.json: no field 'stages'"),
        (lambda r: r.update(seed="0"), r"results\.json: field 'seed' must be int, found '0'"),
        (
            lambda r: r["stages"]["evaluate"].pop("confusion"),
            r"results\.json: stages: evaluate: no field 'confusion'",
        ),
        (
            lambda r: r["stages"]["evaluate"]["confusion"].pop(),
            r"stages: evaluate: field 'confusion' must be 19 x 19 counts",
        ),
        (
            lambda r: r["stages"]["evaluate"]["iou"].update(road="high"),
            r"evaluate: iou: field 'road' must be int or float or null, found 'high'",
        ),
        (
            lambda r: r["stages"]["evaluate"]["protocol"].update(head_classes="mine"),
            r"protocol: field 'head_classes': unknown classes .*'mine'; known:",
        ),
        (
            lambda r: r["stages"]["evaluate"]["protocol"].update(classes="/dev/stdin.json"),
            r"protocol: field 'classes' must be classes, not a file of them",
        ),
        (lambda r: r["stages"]["train"].update(seconds=True), r"'seconds' must be int or float"),
    ],
)
def test_a_foreign_record_is_named_by_file_and_field(workdirs, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        report.write([edited(workdirs[0], tmp_path / "run", change)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_that_cannot_be_read_are_named(workdirs, tmp_path):
    with pytest.raises(ConfigError, match="nowhere finds no folder"):
        report.write([str(tmp_path / "nowhere")], tmp_path / "out")
    with pytest.raises(ConfigError, match="name the workdirs"):
        report.write([], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/results\.json: No such file"):
        report.write([str(tmp_path / "empty")], tmp_path / "out")
    torn = edited(workdirs[0], tmp_path / "torn", same)
    with (pathlib.Path(torn) / "train" / log.METRICS_FILE).open("a") as file:
        file.write('{"step": 5')
    with pytest.raises(ConfigError, match=r"train/metrics\.jsonl, line 5: not JSON"):
        report.write([torn], tmp_path / "out")


def test_only_what_an_earlier_report_wrote_is_replaced_or_removed(undrawn, workdirs, tmp_path):
    out = tmp_path / "paper"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "thesis.svg").write_text("mine")
    (out / "notes.md").write_text("mine")
    report.write(workdirs[:1], out)
    earlier = contents_of(out)
    assert "figures/gallery-source-only.png" in earlier
    report.write([workdirs[3]], out)
    now = contents_of(out)
    assert "figures/gallery-fda-mbt-eval-mbt.png" in now
    assert "figures/gallery-source-only.png" not in now
    assert now["report.md"] != earlier["report.md"]
    assert (now["figures/thesis.svg"], now["notes.md"]) == (b"mine", b"mine")


@pytest.mark.parametrize(
    "name", ["report.md", "report.html", "report.json", "figures/curve-loss.svg"]
)
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} is not an earlier report's"):
        report._replace(
            tmp_path, dict.fromkeys(("figures/curve-loss.svg", "report.html", "report.md"), b"new")
        )
    assert contents_of(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    "listed", ["../mine.svg", "/etc/passwd", "figures/../mine.svg", "mine.svg", "figures/link.svg"]
)
def test_the_list_of_an_earlier_report_reaches_nothing_else(tmp_path, listed):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for path in (tmp_path / "mine.svg", out / "mine.svg"):
        path.write_text("mine")
    (out / "figures" / "link.svg").symlink_to(tmp_path / "mine.svg")
    (out / "figures" / "old.svg").write_text("old")
    (out / "report.json").write_text(json.dumps({"files": [listed, "figures/old.svg"]}))
    report._replace(out, {"figures/new.svg": b"new"})
    assert not (out / "figures" / "old.svg").exists()
    for path in (tmp_path / "mine.svg", out / "mine.svg", out / "figures" / "link.svg"):
        assert path.read_text() == "mine"


def test_a_folder_of_figures_that_lies_elsewhere_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "photos")
    (tmp_path / "out" / "report.json").write_text(json.dumps({"files": ["figures/a.png"]}))
    with pytest.raises(ConfigError, match="figures is a link to elsewhere"):
        report._replace(tmp_path / "out", {"report.md": b"new"})
    assert (tmp_path / "photos" / "a.png").read_text() == "mine"


def test_an_interrupted_report_can_be_written_again(tmp_path, monkeypatch):
    write, parts = files.write_bytes, {"report.md": b"1", "figures/a.svg": b"2"}
    report._replace(tmp_path, {"figures/b.svg": b"0"})

    def full(path, data):
        if path.name == "report.md":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left .*report\.md"):
        report._replace(tmp_path, parts)
    monkeypatch.setattr(files, "write_bytes", write)
    report._replace(tmp_path, parts)
    assert contents_of(tmp_path).keys() == {*parts, "report.json"}


def test_a_failed_report_leaves_the_earlier_one(undrawn, workdirs, tmp_path):
    report.write(workdirs[:1], tmp_path / "out")
    before = contents_of(tmp_path / "out")
    broken = edited(workdirs[0], tmp_path / "run", lambda r: r.pop("seed"))
    with pytest.raises(ConfigError, match="no field 'seed'"):
        report.write([broken], tmp_path / "out")
    assert contents_of(tmp_path / "out") == before


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_a_sentence(workdirs, tmp_path, monkeypatch, library):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == library else find(n))
    with pytest.raises(ConfigError, match=rf"needs {library}: pip install 'rtda_jax\[report\]'"):
        report.write(workdirs[:1], tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "code", "words"), [(["WORKDIR"], 0, "report.html"), ([], 2, "runs")]
)
def test_the_job_reports_and_its_exit_code(workdirs, tmp_path, more, code, words):
    main = pathlib.Path(__file__).parents[1] / "main.py"
    paths = [workdirs[0] if word == "WORKDIR" else word for word in more]
    done = subprocess.run(
        [sys.executable, str(main), "--job=report", f"--output={tmp_path / 'out'}", *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert (tmp_path / "out" / "report.html").exists() == (code == 0)
