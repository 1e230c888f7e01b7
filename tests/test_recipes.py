"""Networks with ImageNet weights, in every config, and the recipes that train them."""

import pytest
from helpers import get, stages

from rtda_jax.errors import ConfigError
from rtda_jax.run.command import config_names
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan


def test_every_config_takes_a_pretrained_network_and_its_optimizer():
    plain, pretrained = get("fda_mbt"), get("fda_mbt", "level=multi,pretrained=bisenet_lite1")
    assert (plain.model.name, plain.optim.g_optimizer) == ("bisenet_resnet18", "sgd")
    for stage in (pretrained, *(stages(pretrained)[n] for n in ("beta_001", "beta_005"))):
        assert (stage.model.name, stage.model.pretrained) == ("bisenet_lite1", "imagenet")
        optim = stage.optim
        assert (optim.g_optimizer, optim.g_lr, optim.g_factor) == ("adamw", 2e-4, 5.0)
        assert (optim.warmup, optim.warmup_steps, optim.g_groups) == ("linear", 50, "heads")
        assert stage.objective.adv_aux16 == 2e-4
    assert get("mic", "pretrained=bisenet_lite2").model.name == "bisenet_lite2"
    with pytest.raises(ConfigError, match=r"pretrained.*bisenet_lite0"):
        get("fda_mbt", "pretrained=bisenet_stdc1")


RELEASED = [(name, ",preset=released") for name in ("advent", "dacs", "minent")]


@pytest.mark.parametrize(("name", "preset"), [*((name, "") for name in config_names()), *RELEASED])
def test_a_pretrained_network_replaces_what_belongs_to_another(name, preset):
    config = get(name, f"streets,pretrained=bisenet_lite0{preset}")
    for stage in make_plan(config.lock(), KINDS).values():
        fields = stage.config
        if stage.kind == "train":
            large = (name, stage.name) == ("distill", "large")
            assert fields.model.name == ("bisenet_lite2" if large else "bisenet_lite0")
            assert (fields.model.options.to_dict(), fields.normalisation) == ({}, "tensorflow")
            optim = fields.optim
            half = (name, stage.name) in {("fda_ssl", "ssl"), ("fda_ssl", "control")}
            rate = 2e-4 if config.steps < 10_000 else 6e-5
            assert optim.g_lr == (rate / 2 if half else rate)
            assert (optim.g_optimizer, optim.g_groups, optim.g_repeats) == (
                "adamw",
                "heads",
                "none",
            )
        assert fields.eval.output == "logits"
        assert "coarse" not in fields.pseudo.heads


def test_the_network_of_tufl_is_named_once():
    with pytest.raises(ConfigError, match="choose one"):
        get("tufl", "network=deeplab,pretrained=bisenet_lite0")


@pytest.mark.parametrize("name", ["daformer", "mic"])
def test_long_runs_warm_up_and_average_as_the_libraries_of_daformer(name):
    short, long = get(name, "streets"), get(name, "gta5_to_cityscapes")
    assert (short.optim.warmup, short.loss.reduction) == ("linear", "weights")
    assert (long.optim.warmup, long.loss.reduction) == ("linear_factor", "pixels")


def test_a_short_pretrained_run_jitters_the_colours_of_the_source():
    short, long = (
        get("source_only", f"{pair},pretrained=bisenet_lite0,rare=0.1")
        for pair in ("streets", "gta5_to_cityscapes")
    )
    assert (short.augment.texture, short.rare_class) == ("daformer", 0.1)
    assert long.augment.texture == get("source_only").augment.texture == "none"


def test_daformer_draws_crops_that_show_the_class_where_crops_are_smaller_than_images():
    small, large = get("daformer", "synth_to_camvid"), get("daformer", "gta5_to_cityscapes")
    assert (small.rare_class, small.rare_min_pixels, small.rare_crops) == (0.1, 1, 1)
    assert (large.rare_class, large.rare_min_pixels, large.rare_crops) == (0.01, 3000, 11)


def test_the_warm_up_of_long_runs_is_not_longer_than_a_short_stage():
    long, short = (get("tufl", f"{b},pretrained=bisenet_lite0") for b in ("gta5_to_cityscapes", ""))
    assert long.optim.warmup_steps == 1500
    for config in (long, short):
        for name in ("one", "two"):
            assert stages(config)[name].optim.warmup_steps == 50


@pytest.mark.parametrize("name", ["daformer", "mic", "distill", "adabn"])
def test_a_short_run_of_a_long_benchmark_has_the_recipe_of_short_runs(name):
    """The two configurations then differ in nothing but the benchmark and what follows from it."""
    long, short = (get(name, f"{b},pretrained=bisenet_lite0") for b in ("folders", "streets"))
    chosen = get(name, "folders,pretrained=bisenet_lite0,recipe=short")
    assert long.optim.warmup_steps == 1500
    sections = ("optim", "teacher", "augment", "masked", "loss", "mix", "objective")
    fields = ("rare_class", "rare_crops", "rare_min_pixels", "fda_beta", *sections)
    for field in fields:
        assert chosen[field] == short[field], field
    assert get(name, "streets,pretrained=bisenet_lite0,recipe=long").optim == long.optim


def test_a_recipe_is_one_of_a_pretrained_network():
    with pytest.raises(ConfigError, match="recipe=short needs pretrained=NETWORK"):
        get("fda", "recipe=short")
    with pytest.raises(ConfigError, match=r"unknown option in '.*': 'recipe'"):
        get("tufl", "streets,recipe=short")
