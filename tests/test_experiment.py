import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
from helpers import folder_config, write_workdir
from PIL import Image

from configs import base
from rtda_jax import experiment, report
from rtda_jax.data import DataError, batches
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import networks
from rtda_jax.errors import ConfigError, Interrupted
from rtda_jax.run import parallel
from rtda_jax.run.workdir import lock, read_json, write_json
from rtda_jax.stages import KINDS
from rtda_jax.stages import evaluate as evaluate_stage
from rtda_jax.stages import statistics as statistics_stage
from rtda_jax.stages.plan import make_plan

pytestmark = pytest.mark.usefixtures("tiny_networks")

MAIN = pathlib.Path(__file__).parents[1] / "main.py"


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return experiment.run(folder_config(root).lock(), workdir), workdir


def test_stages_run_in_order_and_results_gather_them(finished):
    results, workdir = finished
    assert results == json.loads((workdir / "results.json").read_text())
    assert list(results["stages"]) == ["beta_001", "beta_005", "eval_001", "eval_005", "eval_mbt"]
    assert {"config", "benchmark", "seed", "commit", "environment", "stages"} <= set(results)
    fused = results["stages"]["eval_mbt"]
    assert {"miou", "iou", "pixel_accuracy", "protocol", "step"} <= set(fused)
    assert fused["step"] == 3
    assert fused["images"] == 4
    assert fused["pixels"] == 4 * 40 * 80
    assert len(fused["iou"]) == 19
    assert fused["iou"]["train"] is None or 0 <= fused["iou"]["train"] <= 1
    confusion = np.array(fused["confusion"])
    assert confusion.sum() == fused["pixels"]
    assert (confusion.sum(1) > 0).sum() == 6
    for train in ("beta_001", "beta_005"):
        rows = (workdir / train / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]


def test_the_picture_grid_has_five_columns(finished):
    picture = Image.open(finished[1] / "eval_mbt" / "predictions.png")
    assert picture.width > 5 * 80  # the images are shown at their own size
    assert picture.height > 2 * 40
    assert len(picture.getcolors(1 << 24)) > 20


def test_a_report_reads_what_a_run_wrote(finished, tmp_path):
    page = report.write([str(finished[1])], tmp_path)
    text = page.read_text()
    assert "beta_001" in text
    assert "eval_mbt" in text
    assert page.with_suffix(".md").read_text().count("(figures/gallery-truth.png)") == 1


def test_a_finished_experiment_is_skipped(finished, root, capsys):
    again = experiment.run(folder_config(root).lock(), finished[1])
    assert again["stages"] == finished[0]["stages"]
    assert capsys.readouterr().out.count("finished, skipped") == 5


def test_evaluate_again_gives_the_same_scores(finished, root):
    again = experiment.reevaluate(folder_config(root).lock(), finished[1])
    for name in ("eval_001", "eval_005", "eval_mbt"):
        assert again["stages"][name]["confusion"] == finished[0]["stages"][name]["confusion"]


def test_a_workdir_of_another_config_is_refused_by_field(finished, root):
    before = (finished[1] / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"optim\.g_lr: 0\.01 there, 0\.02 now"):
        experiment.run(folder_config(root, optim__g_lr=0.02).lock(), finished[1])
    assert (finished[1] / "results.json").read_bytes() == before


def test_fields_that_only_watch_may_differ(finished, root):
    experiment.run(folder_config(root, log_every_steps=7, threads=1).lock(), finished[1])


def test_evaluation_may_change_after_training_and_results_stay_side_by_side(
    finished, root, tmp_path, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[1], workdir)
    whole = finished[0]["stages"]["eval_mbt"]
    slide = {"eval__mode": "slide", "eval__window": (24, 48), "eval__stride": (12, 24)}
    results = experiment.run(folder_config(root, **slide).lock(), workdir)
    made = results["stages"]["eval_mbt"]
    assert made["protocol"]["mode"] == "slide"
    assert made["protocol"]["window"] == [24, 48]
    (other,) = made["others"]
    assert other["protocol"] == whole["protocol"]
    assert other["miou"] == whole["miou"]
    assert results == json.loads((workdir / "results.json").read_text())

    capsys.readouterr()
    back = experiment.run(folder_config(root).lock(), workdir)["stages"]["eval_mbt"]
    assert capsys.readouterr().out.count("finished, skipped") == 5
    assert back["confusion"] == whole["confusion"]
    assert [row["protocol"]["mode"] for row in back["others"]] == ["slide"]

    elsewhere = folder_config(root)
    elsewhere.benchmark.eval = elsewhere.benchmark.source.copy_and_resolve_references()
    again = experiment.reevaluate(elsewhere.lock(), workdir)["stages"]["eval_mbt"]
    assert len(again["others"]) == 2


