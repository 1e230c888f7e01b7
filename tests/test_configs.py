import functools
import importlib
import re

import jax
import pytest
from helpers import get, stages, trained
from ml_collections import ConfigDict

from configs import base, benchmarks
from rtda_jax.adapt import build
from rtda_jax.errors import ConfigError
from rtda_jax.run.command import config_names, load_config
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan

FILES = config_names()


@functools.cache
def planned(name):
    """Returns the stages of a config file without arguments."""
    return make_plan(get(name).lock(), KINDS)


SUPERVISED = {"seg": 1.0, "seg_aux16": 1.0, "seg_aux32": 1.0}
ADVERSARIAL = {**SUPERVISED, "adv_output": 0.001}
MINENT = {**SUPERVISED, "minent": 0.001, "minent_aux16": 0.0002}
PSEUDO = {"pseudo": 1.0, "pseudo_aux16": 1.0, "pseudo_aux32": 1.0}
SELF = {**ADVERSARIAL, **PSEUDO}
MIXED = {**SUPERVISED, "mix": 1.0, "mix_aux16": 1.0, "mix_aux32": 1.0}

THREE = dict.fromkeys(("seg", "seg_aux16", "seg_aux32"), 1 / 3)
MASKED = {"masked": 1.0, "masked_aux16": 1.0, "masked_aux32": 1.0}
CONSISTENT = THREE | {f"consistency{head}": 0.08 / 3 for head in ("", "_aux16", "_aux32")}

# What each config trains: stage -> (active terms, FDA beta, labelled domain). A change here changes
# the method.
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


@pytest.mark.parametrize("name", FILES)
def test_trains_what_it_says(name):
    assert trained(planned(name)) == GOLDEN[name]


# The other fields that decide a method, where a config's train stages differ from base.py.
BESIDES = (
    "pixel_loss", "loss.weighting", "fda_window", "adversary.network", "adversary.view",
    "adversary.gan_loss", "adversary.d_factor", "teacher.kind", "augment.colour", "augment.flip",
    "model.batch_norm", "model.pretrained_input", "normalisation", "optim.g_groups",
)  # fmt: skip
CAFFE = {"normalisation": {"caffe_bgr"}}
UNMIRRORED = {"augment.flip": {False}}
UNCHECKED = {"model.pretrained_input": {"any"}}
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
    "loss_study": {**CAFFE, **UNCHECKED},
    "nikiforos": {"adversary.d_factor": {1.0}, "augment.colour": {0.5}},
    "bartoletti": {**UNMIRRORED, **UNCHECKED, "normalisation": {"cityscapes_bgr"}},
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
    for stage in planned(name).values():
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
    made.update_from_flattened_dict({"benchmark.size": (32, 64), "benchmark.crop": (32, 64)})
    for stage in stages(made).values():
        for role in ("source", "target", "target_labelled"):
            assert stage.benchmark[role].size == (32, 64)


def pairs():
    """Builds every config and every benchmark once; all combinations would be slow."""
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
    assert re.search(rf"python main\.py --config {name}\b", text)


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


