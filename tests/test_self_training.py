"""Whole experiments with pseudo-labels, stages that start from earlier ones, and AdaBN."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import SIZE, config, environment, folder_fields, write_folders
from PIL import Image
from tiny import arrays

from rtda_jax import experiment, train
from rtda_jax.data import DataError, batches, load, load_pseudo
from rtda_jax.data.labels import class_set, define
from rtda_jax.errors import ConfigError, Interrupted
from rtda_jax.stages import KINDS, pseudo_label, statistics
from rtda_jax.stages.plan import load_network, make_plan
from rtda_jax.stages.train import start_from

TESTS = pathlib.Path(__file__).parent

pytestmark = pytest.mark.usefixtures("tiny_networks")

STAGES = {
    "adversarial": {"kind": "train", "teacher": {"kind": "ema"}},
    "label": {
        "kind": "pseudo_label",
        "models": ("adversarial", "adversarial:teacher"),
        "pseudo": {"heads": ("logits", "aux16"), "cut": 0.3},
    },
    "ssl": {
        "kind": "train",
        "pseudo_labels": "label",
        "init": "adversarial",
        "objective": {"pseudo": 1.0, "pseudo_aux16": 0.5},
    },
    "adabn": {"kind": "statistics", "models": ("ssl",)},
    "eval_teacher": {"kind": "evaluate", "models": ("adversarial:teacher",)},
    "eval_adabn": {"kind": "evaluate", "models": ("adabn",)},
}


class Killed(Exception):
    pass


def tiny(root, stages=STAGES, **fields):
    made = config("adversarial", "folders", steps=3, checkpoint_every_steps=1)
    made.update_from_flattened_dict(folder_fields(root))
    made.benchmark.eval.images, made.benchmark.eval.labels = "source/images", "source/labels"
    made.eval.pictures, made.eval.validators = 1, ()
    made.stages = tuple(stages)
    made.stage = type(made)(stages)
    made.update_from_flattened_dict(fields)
    return made.lock()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    write_folders(folder, count=6)
    shutil.rmtree(folder / "target" / "labels")  # this stage may not look for them
    return folder


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return experiment.run(tiny(root), workdir), workdir


def files(workdir):
    label = workdir / "label"
    names = [label / "manifest.json", *sorted(label.rglob("*.png"))]
    return {str(p.relative_to(label)): p.read_bytes() for p in names}


def test_labels_lie_under_a_manifest_that_vouches_for_them(whole):
    results, workdir = whole
    manifest = json.loads((workdir / "label" / "manifest.json").read_text())
    assert list(manifest["files"]) == [f"{i:03d}" for i in range(6)]
    assert manifest["models"] == ["adversarial", "adversarial:teacher"]
    assert manifest["rule"]["cut"] == 0.3
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(workdir.rglob("label/**/*.png"))])
    assert pixels.shape == (6, *SIZE)
    assert results["stages"]["label"]["coverage"] == pytest.approx((pixels != 255).mean())
    assert 0.3 < results["stages"]["label"]["coverage"] < 1
    assert sum(manifest["pixels"].values()) == (pixels != 255).sum()
    assert next(iter(manifest["thresholds"])) == "road"


def test_training_on_them_starts_from_the_earlier_networks(whole, root, tmp_path):
    results, workdir = whole
    assert "pseudo" in results["stages"]["ssl"]["objective"]
    plan = make_plan(tiny(root), KINDS)
    still = {"optim.g_lr": 0.0, "optim.d_lr": 0.0, "optim.g_decay": 0.0}
    frozen = make_plan(tiny(root, **still), KINDS)["ssl"]
    final = train.train(
        frozen.config,
        tmp_path,
        method=frozen.method,
        start_from=lambda state: start_from(state, stage=plan["ssl"], plan=plan, workdir=workdir),
        pseudo_folder=workdir / "label",
    )
    earlier = load_network(plan, "adversarial", workdir)
    jax.tree.map(np.testing.assert_array_equal, final.g_params, earlier.variables["params"])
    before = arrays(workdir, "adversarial")
    for path, leaf in jax.tree_util.tree_leaves_with_path({"d_params": final.d_params}):
        assert np.asarray(leaf).tobytes() == before[jax.tree_util.keystr(path)]


def test_killed_anywhere_and_continued_is_bitwise_the_undisturbed_run(
    whole, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(pseudo_label, "SAVE_EVERY", 2)
    shutil.copytree(whole[1] / "adversarial", tmp_path / "adversarial")
    shutil.copy(whole[1] / "config.json", tmp_path)

    def mortal(stream, count):
        left = itertools.count(count, -1)

        def killed(*args, **options):
            for made in stream(*args, **options):
                if next(left) == 0:
                    raise Killed
                yield made

        return killed

    # The label stage reads 6 images twice; it is killed in its first pass, and twice in its second.
    kills = [(pseudo_label, "eval_stream", count) for count in (2, 5, 1)]
    kills += [(batches, "train_stream", 1), (statistics, "eval_stream", 3)]
    for module, name, count in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, name, mortal(getattr(module, name), count))
            experiment.run(tiny(root), tmp_path)
    results = experiment.run(tiny(root), tmp_path)
    assert files(tmp_path) == files(whole[1])
    for stage in ("ssl", "adabn"):
        assert arrays(tmp_path, stage) == arrays(whole[1], stage)
    for stage in ("eval_teacher", "eval_adabn"):
        assert results["stages"][stage]["confusion"] == whole[0]["stages"][stage]["confusion"]


def alone(root, workdir, *moment):
    """Runs the same experiment in another process."""
    return subprocess.run(
        [sys.executable, str(TESTS / "whole.py"), str(root), str(workdir), *map(str, moment)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """Returns a workdir and how often its process touched a file in it."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    run = alone(root, workdir)
    assert run.returncode == 0, run.stderr
    return workdir, int(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(20))
