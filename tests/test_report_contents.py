import json
import pathlib
import shutil
import statistics

import numpy as np
import pytest
from PIL import Image
from run_records import HEAD, board, edited, table, write_run, write_sheet

from rtda_jax import evaluate, report
from rtda_jax.data import labels
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.report import accounts, compare, contents, page, runs
from rtda_jax.stages import validation
from rtda_jax.tools import drawing


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


def test_a_run_that_was_evaluated_without_labels_shows_what_it_has(tmp_path):
    folder = write_run(tmp_path / "own", "source_only", 0, skill=0.5)
    results = json.loads((folder / "results.json").read_text())
    nothing = np.zeros((19, 19), np.int64)
    numbers = evaluate.report(nothing, names=HEAD.names, rows=range(19))
    results["stages"]["evaluate"] |= {**numbers, "confusion": nothing.tolist()}
    (folder / "results.json").write_text(json.dumps(results))
    sheet = folder / "evaluate" / "predictions.png"
    image = np.full((8, 16, 3), 90, np.uint8)
    titles = ["target", "prediction"]
    drawing.save(drawing.grid([[image, image]], titles=titles, names=(), colours=[]), sheet)
    report.write([str(folder)], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert table(text, "method")["own"]["mIoU, %"] == "n/a (one seed)"
    assert "rank correlation" not in text and "confusion-own" not in text
    titles = [title for title, _ in contents.gallery(board([folder])).columns]
    assert titles == ["(target)", "own"]


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
        own = labels.define([{"name": n, "ids": [i]} for i, n in enumerate(("road", "sky"))])
        protocol = stage["protocol"] | {"mode": "slide", "classes": own}
        stage["others"] = [
            {"miou": 0.5, "pixel_accuracy": None, "step": 20, "protocol": protocol, "models": []}
        ]

    report.write([edited(workdirs[0], tmp_path / "run", change)], tmp_path / "out")
    lines = table((tmp_path / "out" / "report.md").read_text(), "evaluation")
    line = lines["evaluate, earlier: 20 steps, classes the run's own (road, sky), mode slide"]
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


def test_an_entropy_that_falls_as_scores_rise_correlates_positively(workdirs):
    name, rank, count = contents.correlation("entropy", board(workdirs))
    assert (name, count) == ("entropy", "13")
    assert float(rank) > 0.5
    assert contents.correlation("source_miou", board(workdirs))[1] == "n/a"


@pytest.mark.parametrize(
    ("name", "rises"),
    [
        ("source_miou", True),
        ("entropy", False),
        ("information_maximisation", True),
        ("nuclear_norm", True),
        ("masked_agreement", True),
    ],
)
def test_every_validator_correlates_in_its_own_direction(name, rises):
    scores = [0.1, 0.4, 0.2, 0.3]
    rows = []
    for number, score in enumerate(scores):
        values = {name: score if rises else -score, "other": 0.0}
        evaluation = runs.Evaluation(score, score, {}, [], {}, values, [], 1, 40, 1.0, None)
        run = runs.Run(f"r{number}", {}, "b", 0, {}, evaluations={"evaluate": evaluation})
        stage = compare.Stage(run, "evaluate", {}, 40, frozenset())
        rows.append(compare.Series(f"r{number}", [stage], [], 0, 0))
    assert contents.correlation(name, compare.Board("b", {}, rows)) == (name, "+1.00", "4")
    known = {validation.SOURCE, validation.MASKED, *validation.VALIDATORS}
    assert set(contents.DIRECTION) == known


def test_own_validators_are_shown_as_they_are_and_not_ranked(undrawn, workdirs, tmp_path):
    def add(results):
        validators = results["stages"]["evaluate"]["validators"]
        validators |= {"mean_max": 0.0993, "own_miou": 0.25, "source_images": 100}

    paths = [edited(path, tmp_path / pathlib.Path(path).name, add) for path in workdirs[:3]]
    report.write(paths, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    row = table(text, "method | source_miou | entropy")["source_only"]
    assert (row["mean_max"], row["own_miou"]) == ("0.099 ± 0.000", "0.250 ± 0.000")
    assert set(table(text, "validator")) == {"source_miou", "entropy"}
    assert "source_images" not in text
    assert "nothing says whether they rise or fall" in text
    shown = contents.WORDS["own_validators"]
    report.write([str(workdirs[0])], tmp_path / "shipped")
    assert shown not in (tmp_path / "shipped" / "report.md").read_text()

    def flood(results):
        results["stages"]["evaluate"]["validators"] = {f"v{i}": 0.1 for i in range(17)}

    path = edited(workdirs[0], tmp_path / "flood", flood)
    with pytest.raises(ConfigError, match="stages: evaluate: more than 16 validators"):
        report.write([path], tmp_path / "none")


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
    assert accounts.PUBLISHED not in (tmp_path / "a" / "report.md").read_text()
    report.write(workdirs[:1], tmp_path / "b", published=["nikiforos"])
    after = (tmp_path / "b" / "report.md").read_text().split(accounts.PUBLISHED)[1]
    assert "Nikiforos, Cappello" in after
    assert "Bartoletti" not in after
    real = write_run(tmp_path / "real", "fda", 0, skill=0.3, benchmark="gta5_to_cityscapes")
    report.write([str(real)], tmp_path / "c")
    after = page.plain((tmp_path / "c" / "report.md").read_text().split(accounts.PUBLISHED)[1])
    for name, paper in accounts.papers().items():
        assert (page.plain(paper["title"].split(",")[0]) in after) == (name != "tufl")
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
    columns = contents.gallery(board([tmp_path / name for name in names])).columns
    assert [title for title, _ in columns] == ["(target)", "(truth)", *names]
    photo = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(columns[0][1][0], photo)
    assert [int(images[0][0, 0, 0]) for _, images in columns[1:]] == [90, 100, 101, 102, 103]
