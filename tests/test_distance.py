import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Tiny, batch, config, in_training, normalised

from rtda_jax.adapt import build, distance, terms
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.step import make_train_step
from rtda_jax.data.labels import CLASS_SETS, class_set
from rtda_jax.errors import ConfigError

NAMES = class_set("cityscapes19").names


def case(seed=0, *, size=(64, 96), stride=16):
    rng = np.random.default_rng(seed)
    h, w = size[0] // stride, size[1] // stride
    labels = rng.integers(0, 6, (2, h, w)).repeat(stride, 1).repeat(stride, 2).astype(np.uint8)
    flipped = rng.random(labels.shape) < 0.25
    labels = np.where(flipped, rng.choice(np.array([0, 5, 255]), labels.shape), labels)
    features, reference = rng.normal(size=(2, 2, h, w, 7)).astype(np.float32)
    return features, reference, labels.astype(np.uint8)


def test_distance_against_pytorch():
    torch = pytest.importorskip("torch")
    features, reference, labels = case()
    things = (1, 3, 4, 5)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels).long(), 256).permute(0, 3, 1, 2)
    shares = torch.nn.functional.avg_pool2d(one_hot.float(), 16)
    ratio, winner = shares.max(1)
    inside = (ratio >= 0.75) & torch.isin(winner, torch.tensor(things))
    assert 0 < inside.sum() < inside.numel()
    ours = torch.tensor(features, requires_grad=True)
    norms = torch.linalg.vector_norm(ours - torch.tensor(reference), dim=-1)[inside]
    norms.mean().backward()

    def mean(x):
        total, count = distance.distance(x, reference, labels, classes=things, ratio=0.75)
        return total / count

    value, slope = jax.value_and_grad(mean)(jnp.asarray(features))
    np.testing.assert_allclose(value, norms.mean().item(), rtol=1e-6)
    np.testing.assert_allclose(slope, ours.grad, atol=1e-7)


