import importlib
import math

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, benchmarks
from rtda_jax.adapt import build, optim
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.options import read
from rtda_jax.errors import ConfigError
from rtda_jax.run.command import config_names
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan

FILES = config_names()

SUPERVISED = {"seg": 1.0, "seg_aux16": 1.0, "seg_aux32": 1.0}
ADVERSARIAL = {**SUPERVISED, "adv_output": 0.001}

MINENT = {**SUPERVISED, "minent": 0.001, "minent_aux16": 0.0002}
PSEUDO = {"pseudo": 1.0, "pseudo_aux16": 1.0, "pseudo_aux32": 1.0}
SELF = {**ADVERSARIAL, **PSEUDO}
MIXED = {**SUPERVISED, "mix": 1.0, "mix_aux16": 1.0, "mix_aux32": 1.0}

THREE = dict.fromkeys(("seg", "seg_aux16", "seg_aux32"), 1 / 3)
MASKED = {"masked": 1.0, "masked_aux16": 1.0, "masked_aux32": 1.0}
CONSISTENT = THREE | {f"consistency{head}": 0.08 / 3 for head in ("", "_aux16", "_aux32")}

# What each config trains: stage -> (active terms, FDA beta, labelled domain). A change is a change
# of method.
GOLDEN = {
    "minent": {"train": (MINENT, None, "source")},
    "advent": {"train": ({**ADVERSARIAL, "adv_aux16": 0.0002}, None, "source")},
    "dacs": {"train": (MIXED, None, "source")},
    "distill": {
        "large": ({**MIXED, **MASKED, "feature_distance": 0.005}, None, "source"),
        "small": ({**SUPERVISED, **PSEUDO}, None, "source"),
    },
    "daformer": {"train": ({**MIXED, "feature_distance": 0.005}, None, "source")},
    "mic": {
        "train": (
            {**MIXED, **MASKED, "feature_distance": 0.005},
            None,
            "source",
        )
    },
    "adaptsegnet": {
        "train": (
            {"seg": 1.0, "seg_aux16": 0.1, "adv_output": 1e-3, "adv_aux16": 2e-4},
            None,
            "source",
        )
    },
    "loss_study": {"train": (ADVERSARIAL, None, "source")},
    "bartoletti": {"train": (ADVERSARIAL, None, "source")},
    "nikiforos": {"train": (ADVERSARIAL, None, "source")},
    "tufl": {
        "source": (THREE, None, "source"),
        "one": (CONSISTENT, None, "source"),
        "two": ({**CONSISTENT, "mix": 0.5}, None, "source"),
    },
    "tufl_parts": {
        "source": (THREE, None, "source"),
        "fixed": (CONSISTENT, None, "source"),
        "adaptive": (CONSISTENT, None, "source"),
        "longer": (CONSISTENT, None, "source"),
        "mixing": ({**CONSISTENT, "mix": 0.5}, None, "source"),
        "long_tail": ({**CONSISTENT, "mix": 0.5}, None, "source"),
    },
    "source_only": {"train": (SUPERVISED, None, "source")},
    "target_only": {"train": (SUPERVISED, None, "target")},
    "adversarial": {"train": (ADVERSARIAL, None, "source")},
    "fda": {"train": (ADVERSARIAL, 0.01, "source")},
    "bdl": {
        "adversarial": ({"seg": 1.0, "adv_output": 0.001}, None, "source"),
        "ssl": ({"seg": 1.0, "adv_output": 0.001, "pseudo": 1.0}, None, "source"),
    },
    "adabn": {"source_only": (SUPERVISED, None, "source")},
    "ssl": {"adversarial": (ADVERSARIAL, None, "source"), "ssl": (SELF, None, "source")},
    "ssl_control": {
        "adversarial": (ADVERSARIAL, None, "source"),
        "control": (ADVERSARIAL, None, "source"),
    },
    "ssl_study": {
        "adversarial": (ADVERSARIAL, None, "source"),
        "ssl_1": (SELF, None, "source"),
        "ssl_2": (SELF, None, "source"),
        "ssl_3": (SELF, None, "source"),
        "control": (ADVERSARIAL, None, "source"),
    },
    "fda_ssl": {
        "beta_001": (ADVERSARIAL, 0.01, "source"),
        "beta_005": (ADVERSARIAL, 0.05, "source"),
        "ssl": (SELF, 0.01, "source"),
    },
    "fda_mbt": {
        "beta_001": (ADVERSARIAL, 0.01, "source"),
        "beta_005": (ADVERSARIAL, 0.05, "source"),
    },
}