def test_sigkill_while_files_of_any_stage_are_touched(kill, root, undisturbed, tmp_path):
    workdir, touches = undisturbed
    moment = int((kill + np.random.default_rng([4, kill]).random()) / 20 * touches) + 1
    assert alone(root, tmp_path, moment).returncode == -signal.SIGKILL
    torn = alone(root, tmp_path)
    assert torn.returncode == 0, torn.stderr
    assert files(tmp_path) == files(workdir)
    for stage in ("adversarial", "ssl", "adabn"):
        assert arrays(tmp_path, stage) == arrays(workdir, stage)
    results, expected = (json.loads((p / "results.json").read_text()) for p in (tmp_path, workdir))
    for stage in results["stages"].values(), expected["stages"].values():
        for measured in stage:
            del measured["seconds"]
            measured.pop("weights", None)  # orbax draws the names of the files that are sealed
    assert results["stages"] == expected["stages"]


def test_a_signal_ends_the_label_stage_politely(whole, root, tmp_path, monkeypatch):
    shutil.copytree(whole[1] / "adversarial", tmp_path / "adversarial")
    stream = pseudo_label.eval_stream

    def signalled(*args, **options):
        for number, example in enumerate(stream(*args, **options)):
            if number == 1:  # the first image is over, and with it the compilation
                os.kill(os.getpid(), signal.SIGTERM)
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_label, "eval_stream", signalled)
        with pytest.raises(Interrupted, match=r"stopped after image \d; the same command"):
            experiment.run(tiny(root), tmp_path)


def test_adabn_changes_the_statistics_alone(whole):
    before, after = arrays(whole[1], "ssl"), arrays(whole[1], "adabn")
    assert set(after) < set(before)
    for path, value in after.items():
        assert (value == before[path]) == path.startswith("['g_params']"), path


def test_teacher_and_student_are_different_networks(whole, root):
    plan = make_plan(tiny(root), KINDS)
    student, teacher = (
        load_network(plan, name, whole[1]) for name in ("adversarial", "adversarial:teacher")
    )
    assert jax.tree.structure(student.variables) == jax.tree.structure(teacher.variables)
    assert not np.array_equal(
        student.variables["params"]["logits"]["kernel"],
        teacher.variables["params"]["logits"]["kernel"],
    )


@pytest.fixture
def labels(whole, tmp_path):
    shutil.copytree(whole[1] / "label", tmp_path / "label")
    return tmp_path / "label"


def target(root, classes="cityscapes19", **fields):
    spec = {"name": "folders", "images": "target/images", "use": "unlabelled", **fields}
    return load(spec, data_dir=root, classes=classes)


