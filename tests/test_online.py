"""Online distillation: a large network, its average and a small network in one stage."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LARGE, batch, normalised, online, softmax

from rtda_jax.adapt import build, teacher, terms
from rtda_jax.adapt import step as adapt_step
from rtda_jax.adapt.step import label_target, make_train_step
from rtda_jax.adapt.teacher import with_teacher
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel

pytestmark = pytest.mark.usefixtures("networks_of_two_kinds")


def numbered(step=0):
    made = batch(step)
    return {**made, "target_index": made["source_index"]}


def beginning(method):
    """The first state; tiny networks of one seed are equal, so the small one is moved away."""
    state = build.initial_state(method)
    if method.large is None:
        return state
    return state.replace(g_params=jax.tree.map(lambda x: 0.5 * x + 0.1, state.g_params))


def trains(method, count=3, *, mesh=None):
    """The state after some steps, and the logs of the last."""
    step, state = make_train_step(method), beginning(method)
    run = jax.jit(step)
    if mesh:
        run, state = parallel.pmapped(step, mesh), parallel.replicate(state, mesh)
    for n in range(count):
        state, logs = run(state, numbered(n))
    return state, logs


@pytest.fixture(scope="module")
def method(networks_of_two_kinds):
    return build.build(online())


@pytest.fixture(scope="module")
def step(method):
    return jax.jit(make_train_step(method))


@pytest.fixture(scope="module")
def two_steps(method, step):
    """The state after two steps."""
    state = beginning(method)
    for n in range(2):
        state, _ = step(state, numbered(n))
    return state


@pytest.fixture(scope="module")
def three_steps(step, two_steps):
    """The state after three steps, and the logs of the third."""
    return step(two_steps, numbered(2))


def test_the_inconsistency_of_a_class_is_one_minus_its_iou():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5))
    labels = np.where(rng.random((2, 3, 4)) < 0.5, logits.argmax(-1), rng.integers(0, 4, (2, 3, 4)))
    labelled = rng.random(labels.shape) < 0.7
    areas, count = teacher.agreement(
        jnp.float32(logits), jnp.uint8(labels), jnp.array(labelled), num_classes=6
    )
    ours, theirs = logits.argmax(-1)[labelled], labels[labelled]
    both = [((ours == c) & (theirs == c)).sum() for c in range(6)]
    either = [((ours == c) | (theirs == c)).sum() for c in range(6)]
    assert count == labelled.sum() and either[5] == 0 < min(either[:5]) and max(both) > 0
    np.testing.assert_array_equal(areas, [both, either])
    expected = [1 - b / e if e else 1 for b, e in zip(both, either, strict=True)]
    np.testing.assert_allclose(teacher.inconsistency(areas / count), expected, rtol=1e-6)
    weights = teacher.distil_weights(areas / count, strength=2.5)
    np.testing.assert_allclose(weights, 1 + 2.5 * np.array(expected), rtol=1e-6)


def test_the_term_is_a_mean_weighted_by_the_teachers_class():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    labelled = rng.random((2, 3, 4)) < 0.6
    weights = rng.uniform(1, 3, 5).astype(np.float32)
    context = terms.TermContext(lambda logits, labels: None, temperature=2.0)
    ((term, _),) = terms.select({"distil": 1.0}, context).values()
    labels = theirs.argmax(-1)
    seen = {"teacher_logits": theirs, "teacher_labelled": labelled, "teacher_label": labels}

    def mean(logits):
        outputs = {"target": {"logits": logits}, "weights": {"classes": jnp.array(weights)}}
        total, count = term.evaluate(outputs, jax.tree.map(jnp.asarray, seen))
        return total / count

    p, q = softmax(theirs / 2), softmax(ours / 2)
    w = weights[labels] * labelled
    value, slope = jax.value_and_grad(mean)(jnp.asarray(ours))
    expected = (w * 4 * (p * np.log(p / q)).sum(-1)).sum() / w.sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, (w / w.sum())[..., None] * 2 * (q - p), atol=1e-7)


def test_the_large_network_and_the_teacher_are_those_of_a_stage_of_its_own(method, three_steps):
    state, logs = three_steps
    own = build.build(build.large_config(online()))
    assert trained_terms(own) == trained_terms(method.large) == {
        "seg": 1.0, "seg_aux16": 1.0, "seg_aux32": 1.0, "mix": 1.0
    }  # fmt: skip
    alone, own_logs = trains(own)
    for ours, theirs in (
        (state.large.network, alone.network),
        (state.large.g_opt, alone.g_opt),
        (state.teacher, alone.teacher),
    ):
        assert_close(ours, theirs)
    assert {f"large_{name}" for name in own_logs} - set(logs) == {
        *("large_teacher_sure", "large_teacher_classes")
    }
    for name in set(own_logs) & set(logs) - {"teacher_sure", "teacher_classes"}:
        np.testing.assert_allclose(logs[f"large_{name}"], own_logs[name], rtol=1e-4)
    np.testing.assert_allclose(logs["teacher_classes"], own_logs["teacher_classes"], rtol=1e-4)


def trained_terms(method):
    return {name: weight for name, (_, weight) in method.objective.items()}


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_the_small_network_learns_from_the_teacher_and_not_from_the_large_student(method, step):
    state = build.initial_state(method).replace(step=jnp.int32(5))
    off = jax.tree.map(lambda x: 0.5 * x + 0.1, state.large.network)
    moved = state.with_large(
        state.large.replace(g_params=off["params"], g_stats=off["batch_stats"])
    )
    (one, _), (other, _) = step(state, numbered()), step(moved, numbered())
    for field in ("g_params", "g_stats", "g_opt"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, field), getattr(other, field))
    jax.tree.map(np.testing.assert_array_equal, one.memory["agreement"], other.memory["agreement"])
    assert not same(one.large.g_params, other.large.g_params)
    taught, _ = step(state.replace(teacher=off), numbered())
    assert not same(one.g_params, taught.g_params)


def test_the_large_network_does_not_learn_from_the_small_one(method, step):
    state = build.initial_state(method)
    moved = state.replace(g_params=jax.tree.map(lambda x: 0.5 * x + 0.1, state.g_params))
    (one, _), (other, _) = step(state, numbered()), step(moved, numbered())
    assert not same(one.g_params, other.g_params)
    for tree in ("network", "g_opt"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(one.large, tree), getattr(other.large, tree)
        )
    jax.tree.map(np.testing.assert_array_equal, one.teacher, other.teacher)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_the_weights_are_those_of_the_areas_that_earlier_steps_have_averaged(
    method, step, two_steps, three_steps
):
    before, (after, logs) = two_steps, three_steps
    labelled, _, _ = label_target(method, before.teacher, numbered(2))
    old, new = (np.asarray(s.memory["agreement"]) for s in (before, after))
    # What the third step added: shares of pixels, each in the union of one or two classes.
    added = (new - 0.9 * old) / 0.1
    assert (added[0] <= added[1] + 1e-6).all()
    np.testing.assert_allclose(2 - added[0].sum(), added[1].sum(), rtol=1e-4)
    shares = np.bincount(np.asarray(labelled["teacher_label"]).ravel(), minlength=19)
    assert (added[1] >= shares / shares.sum() - 1e-5).all()
    seen = new[1] > 0
    expected = (1 - new[0][seen] / new[1][seen]).mean()
    np.testing.assert_allclose(logs["inconsistency"], expected, rtol=1e-5)
    fresh = before.replace(memory={**before.memory, "agreement": jnp.zeros((2, 19))})
    unweighted = dataclasses.replace(
        method, teacher=dataclasses.replace(method.teacher, inconsistency=0.0)
    )
    plain = {k: v for k, v in before.memory.items() if k != "agreement"}
    _, alike = jax.jit(make_train_step(unweighted))(before.replace(memory=plain), numbered(2))
    _, first = step(fresh, numbered(2))
    np.testing.assert_allclose(first["distil"], alike["distil"], rtol=1e-5)
    assert abs(logs["distil"] - alike["distil"]) > 1e-5
    assert "inconsistency" not in alike


def test_areas_are_averaged_with_the_teachers_decay_and_unseen_classes_do_not_count():
    method = types.SimpleNamespace(weighs_classes=True, teacher=types.SimpleNamespace(decay=0.75))
    old = np.array([[0.4, 0.0, 0.0, 0.1], [0.8, 0.0, 0.4, 0.1]])
    new = np.array([[0.0, 0.0, 0.0, 0.3], [0.4, 0.0, 0.0, 0.5]])
    logs = {"agreement": jnp.array(new), "loss": 2.0}
    memory, after = adapt_step._remember(method, {"agreement": jnp.array(old), "theta": 1}, logs)
    areas = 0.75 * old + 0.25 * new
    np.testing.assert_allclose(memory["agreement"], areas, rtol=1e-6)
    seen = [0, 2, 3]  # the second class was never predicted; of the third no pixel was agreed on
    expected = np.mean(1 - areas[0, seen] / areas[1, seen])
    np.testing.assert_allclose(after.pop("inconsistency"), expected, rtol=1e-6)
    assert memory["theta"] == 1 and after == {"loss": 2.0} and "agreement" in logs
    method.weighs_classes = False
    assert adapt_step._remember(method, {"theta": 1}, {"loss": 2.0}) == (
        {"theta": 1},
        {"loss": 2.0},
    )


def test_distil_terms_weigh_classes_by_the_areas_before_the_step(method):
    """The strength is the option's, the areas are the memory's, and the main head is counted."""
    rng = np.random.default_rng(8)
    shape = (2, 6, 8, 19)

    def scores():
        return jnp.float32(rng.normal(0, 3, shape))

    outputs = {
        "source": {head: scores() for head in ("logits", "aux16", "aux32")},
        "target": {head: scores() for head in ("logits", "aux16")},
        "mixed": {"logits": scores()},
    }
    taught, classes = scores(), rng.integers(0, 19, (2, 2, 6, 8)).astype(np.uint8)
    labelled = rng.random((2, 6, 8)) < 0.7
    made = {
        "source_label": classes[0],
        "mixed_label": classes[1],
        "mixed_weight": np.ones((2, 6, 8), np.float32),
        "teacher_logits": taught,
        "teacher_label": np.asarray(taught).argmax(-1).astype(np.uint8),
        "teacher_labelled": labelled,
    }
    either = rng.uniform(0.1, 0.2, 19)
    areas = np.float32([either * rng.uniform(0, 1, 19), either])
    state = types.SimpleNamespace(memory={"agreement": jnp.array(areas)}, step=3)
    sums, memory = adapt_step.generator_sums(outputs, method, state, made)
    assert memory is state.memory
    weights = (1 + 1.5 * (1 - areas[0] / areas[1]))[made["teacher_label"]] * labelled
    p = softmax(np.float64(taught) / 2)
    for name, head in (("distil", "logits"), ("distil_aux16", "aux16")):
        q = softmax(np.float64(outputs["target"][head]) / 2)
        loss = 4 * (p * np.log(p / q)).sum(-1)
        np.testing.assert_allclose(sums[name].total, (weights * loss).sum(), rtol=1e-4)
        np.testing.assert_allclose(sums[name].count, weights.sum(), rtol=1e-5)
    ours = np.asarray(outputs["target"]["logits"]).argmax(-1)
    theirs = made["teacher_label"]
    counted = [
        [(labelled & (ours == c) & (theirs == c)).sum() for c in range(19)],
        [(labelled & ((ours == c) | (theirs == c))).sum() for c in range(19)],
    ]
    np.testing.assert_array_equal(sums["agreement"].total, counted)
    assert sums["agreement"].count == labelled.sum()


def test_the_teacher_reads_images_as_its_own_network_does(method, monkeypatch):
    """A small and a large network may be normalised differently."""
    read = []

    def label(network, variables, images, **options):
        read.append((network, images, options["unlabelled"]))
        return {"teacher_label": "labels"}, {"sure": "sum"}, "after"

    monkeypatch.setattr(adapt_step.teacher, "label", label)
    made = {**numbered(), "target_border": "border"}
    other = dataclasses.replace(method, normalisation="caffe_bgr")
    labelled, after, sums = label_target(other, "before", made)
    assert labelled == {**made, "teacher_label": "labels"}
    assert (after, sums) == ("after", {"sure": "sum"})
    ((network, images, unlabelled),) = read
    assert network is method.large.generator and unlabelled == "border"
    np.testing.assert_allclose(images, normalised(made["target_image"]), atol=1e-5)
    alone = dataclasses.replace(other, large=None)
    label_target(alone, "before", made)
    assert read[1][0] is method.generator
    assert float(jnp.abs(read[1][1] - images).max()) > 10


def test_two_devices_train_what_one_does(three_steps):
    state, logs = three_steps
    mesh = parallel.mesh()
    assert mesh.size == 2
    two, two_logs = trains(build.build(online(), axis_name=parallel.AXIS), mesh=mesh)
    for field in ("g_params", "g_stats", "teacher", "memory"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
            getattr(two, field),
            getattr(state, field),
        )
    for name, value in logs.items():
        np.testing.assert_allclose(two_logs[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_micro_batches_add_up_to_the_batch_for_both_networks():
    fixed = {"model__batch_norm": "frozen", "model__pretrained": "imagenet"}
    whole, logs = trains(build.build(online(**fixed)), 2)
    parts, part_logs = trains(build.build(online(**fixed, optim__accumulate=2)), 2)
    for field in ("g_params", "teacher", "memory"):
        assert_close(getattr(parts, field), getattr(whole, field))
    for name in ("distil", "large_mix", "inconsistency", "large_grad_norm"):
        np.testing.assert_allclose(part_logs[name], logs[name], rtol=1e-4)


def test_computing_again_changes_nothing_for_either_network(three_steps):
    state, _ = three_steps
    again, _ = trains(build.build(online(model__remat="views")))
    assert_close(again.network, state.network)
    assert_close(again.large.network, state.large.network)


def test_without_weights_and_without_a_large_network_the_state_is_as_ever():
    method = build.build(online(model__large="", teacher__inconsistency=0.0))
    assert method.large is None and build.initial_state(method).memory == {}
    unread = build.build(online(objective__distil=0.0, objective__distil_aux16=0.0))
    assert set(build.initial_state(unread).memory) == {"large"}


def test_both_begin_from_their_own_pretrained_weights(monkeypatch):
    made = online(
        model__pretrained="imagenet", objective__feature_distance=0.1, model__name="bisenet_lite0"
    )
    asked = []

    def load(source, name, variables, **options):
        asked.append((source, name))
        scaled = jax.tree.map(lambda x: x + len(asked), variables)
        return scaled, Report(name)

    @dataclasses.dataclass
    class Report:
        name: str
        path: str = ""
        normalisation: str | None = None

        def __str__(self):
            return f"weights of {self.name}"

    monkeypatch.setattr(build, "load_pretrained", load)
    method = build.build(made)
    assert (method.normalisation, method.large.normalisation) == ("tensorflow", "imagenet")
    read = {name: method.network(name).normalisation for name in ("student", "large", "teacher")}
    assert read == {"student": "tensorflow", "large": "imagenet", "teacher": "imagenet"}
    start = build.initial_state(method)
    state, sentence = build.pretrained_state(start, made)
    assert asked == [("imagenet", "bisenet_lite0"), ("imagenet", LARGE)]
    assert sentence == f"weights of bisenet_lite0; weights of {LARGE}"
    for n, (ours, fresh) in enumerate(((state, start), (state.large, start.large)), start=1):
        expected = jax.tree.map(lambda x, n=n: x + n, fresh.network)
        jax.tree.map(np.testing.assert_array_equal, ours.network, expected)
        jax.tree.map(np.testing.assert_array_equal, ours.memory["reference"], expected)
    state = with_teacher(state, method.teacher, network=method.teacher_network)
    jax.tree.map(np.testing.assert_array_equal, state.teacher, state.large.network)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__large": "huge"}, "model.large"),
        ({"teacher__kind": "frozen"}, "model.large is trained to be a teacher: set teacher.kind"),
        ({"init": "earlier"}, "init='earlier' gives weights to one network"),
        ({"objective__adv_output": 0.1}, "adv_output: discriminators judge one network"),
        ({"model__pretrained": "a.pth"}, "model.pretrained='a.pth' holds the weights of one"),
        ({"teacher__inconsistency": -1.0}, "teacher.inconsistency must be at least 0"),
        (
            {"objective__mix": 0.0, "objective__distil": 0.0, "objective__distil_aux16": 0.0},
            "give objective.distil, mix or masked a weight",
        ),
    ],
)
def test_what_two_networks_cannot_do_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build.build(online(**fields))
