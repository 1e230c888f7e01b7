"""Runs in which a large network, its average and a small network are trained in one stage."""

import json

import numpy as np
import pytest
from helpers import LARGE, SMALL, config, folder_fields, get, online, trained, write_folders
from tiny import arrays, stopping

from rtda_jax import experiment, train
from rtda_jax.adapt import terms
from rtda_jax.deploy import networks
from rtda_jax.errors import ConfigError
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import load_network, make_plan

pytestmark = pytest.mark.usefixtures("networks_of_two_kinds")

STAGES = {
    "train": {"kind": "train"},
    "eval_teacher": {"kind": "evaluate", "models": ("train:teacher",)},
    "eval_large": {"kind": "evaluate", "models": ("train:large",)},
    "label": {
        "kind": "pseudo_label",
        "models": ("train:teacher",),
        "pseudo": {"heads": ("logits", "aux4")},  # the small network has no aux4
    },
    "adabn": {"kind": "statistics", "models": ("train:large",)},
    "eval_adabn": {"kind": "evaluate", "models": ("adabn",)},
    "eval_small": {"kind": "evaluate", "models": ("train",)},
}


@pytest.fixture(scope="module")
def root(networks_of_two_kinds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    write_folders(folder, count=6)
    return folder


def in_stages(root, **fields):
    made = online(steps=3, checkpoint_every_steps=1)
    other = config("source_only", "folders")
    made.benchmark = other.benchmark
    made.update_from_flattened_dict(folder_fields(root))
    made.benchmark.eval.images, made.benchmark.eval.labels = "source/images", "source/labels"
    made.eval.pictures, made.eval.validators = 1, ()
    made.stages, made.stage = tuple(STAGES), type(made)(STAGES)
    made.update_from_flattened_dict(fields)
    return made.lock()


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return experiment.run(in_stages(root), workdir), workdir


def test_a_run_that_was_stopped_ends_with_the_same_bits(whole, root, tmp_path, monkeypatch):
    monkeypatch.setattr(train.Journal, "add", stopping(train.Journal.add, after=2))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(in_stages(root), tmp_path)
    monkeypatch.undo()
    experiment.run(in_stages(root), tmp_path)
    expected = arrays(whole[1], "train")
    assert {"['memory']['agreement']"} < set(expected)
    assert any(path.startswith("['memory']['large']['optimizer']") for path in expected)
    assert arrays(tmp_path, "train") == expected


def test_every_network_of_the_stage_is_evaluated_with_its_own_weights(whole, root):
    results, workdir = whole
    plan = make_plan(in_stages(root), KINDS)
    saved = arrays(workdir, "train")
    places = {
        "train": "['g_params']",
        "train:large": "['memory']['large']['network']['params']",
        "train:teacher": "['teacher']['params']",
    }
    images = np.zeros((1, 8, 16, 3), np.float32)
    for name, place in places.items():
        model = load_network(plan, name, workdir)
        kernel = model.variables["params"]["logits"]["kernel"]
        assert np.asarray(kernel).tobytes() == saved[f"{place}['logits']['kernel']"], name
        outputs = model.module.clone(axis_name=None).apply(
            model.variables, images, train=True, mutable=["batch_stats"]
        )[0]
        assert ("aux4" in outputs) == (name != "train")
    assert {"eval_teacher", "eval_large", "eval_small"} <= set(results["stages"])


def test_predictions_are_those_of_the_small_network_unless_another_is_asked_for(whole, root):
    _, workdir = whole
    made = in_stages(root)
    small = networks.choose(made, workdir)
    assert (small.names, small.networks) == (("train",), (SMALL,))
    large = networks.choose(made, workdir, stage="eval_teacher")
    assert (large.names, large.networks) == (("train:teacher",), (LARGE,))


def test_the_log_shows_both_networks_and_the_teacher(whole):
    _, workdir = whole
    record = json.loads((workdir / "train" / "done.json").read_text())
    assert [line.partition(":")[0] for line in record["networks"]] == [SMALL, LARGE]
    rows = [json.loads(x) for x in (workdir / "train" / "metrics.jsonl").read_text().splitlines()]
    wanted = {"distil", "inconsistency", "large_loss", "large_mix", "teacher_classes"}
    assert all(wanted <= set(row) and row["large_loss"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone:large", "that stage trains no large network"),
        ("train:huge", "after the colon only 'teacher' and 'large' are known"),
        ("adabn:teacher", "that stage trains no teacher"),
    ],
)
def test_networks_that_do_not_exist_are_named(root, name, message):
    alone = {"kind": "train", "model": {"large": ""}}
    made = {"alone": alone, **STAGES, "last": {"kind": "evaluate", "models": (name,)}}
    chosen = in_stages(root).copy_and_resolve_references().unlock()
    chosen.stages, chosen.stage = tuple(made), type(chosen)(made)
    with pytest.raises(ConfigError, match=message):
        make_plan(chosen.lock(), KINDS)


def test_a_later_stage_may_be_taught_by_the_teacher(root):
    """The second phase of DUDA."""
    tune = {
        "kind": "train",
        "init": "train",
        "taught_by": "train:teacher",
        "model": {"large": ""},
        "teacher": {"kind": "frozen"},
    }
    made = in_stages(root).copy_and_resolve_references().unlock()
    made.stages, made.stage = (
        ("train", "tune"),
        type(made)({"train": {"kind": "train"}, "tune": tune}),
    )
    plan = make_plan(made.lock(), KINDS)
    assert plan["tune"].method.teacher_network.module == plan["train"].method.large.generator
    assert plan["tune"].method.large is None


def test_the_configuration_trains_both_networks_in_one_stage():
    plan = make_plan(get("distill", "labels=online,temperature=3,fda=0.01").lock(), KINDS)
    assert list(plan) == ["train", "eval_large", "eval_small"]
    stage = plan["train"]
    heads = ("", "_aux16", "_aux32")
    shared = {f"{term}{head}": 1.0 for term in ("seg", "mix", "masked") for head in heads}
    shared["feature_distance"] = 0.005
    small = {**shared, **{f"distil{head}": 1.0 for head in heads}}
    assert trained(plan) == {"train": (small, 0.01, "source")}
    large = {name: weight for name, (_, weight) in stage.method.large.objective.items()}
    assert large == shared
    assert terms.views(stage.method.objective) == {"source", "target", "mixed", "masked"}
    assert terms.views(stage.method.large.objective) == {"source", "mixed", "masked"}
    assert (stage.config.model.name, stage.config.model.large) == ("bisenet_lite0", "bisenet_lite2")
    teacher = stage.config.teacher
    assert (teacher.kind, teacher.temperature, teacher.inconsistency) == ("ema", 3.0, 1.0)
