import types

import jax.numpy as jnp
import pytest
from helpers import get, stages

from rtda_jax.adapt import build
from rtda_jax.errors import ConfigError
from rtda_jax.stages import train


def test_stage_overrides_apply_to_the_stage_alone():
    config = get("fda_mbt")
    config.stage.beta_001.optim = {"g_lr": 0.5}
    plan = stages(config)
    assert plan["beta_001"].optim.g_lr == 0.5
    assert plan["beta_005"].optim.g_lr == config.optim.g_lr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.stage.train.update(fda_bta=0.1),
            r"^stage train: the configuration has no field 'fda_bta'; did you mean fda_beta\?$",
        ),
        (
            lambda c: c.stage.train.update(optim={"g_lrr": 0.1}),
            "the configuration has no field 'optim.g_lrr'; did you mean optim.g_lr",
        ),
        (lambda c: c.stage.train.update(steps="many"), "^stage train: .*steps"),
        (lambda c: c.stage.train.update(stage={"x": 1}), r"no field 'stage\.x'"),
        (lambda c: c.stage.train.update(kind="trane"), "unknown kind 'trane'; known: .*train"),
        (lambda c: c.stage.evaluate.update(models=("x",)), "'x' is no earlier train or stat"),
        (
            lambda c: c.update(stages=("nope",)),
            "unknown name in stages 'nope'; known: evaluate, train",
        ),
        (lambda c: c.update(stages=()), "stages names no stage"),
        (lambda c: c.update(stages=("train", "train")), "stages names 'train' twice"),
        (lambda c: c.update(steps=0), "stage train: steps must be at least 1, got 0"),
        (lambda c: c.optim.update(schedule_every_steps=0), "optim.schedule_every_steps must be"),
        (lambda c: c.eval.update(mode="tiles"), "stage evaluate: unknown eval.mode 'tiles'"),
        (lambda c: c.eval.update(mode="slide", scales=()), "scales must be above 0"),
        (lambda c: c.eval.update(mirror=True), r"mirror are read by eval\.mode='slide' only"),
        (lambda c: c.eval.update(align="edges"), r"unknown eval\.align 'edges'"),
        (lambda c: c.objective.update(seg=-1.0), r"objective\.seg must be at least 0, got -1"),
        (lambda c: c.adversary.update(d_factor=-3.0), r"adversary\.d_factor must be at least 0"),
        (lambda c: c.update(target_margins=(1, 0, 0, 0)), "they need distil, mix or masked terms"),
        (
            lambda c: c.teacher.update(kind="ema", average="parameters", statistics="batch"),
            "stage train: teacher.average='parameters' needs forward passes of the teacher",
        ),
        (
            lambda c: c.benchmark.update(resize="cubic"),
            "unknown benchmark.resize 'cubic'; known: bi",
        ),
        (lambda c: c.benchmark.update(source_crop=(0, 9)), "benchmark.source_crop must be sides"),
        (lambda c: c.model.update(batch_norm="frozen"), "give `init` or model.pretrained"),
    ],
)
def test_a_wrong_stage_is_named(change, message):
    config = get("source_only")
    change(config)
    with pytest.raises(ConfigError, match=message):
        stages(config)


def test_options_of_another_network_are_refused():
    config = get("adaptsegnet")
    config.model.name = "bisenet_resnet18"
    message = r"model\.options of bisenet_resnet18: got an unexpected keyword argument 'aspp'"
    with pytest.raises(ConfigError, match=message):
        stages(config)


def test_the_large_network_has_no_options_of_the_small_one():
    config = get("dacs", "preset=released")
    config.model.large = "bisenet_resnet18"
    assert build.large_config(config).model.options.to_dict() == {}


def test_margins_that_leave_nothing_are_a_wrong_field_of_their_stage():
    config = get("dacs")
    config.target_margins = (config.benchmark.size[0], 0, 0, 0)
    with pytest.raises(ConfigError, match=r"stage train: target_margins .* leave nothing"):
        stages(config)


def test_weights_are_read_of_train_stages_that_would_begin_from_them(tmp_path, monkeypatch):
    """Also where a stage begins from an earlier one, if feature_distance compares with them."""
    stages_by_name, read = {}, []
    for name, pretrained, init, reference, kind in (
        ("scratch", "", "", False, "train"),
        ("first", "a.pth", "", False, "train"),
        ("second", "b.pth", "first", False, "train"),
        ("compared", "c.pth", "first", True, "train"),
        ("begun", "d.pth", "", False, "train"),
        ("adabn", "e.pth", "", False, "statistics"),
    ):
        model = types.SimpleNamespace(pretrained=pretrained)
        config = types.SimpleNamespace(model=model, init=init)
        method = types.SimpleNamespace(uses_reference=reference)
        stages_by_name[name] = types.SimpleNamespace(kind=kind, config=config, method=method)
    (tmp_path / "begun" / "checkpoints" / "1").mkdir(parents=True)

    def load(state, config):
        read.append(config.model.pretrained)
        return state, ""

    monkeypatch.setattr(build, "initial_state", lambda method: jnp.zeros(2))
    monkeypatch.setattr(build, "pretrained_state", load)
    train.check_weights(stages_by_name, tmp_path)
    assert read == ["a.pth", "c.pth"]

    def refuse(state, config):
        raise ConfigError("no such file")

    monkeypatch.setattr(build, "pretrained_state", refuse)
    with pytest.raises(ConfigError, match="stage first: no such file"):
        train.check_weights(stages_by_name, tmp_path)
