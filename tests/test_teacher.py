import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZE, Tiny, batch, config, in_training, normalised, softmax

from rtda_jax.adapt import build, teacher, views
from rtda_jax.adapt import step as adapt_step
from rtda_jax.adapt.state import NetworkSpec
from rtda_jax.adapt.step import make_train_step
from rtda_jax.adapt.teacher import TeacherOptions, follow
from rtda_jax.errors import ConfigError
from rtda_jax.models import create_model
from rtda_jax.run import parallel

AS_RELEASED = {
    "teacher.average": "parameters",
    "teacher.follows": "before",
    "teacher.statistics": "batch",
    "teacher.share": "batch",
}


def prepared(method, state, made):
    """Prepares a batch by the functions that the step calls before it differentiates."""
    key = jax.random.fold_in(state.key, state.step)
    teacher = state.teacher
    if method.teacher.follows == "before":
        student = state.network
        teacher = follow(teacher, student, state.step, options=method.teacher)
    made, _, _ = adapt_step.label_target(method, teacher, made)
    return views.prepare(method.preparation, made, key, state)


def dacs(**fields):
    """Returns the method of class mixing on a tiny network, and its state before the first step."""
    chosen = config("dacs", batch_size=4)
    chosen.update_from_flattened_dict(fields)
    chosen.objective.update({name: 0.0 for name in chosen.objective if "_aux" in name})
    method = build.build(chosen)
    return method, build.initial_state(method)


def close(tree, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), tree, expected
    )


def test_average_against_numpy():
    options = TeacherOptions(kind="ema", decay=0.7)
    move = jax.jit(functools.partial(follow, options=options))
    rng = np.random.default_rng(0)
    teacher, expected = {"w": jnp.zeros(3)}, np.zeros(3)
    for step in range(6):
        student = rng.normal(size=3)
        teacher = move(teacher, {"w": jnp.float32(student)}, jnp.int32(step))
        decay = min(1 - 1 / (step + 1), 0.7)
        expected = decay * expected + (1 - decay) * student
        if step == 0:
            np.testing.assert_allclose(teacher["w"], student, rtol=1e-6)  # the first copies
    np.testing.assert_allclose(teacher["w"], expected, rtol=1e-5)


def test_a_frozen_teacher_stays():
    first = {"w": jnp.ones(2)}
    frozen = TeacherOptions(kind="frozen")
    assert follow(first, {"w": jnp.zeros(2)}, jnp.int32(3), options=frozen) is first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 1.0}, r"teacher\.decay must lie in \[0, 1\), got 1"),
        ({"kind": "mean"}, r"known: ema, frozen, none"),
        ({"average": "some"}, r"teacher\.average 'some'; known: all, parameters"),
        ({"follows": "now"}, r"teacher\.follows 'now'; known: after, before"),
        ({"statistics": "own"}, r"teacher\.statistics 'own'; known: batch, running"),
        ({"share": "run"}, r"teacher\.share 'run'; known: batch, image"),
        ({"average": "parameters"}, r"it needs teacher\.statistics='batch'"),
        ({"threshold": 0.0}, r"teacher\.threshold must be a probability within \(0, 1\), got 0"),
        ({"threshold": 1.0}, r"teacher\.threshold must be a probability within \(0, 1\), got 1"),
        ({"borders": (0, -1, 0, 0)}, r"teacher\.borders must be numbers of pixels from 0"),
        ({"decay": -0.1}, r"teacher\.decay must lie in \[0, 1\), got -0\.1"),
        ({"temperature": 0.0}, r"teacher\.temperature must be above 0, got 0"),
        ({"inconsistency": -0.5}, r"teacher\.inconsistency must be at least 0, got -0\.5"),
    ],
)
def test_teachers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        TeacherOptions(**fields)


def test_limits_are_allowed():
    TeacherOptions("ema", decay=0.0, inconsistency=0.0)
    TeacherOptions("ema", average="parameters", statistics="batch")


def test_the_teacher_is_the_average_of_weights_and_running_statistics(tiny_networks):
    method, current = dacs(**{"teacher.decay": 0.75})
    step = jax.jit(make_train_step(method))
    expected = current.teacher
    for n, stays in enumerate((0.0, 0.5, 2 / 3, 0.75, 0.75)):
        current, _ = step(current, indexed(n))
        student = current.network
        expected = jax.tree.map(lambda a, b, k=stays: k * a + (1 - k) * b, expected, student)
        close(current.teacher, expected)


def indexed(n):
    return {**batch(n), "target_index": np.arange(4, dtype=np.int32) + 4 * n}


