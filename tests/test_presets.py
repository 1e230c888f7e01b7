import functools

import pytest
from helpers import get, stages, trained

from rtda_jax.data import batches
from rtda_jax.errors import ConfigError
from rtda_jax.run.command import config_names
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.stages.train import describe

# The same of the recipes on DeepLabV2 that carry published numbers.
ADVENT_RELEASED = {"seg": 1.0, "seg_aux16": 0.1, "adv_output": 0.001, "adv_aux16": 0.0002}
MINENT_RELEASED = {"seg": 1.0, "seg_aux16": 0.1, "minent": 0.001, "minent_aux16": 0.0002}
FDA_RELEASED = {"seg": 1.0, "robust_entropy_coarse": 0.005}


@functools.cache
def planned(name, arg):
    """The stages of a configuration; a plan of seven networks takes a while."""
    return make_plan(get(name, arg).lock(), KINDS)


BANDS = {"001": 0.01, "005": 0.05, "009": 0.09}
GOLDEN_RELEASED = {
    "advent:released": {"train": (ADVENT_RELEASED, None, "source")},
    "advent:ensemble": {
        "advent": (ADVENT_RELEASED, None, "source"),
        "minent": (MINENT_RELEASED, None, "source"),
    },
    "minent:released": {"train": (MINENT_RELEASED, None, "source")},
    "fda:released": {
        **{f"beta_{band}": (FDA_RELEASED, beta, "source") for band, beta in BANDS.items()},
        **{
            f"ssl_{band}": ({**FDA_RELEASED, "pseudo": 1.0}, beta, "source")
            for band, beta in BANDS.items()
        },
    },
    "dacs:released": {"train": ({"seg": 1.0, "mix": 1.0}, None, "source")},
}


@pytest.mark.parametrize("name", GOLDEN_RELEASED)
def test_presets_train_what_the_authors_code_does(name):
    config, _, preset = name.partition(":")
    assert trained(planned(config, f"gta5_to_cityscapes,preset={preset}")) == GOLDEN_RELEASED[name]


@pytest.mark.parametrize(
    ("name", "arg", "aspp", "steps", "schedule", "repeats"),
    [
        ("adaptsegnet", "preset=multi", "first_two", 150_000, 250_000, "released_04"),
        ("advent", "preset=released", "all", 120_000, 250_000, "released_04"),
        ("minent", "preset=released", "all", 120_000, 250_000, "released_04"),
        ("bdl", "", "all", 120_000, 250_000, "released_04"),
        ("fda", "preset=released", "all", 100_000, 150_000, "released_04"),
        ("dacs", "preset=released", "first_two", 250_000, 250_000, "released"),
    ],
)
def test_the_recipes_of_deeplab_as_released(name, arg, aspp, steps, schedule, repeats):
    config = get(name, f"gta5_to_cityscapes,{arg}")
    assert config.model.name.startswith("deeplab_resnet101")
    assert config.model.options.to_dict() == {"aspp": aspp}
    assert (config.steps, config.batch_size) == (steps, 2 if name == "dacs" else 1)
    sgd = {key: config.optim[key] for key in ("g_lr", "g_groups", "g_decay", "g_momentum", "power")}
    assert sgd == {
        "g_lr": 2.5e-4, "g_groups": "heads", "g_decay": 5e-4, "g_momentum": 0.9, "power": 0.9
    }  # fmt: skip
    assert (config.optim.schedule_steps, config.optim.g_repeats) == (schedule, repeats)
    assert (config.eval.align, config.eval.output) == ("corners", "coarse")
    assert config.eval.fusion == ("logits" if name == "advent" else "softmax")
    assert (config.normalisation, config.model.statistics) == ("caffe_bgr", "both")
    assert not config.augment.flip


WHOLE = ((720, 1280), (720, 1280), (512, 1024), "bicubic", "bicubic")