def test_a_changed_or_missing_label_file_is_named(labels, root):
    path = labels / "labels" / "003.png"
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"003\.png: changed since it was written"):
        load_pseudo(labels, target=target(root))
    path.unlink()
    with pytest.raises(DataError, match=r"003\.png: no such file"):
        load_pseudo(labels, target=target(root))


def test_labels_of_other_images_or_classes_are_refused(labels, root):
    assert len(load_pseudo(labels, target=target(root)).keys) == 6
    with pytest.raises(DataError, match="labels of the classes 'cityscapes19', not 'synthia16'"):
        load_pseudo(labels, target=target(root, "synthia16"))
    record = json.loads((labels / "manifest.json").read_text())
    record["classes"] = define(class_set("cityscapes19").names, ignore=(99,))  # since corrected
    (labels / "manifest.json").write_text(json.dumps(record))
    assert len(load_pseudo(labels, target=target(root)).keys) == 6
    (root / "others.txt").write_text("000\n001\n")
    with pytest.raises(DataError, match=r"made for 6 images .* differ in '002'"):
        load_pseudo(labels, target=target(root, list="others.txt"))
    (labels / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no finished pseudo-labels \(manifest\.json is missing"):
        load_pseudo(labels, target=target(root))


EVAL = {"benchmark.eval.images": "target/images"}


@pytest.mark.parametrize(
    ("stages", "fields", "message"),
    [
        ({"ssl": {"init": "x"}}, {}, "stage ssl: 'x' is no earlier train or statistics stage"),
        ({"ssl": {"pseudo_labels": "adversarial"}}, {}, "is no earlier pseudo_label stage"),
        ({"label": {"models": ()}}, {}, "kind 'pseudo_label' needs models"),
        ({"adabn": {"models": ("ssl", "ssl")}}, {}, "kind 'statistics' reads one model, got 2"),
        ({"adabn": {"models": ("ssl:teacher",)}}, {}, "'ssl:teacher': that stage trains no teac"),
        ({"adabn": {"models": ("ssl:old",)}}, {}, "'ssl:old': after the colon only 'teacher'"),
        ({"label": {"pseudo": {"scope": "pixel"}}}, {}, "unknown pseudo.scope 'pixel'; known: d"),
        ({"label": {"pseudo": {"split": "val"}}}, {}, "unknown pseudo.split 'val'; known: eval"),
        ({"label": {"pseudo": {"cut": 1.0}}}, {}, r"pseudo.cut must lie in \[0, 1\)"),
        ({}, EVAL, "holds the images that scores are measured on"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused_before_anything_runs(stages, fields, message, root):
    changed = {name: {**made, **stages.get(name, {})} for name, made in STAGES.items()}
    with pytest.raises(ConfigError, match=message):
        make_plan(tiny(root, changed, **fields), KINDS)


def test_target_images_that_are_scored_are_found_whatever_they_are_called(root, tmp_path):
    fields = {"benchmark.eval.images": "target/images/"}
    with pytest.raises(ConfigError, match=r"benchmark\.target holds 6 of the images that"):
        experiment.run(tiny(root, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("images", ["target/images", "target/images/"])
def test_target_images_may_be_evaluated_without_labels(root, images):
    fields = {"benchmark.eval.images": images, "benchmark.eval.labels": ""}
    assert "label" in experiment.checked_plan(tiny(root, **fields))


def test_the_evaluation_split_is_labelled_only_by_its_name(root):
    label = {**STAGES["label"], "pseudo": {"split": "eval"}}
    plan = make_plan(tiny(root, {**STAGES, "label": label}, **EVAL), KINDS)
    images = pseudo_label.images(plan["label"].config)
    assert images.labelling is None
    assert len(images) == 6


def test_an_unknown_head_is_named_before_anything_is_trained(root, tmp_path):
    label = {**STAGES["label"], "pseudo": {"heads": ("logits", "aux64")}}
    named = (
        "stage label: unknown output of adversarial in pseudo.heads: 'aux64'; "
        "known: aux16, aux32, aux4, aux8, logits"
    )
    with pytest.raises(ConfigError, match=named):
        experiment.run(tiny(root, {**STAGES, "label": label}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
