"""A frozen teacher of another architecture, and the soft labels that it gives."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Tiny, config, folder_fields, get, softmax, stages, write_folders
from tiny import arrays, stopping

from configs import base
from rtda_jax import experiment
from rtda_jax.adapt import build, teacher, terms
from rtda_jax.adapt.step import label_target
from rtda_jax.augment.normalise import normalise
from rtda_jax.errors import ConfigError
from rtda_jax.stages import KINDS, train
from rtda_jax.stages.plan import load_network, make_plan
from rtda_jax.train import Journal

pytestmark = pytest.mark.usefixtures("networks_of_two_kinds")

STAGES = {
    "large": {
        "kind": "train",
        "model": {"name": "bisenet_stdc1"},
        "normalisation": "tensorflow",
        "teacher": {"kind": "ema"},
        "objective": {"distil": 0.0, "distil_aux16": 0.0, "mix": 1.0, "masked": 1.0},
    },
    "small": {
        "kind": "train",
        "taught_by": "large:teacher",
        "teacher": {"kind": "frozen", "temperature": 2.0},
    },
    "eval_small": {"kind": "evaluate", "models": ("small",)},
}


@pytest.fixture(scope="module")
def networks_of_two_kinds(tiny_networks):
    """Tiny networks, of which the larger one's tree of parameters is another."""

    def model(name, *, num_classes, axis_name, batch_norm, dtype, **options):
        more = ("aux4",) if name == "bisenet_stdc1" else ()
        return Tiny(num_classes, axis_name, batch_norm, heads=("aux16", "aux32", *more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "create_model", model)
        yield


def soft(root, **fields):
    made = config("source_only", "folders", steps=3, checkpoint_every_steps=1)
    made.update_from_flattened_dict(folder_fields(root))
    made.eval.pictures, made.eval.validators = 1, ()
    made.stages, made.stage = tuple(STAGES), type(made)(STAGES)
    made.objective.update({"distil": 1.0, "distil_aux16": 0.5, "mix": 1.0, "masked": 1.0})
    made.update_from_flattened_dict(fields)
    return made.lock()


@pytest.fixture(scope="module")
def root(networks_of_two_kinds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    write_folders(folder, count=6)
    return folder


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return experiment.run(soft(root), workdir), workdir


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_disagreement_is_the_divergence_of_softened_softmax(temperature):
    rng = np.random.default_rng(0)
    ours, theirs = 3 * rng.normal(size=(2, 2, 3, 4, 5))
    p, q = softmax(theirs / temperature), softmax(ours / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)
    value = teacher.disagreement(jnp.float32(ours), jnp.float32(theirs), temperature=temperature)
    np.testing.assert_allclose(value, expected, rtol=2e-4, atol=1e-5)


def test_its_gradient_is_that_of_hinton_and_reaches_the_student_alone():
    rng = np.random.default_rng(1)
    ours, theirs = (jnp.float32(x) for x in rng.normal(size=(2, 1, 2, 2, 4)))
    to_ours, to_theirs = jax.grad(
        lambda a, b: teacher.disagreement(a, b, temperature=3.0).sum(), argnums=(0, 1)
    )(ours, theirs)
    expected = 3 * (softmax(np.asarray(ours) / 3) - softmax(np.asarray(theirs) / 3))
    np.testing.assert_allclose(to_ours, expected, rtol=1e-4, atol=1e-6)
    assert not np.asarray(to_theirs).any()


def test_the_term_averages_over_labelled_pixels_at_the_temperature_of_the_options():
    rng = np.random.default_rng(2)
    student, taught = (jnp.float32(x) for x in rng.normal(size=(2, 2, 3, 4, 5)))
    context = terms.TermContext(lambda logits, labels: None, temperature=2.5)
    ((term, weight),) = terms.select({"distil_aux16": 0.5}, context).values()
    assert (weight, term.head, term.views) == (0.5, "aux16", {"target"}) and term.needs_teacher
    labelled = jnp.array(rng.random((2, 3, 4)) < 0.5)
    batch = {"teacher_logits": taught, "teacher_labelled": labelled}
    sums = term.evaluate({"target": {"aux16": student}}, batch)
    expected = teacher.disagreement(student, taught, temperature=2.5)
    assert float(sums.total / sums.count) == pytest.approx(
        float(expected[labelled].mean()), rel=1e-5
    )


def test_the_teacher_is_the_network_of_the_stage_that_is_named_and_stays(whole, root):
    _, workdir = whole
    plan = make_plan(soft(root), KINDS)
    method = plan["small"].method
    assert method.teacher_network.module == plan["large"].method.generator != method.generator
    model = load_network(plan, "large:teacher", workdir)
    small, large = arrays(workdir, "small"), arrays(workdir, "large")
    kept = {k: v for k, v in large.items() if k.startswith("['teacher']")}
    assert kept and kept == {k: v for k, v in small.items() if k.startswith("['teacher']")}
    image = np.random.default_rng(3).integers(0, 256, (2, *method.size, 3), np.uint8)
    batch, _, _ = label_target(method, model.variables, {"target_image": jnp.asarray(image)})
    seen = model.module.apply(
        model.variables, normalise(jnp.float32(image), name="tensorflow"), train=False
    )
    np.testing.assert_allclose(batch["teacher_logits"], seen["logits"], rtol=1e-5, atol=1e-5)
    classes = np.argmax(np.asarray(seen["logits"]), axis=-1)
    clear = np.ptp(np.sort(np.asarray(seen["logits"]), axis=-1)[..., -2:], axis=-1) > 1e-4
    np.testing.assert_array_equal(np.asarray(batch["teacher_label"])[clear], classes[clear])


def test_a_run_that_was_stopped_ends_with_the_same_bits(whole, root, tmp_path, monkeypatch):
    made = soft(root)
    monkeypatch.setattr(Journal, "add", stopping(Journal.add, after=5))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(made, tmp_path)
    monkeypatch.undo()
    experiment.run(made, tmp_path)
    for stage in ("large", "small"):
        assert arrays(tmp_path, stage) == arrays(whole[1], stage)


def test_the_record_and_the_log_name_the_term(whole):
    _, workdir = whole
    record = json.loads((workdir / "small" / "done.json").read_text())
    assert "1·distil" in record["objective"] and "0.5·distil_aux16" in record["objective"]
    rows = (workdir / "small" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(row)["distil"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage.small.taught_by": "huge"}, "'huge' is no earlier train or statistics stage"),
        ({"stage.small.taught_by": "small"}, "'small' is no earlier"),
        ({"stage.small.teacher.kind": "ema"}, "needs teacher.kind='frozen', not 'ema'"),
        (
            {f"stage.large.objective.{name}": 0.0 for name in ("mix", "masked")}
            | {"stage.large.teacher.kind": "none"},
            "'large:teacher': that stage trains no teacher",
        ),
        ({"stage.small.teacher.temperature": 0.0}, "teacher.temperature must be above 0"),
        ({"stage.small.taught_by": "", "stage.small.teacher.kind": "none"}, "need a teacher"),
        (
            {
                "stage.large.model.batch_norm": "frozen",
                "stage.large.model.pretrained": "imagenet",
                "stage.small.teacher.statistics": "batch",
                "stage.small.normalisation": "imagenet",
            },
            "taught_by='large:teacher' has model.batch_norm='frozen', .* to 'running'",
        ),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_runs(root, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(soft(root, **fields), KINDS)


def test_a_teacher_that_normalises_by_the_batch_is_tried_on_one_image(root, monkeypatch):
    tried = []
    monkeypatch.setattr(train, "check_one_image", lambda network, *, size: tried.append(network))
    fields = {"stage.small.batch_size": 1, "stage.small.teacher.statistics": "batch"}
    plan = make_plan(soft(root, **fields), KINDS)
    assert tried == [plan["large"].method.generator]


def test_a_teacher_of_other_classes_is_refused(root):
    made = soft(root)
    with made.unlocked():
        made.stage.large.benchmark = {"classes": "camvid11", "eval_classes": "camvid11"}
    with pytest.raises(ConfigError, match="'large:teacher' knows other classes"):
        make_plan(made.lock(), KINDS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("temperature=2", "labels=hard has none"),
        ("inconsistency=1", "inconsistency goes with labels=online"),
        ("labels=soft,inconsistency=0", "inconsistency goes with labels=online"),
    ],
)
def test_what_the_labels_do_not_use_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        get("distill", argument)


def test_the_configuration_distils_hard_and_soft_labels():
    hard, fine = stages(get("distill")), stages(get("distill", "labels=soft,temperature=3"))
    assert list(hard) == ["large", "label", "small", "eval_large", "eval_small"]
    assert list(fine) == ["large", "small", "eval_large", "eval_small"]
    small = fine["small"]
    assert small.model.name == "bisenet_lite0" and fine["large"].model.name == "bisenet_lite2"
    active = {name: weight for name, weight in small.objective.items() if weight}
    families = ("seg", "mix", "masked", "distil")
    assert active == {f"{name}{head}": 1.0 for name in families for head in base.HEADS}
    learnt = {name for name, weight in hard["small"].objective.items() if weight}
    assert learnt == {f"{name}{head}" for name in ("seg", "pseudo") for head in base.HEADS}
    assert (small.taught_by, small.teacher.kind) == ("large:teacher", "frozen")
    assert (small.teacher.temperature, small.teacher.statistics) == (3.0, "running")


def test_the_larger_network_may_be_adapted_without_masks():
    fine = stages(get("distill", "method=daformer,labels=soft,distance=0"))
    active = {name: {k for k, w in fine[name].objective.items() if w} for name in fine}
    adapted = {f"{name}{head}" for name in ("seg", "mix") for head in base.HEADS}
    assert active["large"] == adapted
    assert active["small"] == adapted | {f"distil{head}" for head in base.HEADS}
