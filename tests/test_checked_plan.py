"""Whatever a later stage needs is checked before the first one runs."""

import pytest
from helpers import folder_config

from rtda_jax import experiment
from rtda_jax.adapt import build
from rtda_jax.data import DataError
from rtda_jax.errors import ConfigError
from rtda_jax.models import create_discriminator
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import evaluate, train

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
    evaluate.check_data(experiment.checked_plan(made), tmp_path)


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
            {"benchmark": {"classes": "synthia16"}},
            r"params\.aux16\.bias is \(19,\) there, \(16,\) h",
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
    with pytest.raises(ConfigError, match=f"stage second: init='train'.*{message}"):
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