def get(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def stages(config):
    """Returns the configuration of every stage by its name."""
    return {name: stage.config for name, stage in make_plan(config.lock(), KINDS).items()}


def trained(config):
    """Returns what each train stage of a configuration trains, as `GOLDEN` has it."""
    return {
        name: (
            {term: weight for term, (_, weight) in stage.method.objective.items()},
            stage.config.fda_beta,
            stage.config.labelled,
        )
        for name, stage in make_plan(config.lock(), KINDS).items()
        if stage.kind == "train"
    }


@pytest.mark.parametrize("name", FILES)
def test_trains_what_it_says(name):
    assert trained(get(name)) == GOLDEN[name]


# The same of the recipes on DeepLabV2 that carry published numbers.
ADVENT_RELEASED = {"seg": 1.0, "seg_aux16": 0.1, "adv_output": 0.001, "adv_aux16": 0.0002}
MINENT_RELEASED = {"seg": 1.0, "seg_aux16": 0.1, "minent": 0.001, "minent_aux16": 0.0002}
FDA_RELEASED = {"seg": 1.0, "robust_entropy_coarse": 0.005}
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
    assert trained(get(config, f"preset={preset}")) == GOLDEN_RELEASED[name]


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


def test_fda_and_bdl_label_the_target_by_coarse_maps():
    fda, bdl = stages(get("fda", "preset=released")), stages(get("bdl"))
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
    assert config.benchmark.crop == (512, 512)
    teacher = {key: config.teacher[key] for key in ("average", "update", "statistics", "share")}
    assert teacher == {
        "average": "parameters", "update": "after", "statistics": "batch", "share": "batch"
    }  # fmt: skip
    mix = {key: config.mix[key] for key in ("among", "ignore", "colour")}
    assert mix == {"among": "image", "ignore": "class", "colour": "dacs_released"}
    assert config.augment.draw == "batch"
    assert get("dacs", "streets,preset=released").benchmark.crop == (64, 128)


# Of what decides a method besides its terms, the values of each config's train stages that are not
# those of base.py.
BESIDES = (
    "pixel_loss", "loss.weighting", "fda_window", "adversary.network", "adversary.view",
    "adversary.gan_loss", "adversary.d_factor", "teacher.kind", "augment.colour", "augment.flip",
    "model.batch_norm", "normalisation", "optim.g_groups",
)  # fmt: skip
CAFFE = {"normalisation": {"caffe_bgr"}}
UNMIRRORED = {"augment.flip": {False}}
TUFL = {"loss.weighting": {"given"}, "model.batch_norm": {"frozen"}, "optim.g_groups": {"heads"}}
LITE = {
    "teacher.kind": {"ema"},
    "normalisation": {"tensorflow"},
    "optim.g_groups": {"heads"},
}
GOLDEN_BESIDES = {
    "advent": {"adversary.view": {"self_information"}},
    "dacs": {"teacher.kind": {"ema"}},
    "daformer": LITE,
    "distill": LITE,
    "mic": LITE,
    "tufl": {**TUFL, "teacher.kind": {"frozen"}},
    "tufl_parts": {**TUFL, "teacher.kind": {"frozen"}},
    "loss_study": CAFFE,
    "nikiforos": {"adversary.d_factor": {1.0}, "augment.colour": {0.5}},
    "bartoletti": {**UNMIRRORED, "normalisation": {"cityscapes_bgr"}},
    "adaptsegnet": {**CAFFE, **UNMIRRORED, "optim.g_groups": {"heads"}},
    "bdl": {**CAFFE, **UNMIRRORED, "optim.g_groups": {"heads"}},
}


@pytest.mark.parametrize("name", FILES)
def test_differs_from_the_defaults_only_where_its_method_does(name):
    def values(config):
        fields = config.to_dict()
        split = [field.rpartition(".") for field in BESIDES]
        return {f"{g}.{n}".strip("."): (fields[g] if g else fields)[n] for g, _, n in split}

    usual, found = {**values(base.get_config()), "normalisation": "imagenet"}, {}
    for stage in make_plan(get(name).lock(), KINDS).values():
        for field, value in values(stage.config).items():
            if stage.kind == "train" and value != usual[field]:
                found.setdefault(field, set()).add(value)
    assert found == GOLDEN_BESIDES.get(name, {})


@pytest.mark.parametrize(
    ("arg", "terms"),
    [
        ("level=output", {"adv_output": 1e-3}),
        ("level=multi", {"adv_output": 1e-3, "adv_aux16": 2e-4}),
        ("level=three", {"adv_output": 1e-3, "adv_aux16": 2e-4, "adv_aux32": 2e-4}),
        ("level=feature", {"adv_feature": 1e-3}),
    ],
)
def test_the_level_of_the_adversary_is_an_argument(arg, terms):
    objective = get("adversarial", f"streets,{arg},network=fcd_light").objective
    assert {k: v for k, v in objective.items() if k.startswith("adv") and v} == terms


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
    said = build.describe(plan["ssl"].method, plan["ssl"].config)
    assert "189,424 parameters" in said[1]


def test_tufl_trains_small_pairs_at_their_own_size_and_others_at_the_papers():
    small, large = get("tufl", "synth_to_camvid"), get("tufl", "gta5_to_cityscapes")
    assert (small.benchmark.crop, small.optim.g_lr) == ((128, 160), 2.5e-4)
    for steps in (800, 80):
        small.steps = steps
        plan = stages(small.copy_and_resolve_references())
        shares = [plan[name].steps / steps for name in ("source", "one", "two")]
        assert shares == [1.0, 0.5, 0.75]
        assert plan["one"].optim.schedule_steps == 0.75 * steps
    parts = get("tufl_parts")
    parts.steps, parts.stage.fixed.steps = 80, 7
    plan = stages(parts)
    shares = [plan[n].steps for n in ("source", "fixed", "adaptive", "longer", "mixing")]
    assert shares == [80, 7, 40, 60, 60]
    assert large.benchmark.crop == (640, 1280)
    assert [large.stage[name].steps for name in ("one", "two")] == [1200, 2000]


def test_shards_are_stored_at_the_size_that_tufl_or_the_command_line_says():
    made = get("tufl", "cityscapes_to_crosscity:rome")
    assert made.benchmark.source.size == made.benchmark.target.size == (640, 1280)
    made.benchmark.source.size = (1024, 2048)
    assert made.benchmark.size == (640, 1280)
    made = get("tufl", "gta5_to_cityscapes")
    made.update_from_flattened_dict({"benchmark.size": (32, 64)})
    for stage in stages(made).values():
        for role in ("source", "target", "target_labelled"):
            assert stage.benchmark[role].size == (32, 64)


def test_running_statistics_are_the_targets_except_in_the_papers_recipes():
    policies = {name: get(name).model.statistics for name in FILES}
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


def pairs():
    """Every config and every benchmark once; the whole product is slow."""
    for name in FILES:
        for benchmark in sorted(benchmarks.BENCHMARKS):
            once = benchmark == "streets" or name in ("fda", "tufl")
            yield pytest.param(name, benchmark, marks=[] if once else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "benchmark"), list(pairs()))