def test_a_network_that_was_trained_anew_is_evaluated_again(finished, root, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[1], workdir)
    shutil.rmtree(workdir / "beta_005")
    for name in ("eval_001", "eval_005", "eval_mbt"):
        record = read_json(workdir / name / "result.json")
        write_json(workdir / name / "result.json", {**record, "miou": 0.123})
    stages = experiment.run(folder_config(root).lock(), workdir)["stages"]
    assert stages["eval_001"]["miou"] == 0.123  # of the other network
    assert stages["eval_005"]["miou"] == finished[0]["stages"]["eval_005"]["miou"]
    assert stages["eval_mbt"]["miou"] == finished[0]["stages"]["eval_mbt"]["miou"]
    assert capsys.readouterr().out.count("finished, skipped") == 2


def test_networks_of_another_training_are_evaluated_again(finished, root, tmp_path, capsys):
    workdir, trained = tmp_path / "run", folder_config(root)
    shutil.copytree(finished[1], workdir)
    shutil.rmtree(workdir / "beta_005")
    trained.stages = ("beta_001", "beta_005")  # as if it was stopped before the evaluations
    experiment.run(trained.lock(), workdir)
    for name in ("eval_001", "eval_005", "eval_mbt"):
        record = {**read_json(workdir / name / "result.json"), "miou": 0.123}
        if name == "eval_mbt":  # of an earlier release
            del record["weights"]
        write_json(workdir / name / "result.json", record)
    stages = experiment.run(folder_config(root).lock(), workdir)["stages"]
    assert stages["eval_001"]["miou"] == stages["eval_mbt"]["miou"] == 0.123
    assert stages["eval_005"]["miou"] == finished[0]["stages"]["eval_005"]["miou"]
    assert capsys.readouterr().out.count("again: its networks have changed") == 1


def test_corrected_labels_are_evaluated_again(finished, root, tmp_path, capsys):
    workdir, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished[1], workdir)
    shutil.copytree(root, data)
    made = folder_config(data).lock()
    before = experiment.run(made, workdir)["stages"]["eval_mbt"]
    assert before["confusion"] == finished[0]["stages"]["eval_mbt"]["confusion"]
    label = sorted((data / made.benchmark.eval.labels).rglob("*.png"))[0]
    with Image.open(label) as image:
        pixels = np.array(image)
    Image.fromarray(np.full_like(pixels, pixels[0, 0])).save(label)
    capsys.readouterr()
    after = experiment.run(made, workdir)["stages"]["eval_mbt"]
    assert "[eval_mbt] again: sizes or dates of its images or labels" in capsys.readouterr().out
    assert after["confusion"] != before["confusion"]
    assert "others" not in after or len(after["others"]) == len(before["others"])

    experiment.run(made, workdir)
    assert capsys.readouterr().out.count("finished, skipped") == 5
    shutil.rmtree(data)  # scores stand without the files
    experiment.run(made, workdir)
    assert capsys.readouterr().out.count("finished, skipped") == 5


def test_a_run_that_has_begun_no_longer_needs_its_weights(finished, root, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[1], workdir)
    for stage in ("beta_001", "beta_005"):
        record = read_json(workdir / stage / "bound.json")
        record["fields"]["model.pretrained"] = "gone.pth"
        write_json(workdir / stage / "bound.json", record)
    experiment.run(folder_config(root, model__pretrained="/moved/gone.pth").lock(), workdir)
    assert capsys.readouterr().out.count("finished, skipped") == 5


def test_steps_may_grow_and_the_scores_of_both_stay(root, tmp_path):
    made = folder_config(root, name="source_only", steps=2)
    first = experiment.run(made.lock(), tmp_path)["stages"]
    more = experiment.run(folder_config(root, name="source_only", steps=4).lock(), tmp_path)[
        "stages"
    ]
    assert more["train"]["step"] == 4
    assert more["evaluate"]["step"] == 4
    (other,) = more["evaluate"]["others"]
    assert other["step"] == 2
    assert other["miou"] == first["evaluate"]["miou"]
    rows = (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]