def test_as_released_the_teacher_moves_first_and_keeps_statistics_of_its_own(tiny_networks):
    method, current = dacs(**AS_RELEASED, **{"teacher.decay": 0.6})
    step = jax.jit(make_train_step(method))
    params, stats = current.teacher["params"], current.teacher["batch_stats"]
    for n, stays in enumerate((0.0, 0.5, 0.6)):
        student = current.g_params
        params = jax.tree.map(lambda a, b, k=stays: k * a + (1 - k) * b, params, student)
        images = normalised(indexed(n)["target_image"])
        outputs, seen = method.generator.apply(
            {"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"]
        )
        stats = seen["batch_stats"]
        labels = prepared(method, current, indexed(n))["teacher_label"]
        assert (np.asarray(labels) == np.argmax(outputs["logits"], -1)).mean() > 0.999
        current, _ = step(current, indexed(n))
        close(current.teacher["params"], params)
        close(current.teacher["batch_stats"], stats)
    jax.tree.map(  # the teacher's differ from the student's
        lambda a, b: np.testing.assert_(not np.allclose(a, b)), stats, current.g_stats
    )


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("share", ["image", "batch"])
def test_labels_and_weights_against_numpy(statistics, share):
    network = Tiny(num_classes=5)
    images = np.random.default_rng(2).normal(size=(3, 16, 24, 3)).astype(np.float32)
    images *= np.array([1, 2, 3]).reshape(3, 1, 1, 1)
    variables = network.init(jax.random.key(0), images)
    hidden = np.zeros((3, 16, 24), np.uint8)
    hidden[1, 4:6, :7] = 255
    options = TeacherOptions(
        "ema", statistics=statistics, share=share, threshold=0.5, borders=(1, 2, 3, 4)
    )
    labels, logs, after = teacher.label(
        network, variables, images, options=options, unlabelled=hidden
    )
    outputs, seen = network.apply(
        variables, images, train=statistics == "batch", mutable=["batch_stats"]
    )
    p = softmax(np.float64(outputs["logits"]))
    sure = p.max(-1) >= 0.5
    assert np.ptp(sure.mean((1, 2))) > 0.1
    weight = np.broadcast_to(
        sure.mean((1, 2) if share == "image" else None, keepdims=True), sure.shape
    ).copy()
    weight[:, :1] = weight[:, -2:] = weight[:, :, :3] = weight[:, :, -4:] = 0
    weight[hidden > 0] = 0
    np.testing.assert_array_equal(labels["teacher_label"], p.argmax(-1))
    assert labels["teacher_label"].dtype == np.uint8
    labelled = np.zeros_like(sure)
    labelled[:, 1:-2, 3:-4] = True
    np.testing.assert_array_equal(labels["teacher_labelled"], labelled & (hidden == 0))
    np.testing.assert_allclose(labels["teacher_weight"], weight, rtol=1e-6)
    total, count = logs["teacher_sure"]
    np.testing.assert_allclose(total / count, sure.mean(), rtol=1e-6)
    shares = [np.bincount(image.ravel(), minlength=5) / image.size for image in p.argmax(-1)]
    spread = [np.exp(-sum(s * np.log(s) for s in image if s)) for image in shares]
    total, count = logs["teacher_classes"]
    np.testing.assert_allclose(total / count, np.mean(spread), rtol=1e-5)
    expected = seen["batch_stats"] if statistics == "batch" else variables["batch_stats"]
    close(after, {**variables, "batch_stats": expected})


def test_confidence_counts_the_pixels_that_reach_the_threshold():
    sure, unsure = [0.968, 0.016, 0.016], [0.96, 0.02, 0.02]
    probabilities = jnp.array([[[sure, unsure], [unsure, unsure]], [[sure, sure], [sure, unsure]]])
    share = teacher.confidence(probabilities)
    np.testing.assert_allclose(share, [0.25, 0.75])
    np.testing.assert_allclose(teacher.confidence(probabilities, threshold=0.969), 0)
    np.testing.assert_allclose(teacher.SHARES["image"](share, None), [0.25, 0.75])
    np.testing.assert_allclose(teacher.SHARES["batch"](share, None), [0.5, 0.5])


def test_the_batch_is_that_of_all_devices():
    share = jnp.array([[0.1, 0.2], [0.5, 0.8]])
    everywhere = jax.pmap(
        lambda x: teacher.SHARES["batch"](x, parallel.AXIS), axis_name=parallel.AXIS
    )(share)
    np.testing.assert_allclose(everywhere, np.full((2, 2), 0.4), rtol=1e-6)