@pytest.mark.parametrize(
    ("name", "arg", "expected"),
    [
        ("adaptsegnet", "preset=multi", WHOLE),
        ("advent", "preset=released", WHOLE),
        ("minent", "preset=released", WHOLE),
        ("bdl", "", WHOLE),
        ("bartoletti", "", (*WHOLE[:3], "bilinear", "bilinear")),
        ("nikiforos", "row=source", (*WHOLE[:3], "bilinear", "bilinear")),
        ("nikiforos", "row=fda", (*(3 * [(512, 1024)]), "bilinear", "bilinear")),
        ("nikiforos", "row=source,preset=paper", (*(3 * [(512, 1024)]), "bilinear", "bilinear")),
        ("fda", "preset=released", ((720, 1280), (512, 1024), (512, 1024), "bicubic", "bicubic")),
        ("dacs", "preset=released", ((720, 1280), (512, 512), (512, 512), "bilinear", "bicubic")),
    ],
)
def test_presets_read_images_at_the_authors_sizes(name, arg, expected):
    def sizes(config):
        pair = config.benchmark
        assert pair.source.size == pair.source_size and pair.target.size == pair.size
        assert pair.source.resize == pair.source_resize and pair.target.resize == pair.resize
        return (
            *(pair.source_size, pair.source_crop, pair.crop),
            *(pair.resize, pair.source_resize),
        )

    config = get(name, f"gta5_to_cityscapes,{arg}")
    assert sizes(config) == expected
    assert config.benchmark.size == (512, 1024)
    frame = batches.frame(config, config.labelled)
    assert (frame.size, frame.crop, frame.resize) == (*expected[:2], expected[4])
    config.labelled = "target"
    frame = batches.frame(config, config.labelled)
    assert (frame.size, frame.crop, frame.resize) == ((512, 1024), expected[2], expected[3])
    synthia = get(name, f"synthia_to_cityscapes_13,{arg}").benchmark
    height = 760 if expected[0] == (720, 1280) else 512
    assert synthia.source_size == (height, expected[0][1])
    assert synthia.source_resize == expected[4]
    small = get(name, f"streets,{arg}").benchmark
    assert (small.source_size, small.source_crop, small.resize) == (
        (96, 192),
        (64, 128),
        "bilinear",
    )


def test_fda_and_bdl_label_the_target_by_coarse_maps():
    plan = planned("fda", "gta5_to_cityscapes,preset=released")
    fda = {name: stage.config for name, stage in plan.items()}
    bdl = stages(get("bdl"))
    for stage, cut in ((fda["label"], 0.66), (bdl["label"], 0.5)):
        rule = stage.pseudo
        assert (rule.heads, rule.fusion, rule.scope) == (("coarse",), "mean", "dataset")
        assert (rule.cut, rule.cap, rule.index) == (cut, 0.9, "round")
    assert fda["beta_009"].fda_window == "corners"
    assert {fda[f"ssl_{band}"].init for band in BANDS} == {bdl["ssl"].init} == {""}
    assert (bdl["adversarial"].steps, bdl["ssl"].steps) == (80_000, 120_000)
    assert get("fda", "gta5_to_cityscapes,preset=released").benchmark.eval_size == (576, 1344)
    with pytest.raises(ConfigError, match="preset=released has its own beta"):
        get("fda", "preset=released,beta=0.05")


def test_dacs_as_released_is_the_authors_code():
    config = get("dacs", "gta5_to_cityscapes,preset=released")
    teacher = {key: config.teacher[key] for key in ("average", "follows", "statistics", "share")}
    assert teacher == {
        "average": "parameters", "follows": "after", "statistics": "batch", "share": "batch"
    }  # fmt: skip
    mix = {key: config.mix[key] for key in ("among", "ignore", "colour")}
    assert mix == {"among": "image", "ignore": "class", "colour": "dacs_released"}
    assert config.augment.draw == "batch"
    assert get("dacs", "streets,preset=released").benchmark.crop == (64, 128)