def test_every_config_builds_on_every_benchmark(name, benchmark):
    config = get(name, benchmark)
    assert isinstance(config, ConfigDict)
    plan = make_plan(config.lock(), KINDS)
    stage = next(s for s in plan.values() if s.kind == "train")
    shapes = jax.eval_shape(lambda: build.initial_state(stage.method))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.g_params)) > 4e6
    assert any(s.kind == "evaluate" for s in plan.values())


@pytest.mark.parametrize("name", FILES)
def test_docstring_states_the_objective_and_the_command(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert "objective(G) =" in text
    assert f"python main.py --config configs/{name}.py" in text


def test_self_training_starts_as_the_papers_do_and_rates_follow_the_command_line():
    made = get("fda_ssl", "streets,control=yes")
    made.optim.update({"g_lr": 0.4, "d_lr": 0.2})
    plan = make_plan(made.lock(), KINDS)
    for name in ("ssl", "control"):
        chosen = plan[name].config
        assert (chosen.init, chosen.fda_beta) == ("beta_001", 0.01)
        assert (chosen.optim.g_lr, chosen.optim.d_lr) == (0.2, 0.1)
    assert plan["label"].models == ("beta_001", "beta_005")
    rule = plan["label"].config.pseudo
    assert (rule.fusion, rule.scope, rule.cut, rule.index) == ("mean", "dataset", 0.66, "floor")
    study = get("ssl_study")
    study.steps = 30
    plan = stages(study)
    assert {plan[f"ssl_{n}"].init for n in "123"} == {""}
    assert [plan[f"label_{n}"].pseudo.heads for n in "12"] == [("logits",), ("logits", "aux32")]
    assert plan["label_3"].pseudo.scope == "image"
    assert plan["control"].steps == 60
    study.stage.ssl_1.objective.pseudo = 0.5
    plan = stages(study)
    assert [plan[f"ssl_{n}"].objective.pseudo for n in "123"] == [0.5, 1.0, 1.0]
    again = get("ssl_control", "way=continued")
    assert stages(again)["control"].init == "adversarial"


def test_fda_takes_beta_as_its_argument():
    assert get("fda", "beta=0.09").fda_beta == 0.09
    both = get("fda", "synth_to_camvid,beta=0.02")
    assert (both.benchmark.name, both.fda_beta) == ("synth_to_camvid", 0.02)
    with pytest.raises(ConfigError, match="unknown option in 'gamma=1': 'gamma'; known: beta"):
        get("fda", "gamma=1")
    with pytest.raises(ConfigError, match="must be a number"):
        get("fda", "beta=x")
    with pytest.raises(ConfigError, match="must be a number"):
        get("fda", "beta=nan")
    with pytest.raises(ConfigError, match=r"must be a whole number, got '1\.5'"):
        get("loss_study", "epochs=1.5")
    with pytest.raises(ConfigError, match="beta is given twice"):
        get("fda", "beta=0.1,beta=0.2")
    with pytest.raises(ConfigError, match="names two benchmarks, 'streets' and 'folders'"):
        get("fda", "streets,folders")
    with pytest.raises(ConfigError, match="unknown layers in 'layers=4': '4'; known: 1, 2, 3"):
        get("ssl", "layers=4")
    with pytest.raises(ConfigError, match=r"unknown level in 'level=all': 'all'; known: .*output"):
        get("adversarial", "level=all")


def test_unknown_benchmark_lists_the_known():
    with pytest.raises(ValueError, match=r"'nope'; known: .*streets"):
        get("fda_mbt", "nope")


def test_the_roles_of_a_benchmark_are_separate_fields():
    benchmark = benchmarks.get("folders")
    benchmark.source.images = "a"
    assert benchmark.target_labelled.images == benchmark.eval.images == ""


def test_stage_overrides_apply_to_the_stage_alone():
    config = get("fda_mbt")
    config.stage.beta_001.optim = {"g_lr": 0.5}
    plan = stages(config)
    assert plan["beta_001"].optim.g_lr == 0.5
    assert plan["beta_005"].optim.g_lr == config.optim.g_lr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.stage.train.update(fda_bta=0.1), "fda_bta"),
        (lambda c: c.stage.train.update(kind="trane"), "unknown kind 'trane'; known: .*train"),
        (lambda c: c.stage.evaluate.update(models=("x",)), "'x' is no earlier train or stat"),
        (
            lambda c: c.update(stages=("nope",)),
            "unknown name in stages 'nope'; known: evaluate, train",
        ),
        (lambda c: c.update(steps=0), "stage train: steps must be at least 1, got 0"),
        (lambda c: c.optim.update(schedule_every_steps=0), "optim.schedule_every_steps must be"),
        (lambda c: c.eval.update(mode="tiles"), "stage evaluate: unknown eval.mode 'tiles'"),
        (lambda c: c.eval.update(mode="slide", scales=()), "scales must be above 0"),
        (lambda c: c.eval.update(mirror=True), r"mirror are read by eval\.mode='slide' only"),
        (lambda c: c.eval.update(align="edges"), r"unknown eval\.align 'edges'"),
        (lambda c: c.objective.update(seg=-1.0), r"objective\.seg must be at least 0, got -1"),
        (lambda c: c.adversary.update(d_factor=-3.0), r"adversary\.d_factor must be at least 0"),
        (lambda c: c.model.update(batch_norm="frozen"), "give `init` or model.pretrained"),
    ],
)
def test_a_wrong_stage_is_named(change, message):
    config = get("source_only")
    change(config)
    with pytest.raises(ConfigError, match=message):
        stages(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_loss": "ce"}, "unknown pixel_loss 'ce'; known: cross_entropy"),
        ({"objective.adv_output": 1.0, "labelled": "target"}, "leaves no domain to adapt to"),
        ({"model.name": "bisenet"}, "unknown model.name 'bisenet'; known: .*bisenet_resnet18"),
        ({"dtype": "float17"}, "unknown dtype 'float17'; known: bfloat16, float32"),
        ({"model.statistics": "none"}, "unknown model.statistics 'none'; known: both"),
        ({"normalisation": "none"}, "unknown normalisation 'none'"),
        ({"objective.pseudo": 1.0}, "term pseudo needs pseudo_labels"),
        ({"pseudo_labels": "label"}, "pseudo_labels='label' is read by no term"),
        ({"objective.mix": 1.0}, "mix terms need a teacher"),
        ({"teacher.kind": "average"}, "unknown teacher.kind 'average'; known: ema, frozen"),
        ({"teacher.kind": "ema", "teacher.decay": 1.5}, "teacher.decay must lie in"),
        ({"loss.weighting": "given"}, "loss.weights has 0 numbers, the class set has 19"),
        ({"loss.weighting": "enet", "loss.enet_c": 1.0}, "loss.enet_c must be above 1, got 1"),
        ({"loss.weighting": "median"}, "unknown loss.weighting 'median'"),
        ({"adversary.view": "logits"}, "unknown adversary.view 'logits'"),
        ({"adversary.network": "nope"}, "unknown adversary.network 'nope'; known: fcd, fcd_light"),
        ({"model.batch_norm": "last"}, "unknown model.batch_norm 'last'; known: batch, frozen"),
        ({"batch_size": 1}, "has no variance to train on; use a larger batch"),
        ({"loss.weights": (1.0,)}, "loss.weights is read by loss.weighting='given' only"),
        ({"fda_beta": 0.1, "fda_window": "round"}, "unknown fda_window 'round'; known: corners"),
        ({"augment.colour": 1.5}, "augment.colour must be a probability"),
        ({"consistency.initial": 1.5}, "consistency.initial must be a probability in"),
        ({"fda_beta": 5.0}, r"FDA beta must lie in \[0, 0.5\], got 5"),
        ({"teacher.threshold": -1.0}, "teacher.threshold must be a probability within"),
        ({"mix.boundary_blur": 2.0}, "it needs mix.boundary"),
        (
            {"objective.seg_aux4": 1.0},
            "needs the output 'aux4'; bisenet_resnet18 has: aux16, aux32, logits",
        ),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    config = get("source_only")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        build.build(config)


def test_the_schedules_are_those_of_the_fields():
    config = get("source_only")
    config.optim.update({"warmup_steps": 4, "warmup_start": 1e-4, "schedule_steps": 24})
    config.optim.update({"g_lr": 0.1, "d_lr": 0.2, "power": 2.0, "schedule_every_steps": 5})
    g_lr, d_lr = optim.schedules(read(OptimOptions, config.optim, "optim"), steps=config.steps)
    for step, generator, discriminator in (
        (0, 1e-4, 0.2),
        (2, 1e-4 * 1000**0.5, 0.2),
        (4, 0.1, 0.2),
        (8, 0.1, 0.2 * (19 / 24) ** 2),
        (9, 0.1 * (15 / 20) ** 2, 0.2 * (19 / 24) ** 2),
        (24, 0.0, 0.2 * (4 / 24) ** 2),
    ):
        assert float(g_lr(step)) == pytest.approx(generator, rel=1e-5, abs=1e-9), step
        assert float(d_lr(step)) == pytest.approx(discriminator, rel=1e-5), step


def test_a_discriminator_is_described_as_it_is_built():
    config = get("adversarial", "level=feature,network=fcd_light")
    config.adversary.options = {"use_bias": False}
    stage = build.build(config)
    said = build.describe(stage, config)[1]
    shapes = jax.eval_shape(lambda: build.initial_state(stage))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes.d_params["feature"]))
    assert said.startswith(f"fcd_light: {count:,} parameters")