def test_a_teacher_is_asked_for_by_the_terms_that_need_it():
    for term in ("mix", "masked"):
        with pytest.raises(ConfigError, match=f"{term} terms need a teacher to label the target"):
            build.build(config("source_only", **{f"objective__{term}": 1.0}))


def test_the_masked_view_is_the_hidden_target_trained_with_the_teachers_labels(tiny_networks):
    fields = {
        "objective.mix": 0.0,
        "objective.masked": 0.5,
        "masked.block": 8,
        "masked.colour": "none",
        "teacher.threshold": 0.1,
        "teacher.borders": (4, 0, 0, 8),
    }
    method, start = dacs(**fields)
    # At first the network is unsure everywhere.
    larger = jax.tree.map(lambda x: 4 * x, start.g_params)
    start = start.replace(g_params=larger, teacher={"params": larger, "batch_stats": start.g_stats})
    made = prepared(method, start, indexed(0))
    target = normalised(indexed(0)["target_image"])
    shown = np.asarray((made["masked_image"] != 0).any(-1))
    assert 0.1 < shown.mean() < 0.5
    np.testing.assert_allclose(made["masked_image"], target * shown[..., None], atol=1e-5)
    blocks = shown.reshape(4, 4, 8, 8, 8)
    assert (blocks == blocks[:, :, :1, :, :1]).all()

    outputs = method.generator.apply(start.teacher, target)
    p = softmax(np.float64(outputs["logits"]))
    weight = np.zeros(p.shape[:3]) + (p.max(-1) >= 0.1).mean((1, 2), keepdims=True)
    weight[:, :4] = weight[:, :, -8:] = 0
    assert weight.max() > 0.05
    logits, _ = in_training(start, made["masked_image"], method.generator)
    q = softmax(np.float64(logits["logits"]))
    picked = np.take_along_axis(q, p.argmax(-1)[..., None], -1)[..., 0]
    _, logs = jax.jit(make_train_step(method))(start, indexed(0))
    np.testing.assert_allclose(logs["masked"], -(weight * np.log(picked)).mean(), rtol=1e-3)
    np.testing.assert_allclose(logs["loss"], logs["seg"] + 0.5 * logs["masked"], rtol=1e-5)
    assert "pull_masked" in logs


def test_the_border_of_a_target_image_gets_no_weight(tiny_networks):
    method, start = dacs(**{"teacher.threshold": 0.02})
    border = np.zeros((4, *SIZE), np.uint8)
    border[1, 5:9, 30:] = 1
    border[2, :, :11] = 255
    made = {**indexed(0), "target_border": border}
    labelled, _, _ = adapt_step.label_target(method, start.teacher, made)
    assert (np.asarray(labelled["teacher_weight"]) == np.where(border > 0, 0.0, 1.0)).all()


def test_the_share_of_a_batch_is_that_of_all_devices_in_the_step_as_well(tiny_networks):
    method, start = dacs()
    made = indexed(0)
    outputs = method.generator.apply(start.teacher, normalised(made["target_image"]))
    sure = softmax(np.float64(outputs["logits"])).max(-1)
    made["target_image"][2:] = made["target_image"][np.unravel_index(sure.argmax(), sure.shape)]
    options = TeacherOptions("ema", share="batch", threshold=float(np.median(sure[:2])))
    method = dataclasses.replace(method, teacher=options)
    whole, _, _ = adapt_step.label_target(method, start.teacher, made)
    halves = {name: x.reshape(2, 2, *x.shape[1:]) for name, x in made.items()}
    mapped = dataclasses.replace(method, axis_name=parallel.AXIS)
    labelled = jax.pmap(
        lambda data: adapt_step.label_target(mapped, start.teacher, data)[0]["teacher_weight"],
        axis_name=parallel.AXIS,
    )(halves)
    half = {n: x[:2] for n, x in made.items()}
    alone, _, _ = adapt_step.label_target(method, start.teacher, half)
    weight = float(whole["teacher_weight"].mean())
    assert abs(float(alone["teacher_weight"].mean()) - weight) > 0.01
    np.testing.assert_allclose(labelled, weight, rtol=1e-5)


@pytest.mark.parametrize("name", ["bisenet_lite0", "deeplab_resnet101", "deeplab_vgg16"])
def test_a_network_of_any_architecture_has_shapes_before_its_variables_are_read(name):
    shapes = NetworkSpec(create_model(name), "imagenet", SIZE).shapes()
    assert set(shapes) == {"params", "batch_stats"} and jax.tree.leaves(shapes["params"])
    assert bool(jax.tree.leaves(shapes["batch_stats"])) == (name != "deeplab_vgg16")