def test_the_presets_of_the_loss_study_are_the_authors_code_and_text():
    code = get("loss_study", "loss=focal,backbone=101,epochs=100")
    assert (code.pixel_loss, code.loss.weighting, code.loss.gamma) == ("focal", "enet", 2.0)
    assert (code.loss.reduction, code.batch_size, code.steps) == ("pixels", 4, 12500)
    assert code.optim.schedule_every_steps == 125
    paper = get("loss_study", "loss=focal,preset=paper,discriminator=fcd_light")
    assert (paper.loss.weighting, paper.loss.gamma, paper.batch_size) == ("none", 1.0, 8)
    assert paper.adversary.network == "fcd_light"
    assert get("loss_study", "loss=wce").loss.weighting == "enet"


@pytest.mark.parametrize(
    ("arg", "model", "terms"),
    [
        ("preset=multi04", "resnet101_multi", {"adv_output": 5e-4, "adv_aux16": 5e-5}),
        ("preset=single", "resnet101", {"adv_output": 1e-3}),
        ("preset=ls", "resnet101", {"adv_output": 1e-2}),
        ("preset=feature,network=vgg16", "vgg16", {"adv_feature": 1e-3}),
        ("network=vgg16", "vgg16", {"adv_output": 1e-3}),
        ("lambda=0.004", "resnet101_multi", {"adv_output": 4e-3, "adv_aux16": 8e-4}),
    ],
)
def test_the_presets_of_adaptsegnet(arg, model, terms):
    config = get("adaptsegnet", f"gta5_to_cityscapes,{arg}")
    assert config.model.name == f"deeplab_{model}"
    adversarial = {k: v for k, v in config.objective.items() if k.startswith("adv") and v}
    assert adversarial == pytest.approx(terms)
    assert config.adversary.gan_loss == ("least_squares" if "ls" in arg else "bce")
    assert config.optim.schedule_steps == 250_000
    released = ("one", "none") if "vgg" in model else ("heads", "released_04")
    assert (config.optim.g_groups, config.optim.g_repeats) == released
    assert config.model.options.to_dict() == {"aspp": "first_two"}


def test_two_levels_of_a_network_with_one_head_are_refused():
    with pytest.raises(ConfigError, match="preset=multi needs two heads; deeplab_vgg16 has one"):
        get("adaptsegnet", "preset=multi,network=vgg16")


def test_bartoletti_is_the_authors_code():
    code = get("bartoletti", "layers=2,discriminator=fcd_light")
    assert (code.model.name, code.steps) == ("bisenet_mpg_resnet101", 12_500)
    assert code.adversary.options.to_dict() == {"output_stride": 1, "use_bias": False}
    plan = make_plan(code.lock(), KINDS)
    assert plan["label"].config.pseudo.heads == ("logits", "aux32")
    said = describe(plan["ssl"].method, plan["ssl"].config)
    assert "189,424 parameters" in said[1]


def test_running_statistics_are_the_targets_except_in_the_papers_recipes():
    policies = {name: get(name).model.statistics for name in config_names()}
    both = {name for name, policy in policies.items() if policy == "both"}
    assert both == {"loss_study", "nikiforos", "bartoletti", "adaptsegnet", "bdl"}
    assert set(policies.values()) == {"target", "both"}


def test_nikiforos_does_not_halve_the_discriminators_loss_unless_asked():
    assert get("nikiforos").adversary.d_factor == 1.0
    assert get("nikiforos", "preset=paper").adversary.d_factor == 0.5
    augmented = get("nikiforos", "row=augmented")
    assert (augmented.augment.colour, augmented.objective.adv_output) == (0.5, 0.0)
    moved = {
        arg: (made.augment.colour, made.augment.flip, made.fda_window)
        for arg in ("row=source", "row=augmented", "", "row=fda", "preset=paper", "row=mbt")
        for made in [get("nikiforos", arg)]
    }
    assert moved == {
        "row=source": (0.0, False, "square"),
        "row=augmented": (0.5, True, "square"),
        "": (0.5, True, "square"),
        "row=fda": (0.0, False, "square"),
        "row=mbt": (0.0, False, "square"),
        "preset=paper": (0.0, False, "rectangle"),
    }
    assert get("nikiforos", "gta5_to_cityscapes,row=fda,beta=0.05").fda_beta == 0.05