# Every default that decides what is computed. A run that began without a field goes on with the
# field's default, so that a change here also changes the runs that users have begun.
DEFAULTS = {
    "": {
        "code": "",
        "seed": 0, "dtype": "float32", "labelled": "source", "pixel_loss": "cross_entropy",
        "init": "", "taught_by": "", "pseudo_labels": "", "normalisation": "auto",
        "fda_beta": None, "fda_other_betas": [], "fda_window": "square",
        "rare_class": None, "rare_min_pixels": 1, "rare_crops": 1,
        "target_margins": [0, 0, 0, 0], "cache_gib": 0.0, "threads": 0,
        "checkpoint_every_steps": 100, "checkpoint_keep": 2, "log_every_steps": 20,
        "loggers": [], "on_not_finite": "stop", "stall_seconds": 1800.0,
    },
    "model": {
        "name": "bisenet_resnet18", "batch_norm": "batch", "statistics": "target",
        "remat": "none", "pretrained": "", "pretrained_part": "backbone",
        "pretrained_naming": "", "pretrained_input": "same", "pretrained_key": "", "large": "",
    },
    "adversary": {"network": "fcd", "view": "softmax", "gan_loss": "bce", "d_factor": 0.5},
    "consistency": {
        "form": "difference", "gamma": 2.0, "temperature": 1.0, "threshold": "fixed",
        "initial": 0.8, "alpha": 0.9, "beta": 0.8, "d": 8.0, "decay": 0.0,
    },
    "teacher": {
        "kind": "none", "decay": 0.99, "average": "all", "follows": "after",
        "statistics": "running", "temperature": 1.0, "inconsistency": 0.0, "threshold": 0.968,
        "share": "image", "borders": [0, 0, 0, 0],
    },
    "distance": {"stage": -1, "ratio": 0.75, "classes": []},
    "affine": {"rotation": 30.0, "shear": 5.0, "scale": [0.8, 1.2], "mirror": 0.5},
    "masked": {"block": 64, "ratio": 0.7, "colour": "daformer"},
    "augment": {
        "flip": True, "scale": [1.0, 1.0], "target_moves": "each", "colour": 0.0,
        "contrast": [2.0, 6.0], "saturation": [1.0, 4.0], "texture": "none",
        "strong": "tufl_strong", "draw": "image",
    },
    "pseudo": {
        "heads": ["logits"], "fusion": "mean", "scope": "dataset", "cut": 0.5, "cap": 0.9,
        "index": "round", "split": "target",
    },
    "statistics": {"batches": 0},
    "eval": {
        "mode": "whole", "window": [64, 128], "stride": [54, 107], "scales": [1.0],
        "mirror": False, "align": "half_pixel", "output": "logits", "fusion": "softmax",
        "absent": "left_out", "pictures": 4, "validator_images": 100,
        "validators": [
            "source_miou", "entropy", "information_maximisation", "nuclear_norm",
            "masked_agreement",
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("section", DEFAULTS)
def test_the_defaults_are_these(section):
    values = base.defaults("streets")
    if section:
        prefix = f"{section}."
        found = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    else:
        of_the_benchmark = {"steps", "batch_size", "data_dir", "stages"}
        found = {k: v for k, v in values.items() if "." not in k and k not in of_the_benchmark}
    assert found == DEFAULTS[section]


@pytest.mark.parametrize(
    ("benchmark", "steps"),
    [("streets", 100), ("synth_to_camvid", 100), ("folders", 250), ("gta5_to_cityscapes", 1000)],
)
def test_long_trainings_have_fewer_checkpoints(benchmark, steps):
    assert base.make(benchmark).checkpoint_every_steps == steps


def test_the_objective_learns_from_the_labels_with_three_heads_unless_told_otherwise():
    values = base.defaults("streets")
    weights = {k: v for k, v in values.items() if k.startswith("objective.") and v}
    assert weights == {f"objective.seg{head}": 1.0 for head in ("", "_aux16", "_aux32")}


def with_line(folder, line):
    """Loads a file whose configuration is that of the defaults with one line more."""
    imports = "from ml_collections import ConfigDict\nfrom configs import base\n"
    body = f"    config = base.get_config()\n    config.{line}\n    return config\n"
    (folder / "mine.py").write_text(f"{imports}def get_config():\n{body}")
    return load_config(str(folder / "mine.py"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fda_bta = 0.05", "no field 'fda_bta'; did you mean fda_beta?"),
        ("optim.lr = 0.1", "no field 'optim.lr'; did you mean optim.g_lr"),
        ("mine = ConfigDict({'gain': 1.0})", "no field 'mine'"),
        ("benchmark.evalsize = (8, 8)", "no field 'benchmark.evalsize'; did you mean"),
        ("benchmark.eval.spilt = 'all'", "benchmark.eval: unknown field of data set 'streets'"),
    ],
)
def test_a_field_that_nothing_reads_is_refused(tmp_path, line, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        with_line(tmp_path, line)


def test_options_of_a_network_of_ones_own_may_have_any_names(tmp_path):
    assert with_line(tmp_path, "model.options = {'width': 8}").model.options.width == 8


def test_a_benchmark_that_lacks_a_field_is_refused():
    benchmark = benchmarks.get("streets")
    del benchmark["eval"]
    with pytest.raises(ConfigError, match="benchmark 'streets' lacks eval"):
        benchmarks.check(benchmark)