def test_a_run_begins_by_saying_what_its_data_are(root, tmp_path, capsys):
    settings = {"name": "source_only", "augment__scale": (0.5, 1.0)}
    settings |= {"optim__warmup": "linear", "optim__warmup_steps": 1}
    experiment.run(folder_config(root, **settings, steps=1).lock(), tmp_path)
    introduction, _, rest = capsys.readouterr().out.partition("  step 1/1")
    assert rest
    for sentence in (
        "  source: source/images: 4 images\n",
        "  labels cityscapes_ids, in 4 of them: 0.0% of the pixels are ignored; classes ",
        "  warning: zoomed by 0.5 to 1, a source image of 32x64 fills ",
        "  warning: the learning rate rises for optim.warmup_steps=1 of 1 steps\n",
    ):
        assert introduction.count(sentence) == 1
    assert "target: target/images: 4 images" not in introduction  # source_only does not read them
    experiment.run(folder_config(root, **settings, steps=2).lock(), tmp_path)
    continued = capsys.readouterr().out
    assert "of the pixels are ignored" not in continued
    assert "the learning rate rises" not in continued  # for 1 of 2 steps


def test_the_target_is_introduced_where_it_is_read(root, tmp_path, capsys):
    experiment.run(folder_config(root, name="fda", steps=1).lock(), tmp_path)
    assert "  target: target/images: 4 images\n" in capsys.readouterr().out


def test_a_run_that_failed_before_its_first_step_may_be_corrected(root, tmp_path):
    wrong = folder_config(root, name="source_only")
    wrong.benchmark.source.images = str(root / "nowhere")
    with pytest.raises(DataError):
        experiment.run(wrong.lock(), tmp_path)
    experiment.run(folder_config(root, name="source_only", steps=1).lock(), tmp_path)


