"""Scores are written first: what decorates them may fail, and they stay."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import config, folder_fields, write_folders
from PIL import Image

from rtda_jax import experiment
from rtda_jax.data.labels import class_set
from rtda_jax.errors import DataError
from rtda_jax.evaluate import Protocol
from rtda_jax.stages import KINDS, evaluate, validation
from rtda_jax.stages.plan import make_plan
from rtda_jax.tools import drawing

pytestmark = pytest.mark.usefixtures("tiny_networks")


def tiny(root, **fields):
    made = config("source_only", "folders", **{"steps": 1, **fields})
    made.update_from_flattened_dict(folder_fields(root))
    made.benchmark.eval.labels = fields.get("benchmark__eval__labels", "target/labels")
    made.eval.pictures = fields.get("eval__pictures", 2)
    made.benchmark.source_eval = made.benchmark.source.copy_and_resolve_references()
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    write_folders(folder / "data")
    return folder, experiment.run(tiny(folder / "data").lock(), folder / "run")


@pytest.fixture
def copy(finished, tmp_path):
    """Its data and its run, which a test may change."""
    for name in ("data", "run"):
        shutil.copytree(finished[0] / name, tmp_path / name)
    return tmp_path


def evaluated(folder, **fields):
    made = tiny(folder / "data", **fields)
    record = experiment.reevaluate(made.lock(), folder / "run")["stages"]["evaluate"]
    written = json.loads((folder / "run" / "results.json").read_text())["stages"]["evaluate"]
    assert written == record
    return record


def test_scores_need_no_image_of_the_source(finished, copy, capsys):
    shutil.rmtree(copy / "data" / "source")
    record = evaluated(copy)
    assert record["confusion"] == finished[1]["stages"]["evaluate"]["confusion"]
    assert record["validators"] == {}
    assert not (copy / "run" / "evaluate" / "predictions.png").exists()  # it showed other numbers
    told = capsys.readouterr().out
    assert "warning: no validators: " in told
    assert "warning: no pictures: " in told


@pytest.mark.parametrize("ids", [[7], [7, 0]])
def test_the_legend_of_the_pictures_names_ignored_pixels_if_there_are_some(copy, monkeypatch, ids):
    for path in (copy / "data" / "target" / "labels").iterdir():
        label = np.full((40, 80), ids[0], np.uint8)
        label[0, 0] = ids[-1]
        Image.fromarray(label).save(path)
    grid, asked = drawing.grid, []

    def noting(*args, **options):
        asked.append(options["ignored"])
        return grid(*args, **options)

    monkeypatch.setattr(drawing, "grid", noting)
    evaluated(copy)
    assert asked == [len(ids) == 2]


def test_no_pictures_are_asked_for(finished, copy):
    record = evaluated(copy, eval__pictures=0)
    assert record["confusion"] == finished[1]["stages"]["evaluate"]["confusion"]
    assert not (copy / "run" / "evaluate" / "predictions.png").exists()


def test_a_run_doubts_the_labels_of_its_evaluation_before_it_trains(copy, capsys):
    for path in (copy / "data" / "target" / "labels").iterdir():
        Image.fromarray(np.full((40, 80), 3, np.uint8)).save(path)
    made = tiny(copy / "data")
    made.stage = {**made.stage.to_dict(), "again": {"kind": "evaluate", "models": ("train",)}}
    made.stages = (*made.stages, "again")
    experiment.run(made.lock(), copy / "new")
    before, trained, after = capsys.readouterr().out.partition("  step 1/1")
    assert trained
    sentence = "warning: labels of benchmark.eval: labelling 'cityscapes_ids': only ids 3 occur"
    assert (before.count(sentence), after.count(sentence)) == (1, 0)


def test_labels_without_a_class_give_no_score_and_say_so(copy, capsys):
    for path in (copy / "data" / "target" / "labels").iterdir():
        Image.fromarray(np.zeros((40, 80), np.uint8)).save(path)
    record = evaluated(copy)
    assert (record["miou"], record["pixel_accuracy"], record["pixels"]) == (None, None, 0)
    told = capsys.readouterr().out
    assert "mIoU n/a" in told
    assert "no pixel of the 4 label images has a reported class" in told
    results = json.loads((copy / "run" / "results.json").read_text())
    assert experiment.summarise([results])["stages"] == {}


def test_images_without_labels_get_the_scores_that_need_none(finished, copy, capsys):
    shutil.rmtree(copy / "data" / "target" / "labels")
    record = evaluated(copy, benchmark__eval__labels="")
    assert (record["miou"], record["pixel_accuracy"], record["pixels"]) == (None, None, 0)
    assert record["protocol"]["resolution"] == "input's"
    assert not np.any(record["confusion"])
    scores, labelled = record["validators"], finished[1]["stages"]["evaluate"]
    assert 0 < scores.pop("masked_agreement") < 1  # at the size of the images, not of the labels
    assert scores.items() <= labelled["validators"].items()
    told = capsys.readouterr().out
    assert f"only scores without labels: source_miou {scores['source_miou']:.3f}, entropy" in told
    assert "warning" not in told and "IoU, %" not in told
    with Image.open(copy / "run" / "evaluate" / "predictions.png") as sheet:
        assert list(drawing.cells(sheet)) == ["source", "target", "prediction"]
    (other,) = record["others"]  # with labels, from before
    assert other["miou"] == labelled["miou"]


def test_a_failed_evaluation_leaves_the_earlier_scores(finished, copy):
    shutil.rmtree(copy / "data" / "target" / "labels")
    with pytest.raises(DataError):
        evaluated(copy)
    written = json.loads((copy / "run" / "results.json").read_text())["stages"]["evaluate"]
    assert written == finished[1]["stages"]["evaluate"]
    assert (copy / "run" / "evaluate" / "predictions.png").exists()


def test_an_evaluation_that_ended_before_its_validators_is_done_again(finished, copy, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    (copy / "run" / "evaluate" / "result.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(validation, "report", stopped)
        experiment.run(tiny(copy / "data").lock(), copy / "run")
    expected = finished[1]["stages"]["evaluate"]
    left = json.loads((copy / "run" / "evaluate" / "result.json").read_text())
    assert left["confusion"] == expected["confusion"]
    again = experiment.run(tiny(copy / "data").lock(), copy / "run")["stages"]["evaluate"]
    assert again["validators"] == expected["validators"]


def test_other_validators_are_measured_although_the_scores_are_there(finished, copy):
    def run(*validators):
        config = tiny(copy / "data")
        config.eval.validators = validators
        return experiment.run(config.lock(), copy / "run")["stages"]["evaluate"]

    earlier = finished[1]["stages"]["evaluate"]["validators"]
    for validators in (("entropy",), ("entropy", "nuclear_norm")):
        assert run(*validators)["validators"] == {k: earlier[k] for k in validators}


def test_labels_that_mean_something_else_are_scored_again(copy):
    def confusion(*, road, car):
        rows = [{"name": "road", "ids": [road]}, {"name": "car", "ids": [car]}]
        others = [i for i in range(256) if i not in (road, car)]
        content = json.dumps({"classes": rows, "ignore": others})
        (copy / "data" / "target" / "labels.json").write_text(content)
        results = experiment.run(tiny(copy / "data").lock(), copy / "run")
        return results["stages"]["evaluate"]["confusion"]

    names = class_set("cityscapes19").names
    road, car = names.index("road"), names.index("car")
    first, second = confusion(road=7, car=26), confusion(road=26, car=7)
    assert first[road] == second[car] != first[car] == second[road]


def test_an_evaluation_reads_with_as_many_threads_as_it_may(copy, monkeypatch):
    threads = []
    for module in (evaluate, validation):
        read = module.eval_stream

        def asked(*args, read=read, **options):
            threads.append(options.get("threads"))
            return read(*args, **options)

        monkeypatch.setattr(module, "eval_stream", asked)
    evaluated(copy, threads=1)
    assert len(threads) == 4 and set(threads) == {1}  # scores, pictures and two validators


@pytest.mark.parametrize(
    ("window", "scales", "warned"),
    [
        ((32, 64), (1.0,), False),
        ((40, 48), (1.0,), True),
        ((24, 65), (0.5, 1.0), True),
        ((40, 48), (0.5, 1.25), False),
    ],
)
def test_windows_that_show_padding_at_every_scale_are_said(window, scales, warned):
    protocol = Protocol(mode="slide", window=window, stride=(8, 8), scales=scales)
    assert bool(evaluate.padding_warning(protocol, (32, 64))) == warned


def test_the_warning_about_padding_is_printed(copy, capsys):
    slide = {"eval__mode": "slide", "eval__window": (64, 128), "eval__stride": (64, 128)}
    evaluated(copy, **slide)
    assert "the rest of each window is black" in capsys.readouterr().out


def test_a_record_holds_ones_own_classes_and_not_the_path_of_their_file(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"classes": [{"name": "road"}, {"name": "rail"}]}))
    made = config("source_only", "folders")
    made.benchmark.classes = str(file)
    record = evaluate.protocol_record(make_plan(made, KINDS)["evaluate"], Protocol())
    file.unlink()  # a report on another machine has no such file
    for field in ("classes", "head_classes"):
        assert class_set(record[field]).names == ("road", "rail")


def test_a_record_says_what_determines_the_scores():
    """Reports compare scores of equal records alone, also with those of earlier releases."""
    made = config("source_only", "folders")
    made.benchmark.eval_size, made.benchmark.eval_classes = (24, 40), "synthia16"
    made.benchmark.eval.labels = "labels"
    plan = make_plan(made, KINDS)
    whole = {
        "mode": "whole",
        "input_size": [24, 40],
        "upsampled": "logits",
        "align": "half_pixel",
        "resolution": "labels' own",
        "split": made.benchmark.eval.to_dict(),
        "classes": "synthia16",
        "head_classes": "cityscapes19",
        "checkpoint": "final step",
    }
    assert evaluate.protocol_record(plan["evaluate"], Protocol()) == whole
    assert evaluate.identify(plan, "evaluate") == {
        "protocol": whole,
        "step": 6,
        "models": ["train"],
    }
    released = Protocol(align="corners", output="coarse", absent="zero", fusion="logits")
    several = dataclasses.replace(plan["evaluate"], models=("train", "train:teacher"))
    changed = {"align": "corners", "output": "coarse", "absent": "zero"}
    assert evaluate.protocol_record(plan["evaluate"], released) == {**whole, **changed}
    assert evaluate.protocol_record(several, released) == {
        **whole, **changed, "upsampled": "mean logits"
    }  # fmt: skip
    slide = {"mode": "slide", "window": (8, 9), "stride": (7, 6), "scales": (0.5, 1.0)}
    with several.config.unlocked():
        several.config.benchmark.resize = "bicubic"
    assert evaluate.protocol_record(several, Protocol(**slide, mirror=True)) == {
        **whole,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in slide.items()},
        "mirror": True,
        "upsampled": "mean softmax",
        "resize": "bicubic",
    }
    (record,) = [evaluate.protocol_record(plan["evaluate"], Protocol(**slide))]
    assert record["upsampled"] == "mean softmax" and record["mirror"] is False


def test_an_evaluation_again_changes_no_later_job(copy, capsys):
    path = copy / "run" / "config.json"
    before = path.read_bytes()
    sliding = {"eval__mode": "slide", "eval__window": (32, 32), "eval__stride": (32, 32)}
    again = experiment.reevaluate(tiny(copy / "data", **sliding).lock(), copy / "run")
    assert again["stages"]["evaluate"]["protocol"]["mode"] == "slide"
    assert path.read_bytes() == before
    assert "no label has wall, fence, " in capsys.readouterr().out
