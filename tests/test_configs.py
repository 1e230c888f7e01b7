import importlib
import pathlib

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, benchmarks
from rtda_jax import build, experiment
from rtda_jax.errors import ConfigError

FILES = sorted(
    p.stem for p in pathlib.Path(base.__file__).parent.glob("*.py")
    if p.stem not in ("base", "benchmarks", "__init__")
)  # fmt: skip

SUPERVISED = {"seg": 1.0, "seg_aux16": 1.0, "seg_aux32": 1.0}
ADVERSARIAL = {**SUPERVISED, "adv_output": 0.001}

# What each config trains: stage -> (active terms, FDA beta, labelled domain). A change is a change
# of method.
GOLDEN = {
    "source_only": {"train": (SUPERVISED, None, "source")},
    "target_only": {"train": (SUPERVISED, None, "target")},
    "adversarial": {"train": (ADVERSARIAL, None, "source")},
    "fda": {"train": (ADVERSARIAL, 0.01, "source")},
    "fda_mbt": {
        "beta_001": (ADVERSARIAL, 0.01, "source"),
        "beta_005": (ADVERSARIAL, 0.05, "source"),
    },
}


def get(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", FILES)
def test_trains_what_it_says(name):
    trained = {}
    for stage_name, stage in experiment.stages(get(name).lock()).items():
        if stage.kind == "train":
            parts = build.build(stage)
            weights = {term: weight for term, (_, weight) in parts.objective.items()}
            trained[stage_name] = (weights, stage.fda_beta, stage.labelled)
    assert trained == GOLDEN[name]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("benchmark", sorted(benchmarks.BENCHMARKS))
def test_every_config_builds_on_every_benchmark(name, benchmark):
    config = get(name, benchmark)
    assert isinstance(config, ConfigDict)
    stages = experiment.stages(config.lock())
    stage = next(s for s in stages.values() if s.kind == "train")
    shapes = jax.eval_shape(lambda: build.initial_state(build.build(stage), stage))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.g_params)) > 1e7
    assert any(s.kind == "evaluate" for s in stages.values())


@pytest.mark.parametrize("name", FILES)
def test_docstring_states_the_objective_and_the_command(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert "objective(G) =" in text
    assert f"python main.py --config configs/{name}.py" in text


def test_fda_takes_beta_as_its_argument():
    assert get("fda", "beta=0.09").fda_beta == 0.09
    both = get("fda", "synth_to_camvid,beta=0.02")
    assert (both.benchmark.name, both.fda_beta) == ("synth_to_camvid", 0.02)
    with pytest.raises(ConfigError, match="unknown option 'gamma'"):
        get("fda", "gamma=1")
    with pytest.raises(ConfigError, match="must be a number"):
        get("fda", "beta=x")


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
    stages = experiment.stages(config.lock())
    assert stages["beta_001"].optim.g_lr == 0.5
    assert stages["beta_005"].optim.g_lr == config.optim.g_lr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.stage.train.update(fda_bta=0.1), "fda_bta"),
        (lambda c: c.stage.train.update(kind="trane"), "unknown kind 'trane'; known: train"),
        (lambda c: c.stage.evaluate.update(models=("x",)), "'x' is no earlier train or stat"),
        (lambda c: c.update(stages=("nope",)), "stages names 'nope'"),
    ],
)
def test_a_wrong_stage_is_named(change, message):
    config = get("source_only")
    change(config)
    with pytest.raises(ConfigError, match=message):
        experiment.stages(config.lock())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_loss": "ce"}, "unknown pixel loss 'ce'; known: cross_entropy"),
        ({"objective.adv_output": 1.0, "labelled": "target"}, "leaves no domain to adapt to"),
        ({"model.name": "bisenet"}, "unknown model 'bisenet'; known: bisenet_resnet18"),
        ({"dtype": "float17"}, "unknown dtype 'float17'; known: bfloat16, float32"),
        ({"model.statistics": "none"}, "unknown model.statistics 'none'; known: both"),
        ({"normalisation": "none"}, "unknown normalisation 'none'"),
    ],
)
def test_what_can_not_be_built_is_named(changes, message):
    config = get("source_only")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        build.build(config)