def test_other_data_under_the_same_configuration_are_refused(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    made = folder_config(data, name="source_only", steps=2)
    made.stages = ("train",)
    experiment.run(made.lock(), tmp_path / "run")
    (tmp_path / "run" / "train" / "done.json").unlink()
    shutil.move(data, tmp_path / "moved")
    moved = folder_config(tmp_path / "moved", name="source_only", steps=2)
    moved.stages = ("train",)
    experiment.run(moved.lock(), tmp_path / "run")
    (tmp_path / "run" / "train" / "done.json").unlink()
    for folder in ("images", "labels"):
        victim = sorted((tmp_path / "moved" / "source" / folder).iterdir())[0]
        victim.rename(victim.with_name(f"x{victim.name}"))
    with pytest.raises(ConfigError, match="began with another source set"):
        experiment.run(moved.lock(), tmp_path / "run")


def test_a_workdir_in_use_is_refused(finished, root):
    with (
        lock(finished[1]),
        pytest.raises(ConfigError, match="in use by another process"),
    ):
        experiment.run(folder_config(root).lock(), finished[1])


def test_of_several_processes_the_main_one_holds_the_workdir(tmp_path, monkeypatch):
    with lock(tmp_path):
        monkeypatch.setattr(parallel, "is_main", lambda: False)
        with lock(tmp_path):
            pass


def test_evaluation_needs_a_trained_workdir(root, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        experiment.reevaluate(folder_config(root).lock(), tmp_path)


def test_a_workdir_needs_no_file_of_its_classes(root, tmp_path):
    file, workdir = tmp_path / "labels.json", tmp_path / "run"
    rows = [{"name": name, "ids": ids} for name, ids in (("flat", [7, 8]), ("rest", [11, 21]))]
    file.write_text(json.dumps({"classes": rows, "ignore": [23, 26]}))
    made = folder_config(root, name="source_only")
    made.benchmark.classes = made.benchmark.eval_classes = str(file)
    write_workdir(made.lock(), workdir)
    write_json(workdir / "config.json", experiment.recorded(made))
    write_json(workdir / "train" / "done.json", {"step": 3})
    experiment.reevaluate(made, workdir)
    moved = made.copy_and_resolve_references()
    moved.benchmark.classes = moved.benchmark.eval_classes = str(file.rename(tmp_path / "x.json"))
    networks.check(moved.lock(), workdir)
    file.with_name("x.json").unlink()
    chosen = networks.choose(networks.recorded(workdir, defaults=base.unchanged), workdir)
    assert class_set(chosen.config.benchmark.classes).names == ("flat", "rest")


def test_evaluation_that_is_refused_keeps_the_earlier_results(root, tmp_path):
    """Refuses another configuration, an untrained stage and a damaged final checkpoint."""
    made = folder_config(root)
    write_workdir(made, tmp_path)
    stages = make_plan(made, KINDS)
    kept = [tmp_path / name / "result.json" for name in stages if name.startswith("eval")]
    for path in kept:
        write_json(path, {"kept": True})
    for name in ("beta_001", "beta_005"):
        write_json(tmp_path / name / "done.json", {"step": 3})

    def refused(match, **fields):
        with pytest.raises(ConfigError, match=match):
            experiment.reevaluate(folder_config(root, **fields).lock(), tmp_path)
        assert [read_json(path) for path in kept] == [{"kept": True}] * 3
        assert (tmp_path / "config.json").read_bytes() == record

    record = (tmp_path / "config.json").read_bytes()
    refused("another configuration", optim__g_lr=0.02)
    refused("beta_001 is not trained to its end", steps=9)
    assert (tmp_path / "beta_001" / "done.json").exists()
    last = tmp_path / "beta_005" / "checkpoints" / "3" / "sha256.json"
    seal = last.read_text()
    last.write_text("{}")
    refused("beta_005 lost its last checkpoint")
    last.write_text(seal)
    (tmp_path / "beta_005" / "done.json").unlink()
    refused("beta_005 is not trained to its end")


@pytest.fixture
def to_measure(root, tmp_path):
    """Returns a workdir with a trained network, before its statistics and scores are measured."""
    made = folder_config(root, name="adabn", batch_size=2)
    write_workdir(made, tmp_path)
    for name, stage in make_plan(made, KINDS).items():
        if stage.kind == "train":
            write_json(tmp_path / name / "done.json", {})
    return made.lock(), tmp_path


def asked(work, signum=signal.SIGTERM):
    def and_asked(*args, **options):
        os.kill(os.getpid(), signum)
        return work(*args, **options)

    return and_asked


@pytest.mark.parametrize("module", [statistics_stage, evaluate_stage])
def test_a_request_to_stop_ends_what_is_measured(module, to_measure, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "eval_stream", asked(module.eval_stream))
        with pytest.raises(Interrupted, match=r"stopped in stage \w+; the same command continues"):
            experiment.run(*to_measure)
    assert any("iou" in r for r in experiment.run(*to_measure)["stages"].values())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_scores_stand_if_they_are_measured_again_and_that_is_stopped(
    finished, root, tmp_path, monkeypatch, signum
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[1], workdir)
    before = read_json(workdir / "results.json")["stages"]
    stream = asked(evaluate_stage.eval_stream, signum)
    monkeypatch.setattr(evaluate_stage, "eval_stream", stream)
    with pytest.raises(Interrupted, match="stopped in stage eval_001; the same command continues"):
        experiment.reevaluate(folder_config(root).lock(), workdir)
    assert read_json(workdir / "results.json")["stages"] == before
    for name in ("eval_001", "eval_005", "eval_mbt"):
        assert read_json(workdir / name / "result.json")["confusion"] == before[name]["confusion"]


def test_a_request_to_stop_ends_the_counting_of_classes(root, tmp_path, monkeypatch):
    made = folder_config(root, name="source_only", loss__weighting="enet").lock()
    monkeypatch.setattr(batches, "cached_class_counts", asked(batches.cached_class_counts))
    with pytest.raises(Interrupted, match="stopped in stage train; the same command continues"):
        experiment.run(made, tmp_path)
    assert not (tmp_path / "train" / "class_counts.npz").exists()


def test_what_is_measured_is_watched_for_standing_still(to_measure, monkeypatch):
    moves = []
    for module in (statistics_stage, evaluate_stage):
        counted = contextlib.nullcontext(functools.partial(moves.append, module))
        monkeypatch.setattr(module, "watchdog", lambda seconds, counted=counted: counted)
    experiment.run(*to_measure)
    assert moves.count(statistics_stage) == 2  # batches
    assert moves.count(evaluate_stage) % 4 == 0  # images of each evaluation
    assert moves.count(evaluate_stage) > 0


def test_training_never_opens_the_targets_labels(root, tmp_path):
    blind = tmp_path / "data"
    shutil.copytree(root, blind)
    shutil.rmtree(blind / "target" / "labels")
    made = folder_config(blind, name="adversarial", steps=1)
    made.stages = ("train",)
    results = experiment.run(made.lock(), tmp_path / "run")
    assert results["stages"]["train"]["step"] == 1
