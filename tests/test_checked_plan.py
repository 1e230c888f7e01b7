"""Whatever a later stage needs is checked before the first one runs."""

import pytest
from helpers import folder_config

from rtda_jax import experiment
from rtda_jax.adapt import build
from rtda_jax.data import DataError
from rtda_jax.errors import ConfigError
from rtda_jax.models import create_discriminator, create_model
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import train

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("beta_001", {"log_every_steps": 0}, "stage beta_001: log_every_steps must be at least 1"),
        ("beta_001", {"loggers": ("paper",)}, "unknown name in `loggers`: 'paper'"),
        ("beta_005", {"checkpoint_keep": 1}, "stage beta_005: checkpoint_keep must be at least 2"),
        ("eval_mbt", {"stall_seconds": -1.0}, "stage eval_mbt: stall_seconds must be at least 0"),
        ("eval_mbt", {"threads": -1}, "stage eval_mbt: threads must be at least 0"),
    ],
)
def test_how_any_stage_is_watched_is_checked_before_the_first(root, stage, fields, message):
    made = folder_config(root)
    made.stage[stage].update(fields)
    with pytest.raises(ConfigError, match=message):
        experiment.checked_plan(made.lock())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("absent.pth", None, "absent.pth does not exist"),
        ("notes.txt", b"x", "unknown kind of weight file"),
        ("damaged.pth", b"PK\3\4 and no archive", "damaged.pth: "),
        ("damaged.safetensors", b"\1" * 9, "damaged.safetensors: "),
        ("folder.pth", "folder", "folder.pth is not a file"),
    ],
)
@pytest.mark.parametrize("stage", ["beta_001", "beta_005"])
def test_weights_of_any_stage_are_refused_before_anything_runs(
    root, tmp_path, stage, file, content, message
):
    if content == "folder":
        (tmp_path / file).mkdir()
    elif content is not None:
        (tmp_path / file).write_bytes(content)
    made = folder_config(root)
    made.stage[stage].model = {"pretrained": str(tmp_path / file)}
    with pytest.raises(ConfigError, match=f"stage {stage}: .*{message}"):
        experiment.run(made.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_without_images_is_refused_before_training(root):
    made = folder_config(root)
    made.benchmark.eval.images = ""
    message = r"stage eval_001: no images to evaluate on.*stages=\('beta_001', 'beta_005'\)"
    with pytest.raises(ConfigError, match=message):
        experiment.checked_plan(made.lock())
    made.stages = ("beta_001", "beta_005")
    assert list(experiment.checked_plan(made.lock())) == ["beta_001", "beta_005"]


@pytest.mark.parametrize("field", ["images", "labels"])
def test_an_evaluation_whose_files_are_missing_is_refused_before_training(root, tmp_path, field):
    made = folder_config(root)
    made.benchmark.eval[field] = "target/nowhere"
    message = r"stage eval_001: .*target/nowhere.*stages=\('beta_001', 'beta_005'\)"
    with pytest.raises(DataError, match=message):
        experiment.run(made.lock(), tmp_path)
    assert not any(tmp_path.iterdir())
    for name in ("eval_001", "eval_005", "eval_mbt"):  # their scores stand without the files
        write_json(tmp_path / name / "result.json", {})
    experiment.look_for_data(experiment.checked_plan(made), tmp_path)


def test_classes_to_report_that_the_network_lacks_are_refused_before_training(root):
    config = folder_config(root, benchmark__eval_classes="camvid11").lock()
    with pytest.raises(DataError, match="lack pavement, tree"):
        experiment.checked_plan(config)


def test_an_output_to_score_that_a_network_lacks_is_refused_before_training(root):
    config = folder_config(root, eval__output="coarse").lock()
    message = r"stage eval_001: unknown eval\.output of beta_001: 'coarse'; known: logits"
    with pytest.raises(ConfigError, match=message):
        experiment.checked_plan(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"benchmark.eval_size": (24, 64)},
            r"benchmark\.eval_size=\(24, 64\): BiSeNet has stride",
        ),
        (
            {"eval.mode": "slide", "eval.window": (16, 16), "eval.stride": (8, 8)},
            r"eval\.window=\(16, 16\): .* the smallest image is 32x32, got 16x16",
        ),
    ],
)
def test_images_too_small_to_score_are_refused_before_training(root, fields, message, monkeypatch):
    monkeypatch.setattr(build, "create_model", create_model)
    config = folder_config(root, "source_only")
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=f"stage evaluate: {message}"):
        experiment.checked_plan(config.lock())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"benchmark": {"classes": "synthia16"}},
            ": 'train' knows other classes than benchmark.classes; they differ in terrain, ",
        ),
        ({"normalisation": "caffe_bgr"}, "trained with normalisation 'imagenet', not 'caffe_bgr'"),
        ({"adversary": {"network": "fcd_light"}}, r"output\.\S+ is \S+ there, \S+ here"),
    ],
)
def test_networks_that_cannot_be_started_from_are_refused_before_training(
    root, fields, message, monkeypatch
):
    monkeypatch.setattr(build, "create_discriminator", create_discriminator)
    config = folder_config(root, "adversarial")
    config.stages = ("train", "second")
    config.stage.second = {"kind": "train", "init": "train", **fields}
    with pytest.raises(ConfigError, match=f"stage second: init.*{message}"):
        experiment.checked_plan(config.lock())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 3}, "batch_size 3 is not divisible by the 2 devices: use a multiple of 2"),
        ({"optim": {"accumulate": 4}}, "with optim.accumulate=4: use a multiple of 8"),
    ],
)
def test_batches_that_the_devices_cannot_share_are_refused_before_anything_runs(
    root, tmp_path, fields, message
):
    config = folder_config(root)
    config.stage.beta_005.update(fields)
    with pytest.raises(ConfigError, match=f"stage beta_005: .*{message}"):
        experiment.run(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    write_json(tmp_path / "beta_005" / "done.json", {})  # on another machine
    train.check_batches(experiment.checked_plan(config), tmp_path)


@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("fda_mbt", "eval_mbt", r"eval_mbt: models: 'beta_001' knows other classes .* terrain, t"),
        ("ssl", "label", "label: models: 'adversarial' knows other classes"),
    ],
)
def test_networks_of_other_classes_are_neither_scored_nor_asked_for_labels(
    root, name, stage, message
):
    """The scores would be wrong, and the labels would fail after the training."""
    config = folder_config(root, name)
    config.stage[stage].benchmark = {"classes": "synthia16", "eval_classes": "synthia16"}
    with pytest.raises(ConfigError, match=message):
        experiment.checked_plan(config.lock())