def test_distance_is_the_length_of_the_difference_in_the_cells_of_a_thing():
    features, reference, labels = case(3)
    expected, count = 0.0, 0
    for image, row, column in np.ndindex(features.shape[:3]):
        block = labels[image, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        if max((block == thing).mean() for thing in (1, 3, 4)) >= 0.75:
            apart = features[image, row, column] - reference[image, row, column]
            expected, count = expected + np.sqrt((apart**2).sum()), count + 1
    assert 0 < count < features[..., 0].size
    total, cells = distance.distance(features, reference, labels, classes=(1, 3, 4), ratio=0.75)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert cells == count


def test_the_term_reads_its_own_classes_and_ratio():
    features, reference, labels = case(4)
    labels[:, ::3] = 255
    options = DistanceOptions(classes=("wall", "building"), ratio=0.5)
    context = terms.TermContext(lambda z, y: None, distance=options, names=NAMES)
    term = terms.TERMS["feature_distance"](context)
    assert (term.head, term.views) == ("trunk", {"source"})
    batch = {"reference_feature": reference, "source_label": labels}
    got = term.evaluate({"source": {"trunk": features}}, batch)
    expected = distance.distance(features, reference, labels, classes=(3, 2), ratio=0.5)
    other = distance.distance(features, reference, labels, classes=(3, 2), ratio=0.75)
    assert expected.count > other.count
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_where_nothing_has_changed_or_no_thing_is_seen_the_gradient_is_zero():
    features, _, labels = case()

    def total(x, classes):
        return distance.distance(x, features, labels, classes=classes, ratio=0.75).total

    assert not np.asarray(jax.grad(total)(jnp.asarray(features), (1, 2, 3))).any()
    nothing = distance.distance(features + 1, features, labels, classes=(9,), ratio=0.75)
    assert nothing.total == nothing.count == 0


def test_cells_of_maps_that_do_not_divide_the_image_count_what_is_outside_as_ignored():
    labels = np.full((1, 20, 16), 3, np.uint8)
    shown = distance.cells(labels, size=(2, 1), classes=(3,), ratio=1.0)
    np.testing.assert_array_equal(shown[0, :, 0], [True, True])
    shown = distance.cells(labels, size=(3, 1), classes=(3,), ratio=0.9)  # 7 rows: 7, 7 and 6
    np.testing.assert_array_equal(shown[0, :, 0], [True, True, False])
    shown = distance.cells(0 * labels, size=(3, 1), classes=(0,), ratio=0.9)
    np.testing.assert_array_equal(shown[0, :, 0], [True, True, False])


def test_two_classes_do_not_fill_a_cell_together():
    labels = np.full((1, 8, 16), 3, np.uint8)
    labels[:, :, 4:8] = 5
    shown = distance.cells(labels, size=(1, 2), classes=(3, 5), ratio=0.75)
    np.testing.assert_array_equal(shown, [[[False, True]]])


def test_every_class_set_of_streets_has_things():
    found = {n: DistanceOptions().class_indices(class_set(n).names) for n in CLASS_SETS}
    assert all(found.values())
    assert [NAMES[n] for n in found["cityscapes19"]] == [
        *("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train"),
        *("motorcycle", "bicycle"),
    ]  # those of DAFormer's code


def test_own_classes():
    assert DistanceOptions(classes=("sky", "road")).class_indices(NAMES) == (10, 0)
    with pytest.raises(ConfigError, match=r"distance\.classes names 'bear'; the classes are road,"):
        DistanceOptions(classes=("bear",)).class_indices(NAMES)
    with pytest.raises(ConfigError, match=r"none of the classes sky, sea is known as a thing"):
        DistanceOptions().class_indices(("sky", "sea"))
    with pytest.raises(ConfigError, match=r"distance\.ratio must be a share in \(0, 1\], got 0"):
        DistanceOptions(ratio=0.0)
    with pytest.raises(ConfigError, match=r"a share in \(0, 1\], got 1\.1"):
        DistanceOptions(ratio=1.1)
    DistanceOptions(ratio=1.0)


def chosen(**fields):
    return config(
        "source_only", objective__feature_distance=0.1, model__pretrained="imagenet", **fields
    )


def test_it_needs_a_pretrained_trunk_and_a_stage_of_it(tiny_networks):
    with pytest.raises(ConfigError, match=r"set model\.pretrained, for example to 'imagenet'"):
        build.build(config("source_only", objective__feature_distance=0.1))
    with pytest.raises(ConfigError, match=r"distance\.stage must be one of the trunk's 1 .*got 2"):
        build.build(chosen(distance__stage=2))


@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
def test_the_step_compares_the_trunk_with_a_reference_that_stays(tiny_networks, batch_norm):
    method = build.build(chosen(distance__ratio=0.5, model__batch_norm=batch_norm))
    start = build.initial_state(method)
    other = jax.tree.map(lambda x: 0.5 * x + 0.1, start.memory["reference"])
    start = start.replace(memory={"reference": other})
    made = batch(target=False)
    after, logs = jax.jit(make_train_step(method))(start, made)
    jax.tree.map(np.testing.assert_array_equal, after.memory, start.memory)

    images = normalised(made["source_image"])
    outputs, _ = in_training(start, images, method.generator)
    reference = method.generator.apply(other, images)
    total, count = distance.distance(
        outputs["feature"],  # of the tiny network it is what the trunk returns
        reference["feature"],
        made["source_label"],
        classes=DistanceOptions().class_indices(NAMES),
        ratio=0.5,
    )
    assert count > 0
    np.testing.assert_allclose(logs["feature_distance"], total / count, rtol=1e-4)
    np.testing.assert_allclose(
        logs["loss"],
        sum(method.objective[name][1] * logs[name] for name in method.objective),
        rtol=1e-5,
    )


class TwoMaps(nn.Module):
    """A trunk of two feature maps."""

    @nn.compact
    def __call__(self, images):
        first = nn.Conv(5, (3, 3), strides=4)(images)
        return first, nn.Conv(7, (3, 3), strides=2)(first)


class Pyramid(Tiny):
    """Logits from the last map of such a trunk."""

    @nn.compact
    def __call__(self, images, *, train=False):
        maps = TwoMaps(name="backbone")(images)
        scores = nn.Conv(self.num_classes, (1, 1), name="logits")(maps[-1])
        shape = (*images.shape[:3], self.num_classes)
        return {"logits": jax.image.resize(scores, shape, "bilinear"), "feature": maps[-1]}


@pytest.mark.parametrize("stage", [0, 1, -1])
def test_the_step_compares_the_maps_of_the_chosen_stage(stage, monkeypatch):
    monkeypatch.setattr(build, "create_model", lambda *_, **__: Pyramid())
    fields = {f"objective__seg_aux{scale}": 0.0 for scale in (16, 32)}
    method = build.build(chosen(distance__stage=stage, distance__ratio=0.3, **fields))
    start = build.initial_state(method)
    reference = jax.tree.map(lambda x: 0.5 * x + 0.1, start.memory["reference"])
    made = batch(target=False)
    _, logs = jax.jit(make_train_step(method))(start.replace(memory={"reference": reference}), made)
    images = normalised(made["source_image"])
    ours, theirs = (
        TwoMaps().apply({"params": v["backbone"]}, images)[stage]
        for v in (start.g_params, reference["params"])
    )
    total, count = distance.distance(
        ours,
        theirs,
        made["source_label"],
        classes=DistanceOptions().class_indices(NAMES),
        ratio=0.3,
    )
    assert count > 0
    np.testing.assert_allclose(logs["feature_distance"], total / count, rtol=1e-4)