def test_a_size_of_one_stage_needs_the_sizes_that_would_follow_it(root):
    config = folder_config(root, "source_only")
    config.benchmark.source_size = config.benchmark.get_oneway_ref("size")
    config.stage.train.benchmark = {"size": (48, 96)}
    with pytest.raises(ConfigError, match=r"benchmark\.source_size would follow benchmark\.size"):
        experiment.checked_plan(config)
    config.stage.train.benchmark.source_size = (64, 96)
    experiment.checked_plan(config)


def test_labels_of_other_images_are_refused_before_training(root):
    config = folder_config(root, "ssl", pseudo__split="eval")
    experiment.checked_plan(config)  # here the evaluation has the target's images
    config.benchmark.eval.images = "source/images"
    message = r"labels benchmark\.eval with images 'source/images', but benchmark\.target has"
    with pytest.raises(ConfigError, match=f"stage ssl: pseudo_labels='label' {message}"):
        experiment.checked_plan(config)


def test_a_frozen_teacher_needs_a_network_to_be_a_copy_of(root):
    config = folder_config(root, "dacs")
    config.teacher.update({"kind": "frozen"})
    with pytest.raises(ConfigError, match=r"stage train: teacher\.kind='frozen' keeps the network"):
        experiment.checked_plan(config.lock())


@pytest.mark.parametrize("field", ["size", "classes"])
def test_pasted_classes_that_do_not_fit_are_refused_before_training(root, field):
    config = folder_config(root, "tufl")
    if field == "size":
        config.augment.scale = (1.0, 2.0)
        config.benchmark.crop = config.benchmark.source_crop = (96, 192)
        config.benchmark.size = config.benchmark.source_size = (64, 128)
        message = "candidates need a size and a crop within it"
    else:
        config.long_tail.classes = (25,)
        message = r"classes \[25\] are not among the 19 classes"
    with pytest.raises(DataError, match=f"stage two: {message}"):
        experiment.checked_plan(config.lock())


@pytest.mark.parametrize("name", ["adabn", "tufl"])
@pytest.mark.parametrize("role", ["source", "target"])
def test_missing_training_images_are_named_before_anything_runs(root, tmp_path, name, role):
    config = folder_config(root, name)
    config.benchmark[role].images = "nowhere"
    with pytest.raises(DataError, match=r"stage \w+: .*nowhere"):
        experiment.run(config.lock(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
