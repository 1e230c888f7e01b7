import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import losses
from rtda_jax.errors import ConfigError
from rtda_jax.losses import LossOptions, Sum


def numpy_cross_entropy(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    out = np.zeros(labels.shape)
    for where in np.ndindex(labels.shape):
        if labels[where] != 255:
            out[where] = -log_p[where][labels[where]]
    return out


def example(seed=0, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (2, 4, 6))
    labels[rng.random(labels.shape) < 0.3] = 255
    return rng.normal(0, 3, (2, 4, 6, classes)), labels.astype(np.uint8)


def test_cross_entropy_against_numpy():
    logits, labels = example()
    loss = losses.cross_entropy(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(loss, numpy_cross_entropy(logits, labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        losses.focal,
        lambda logits, labels: losses.hardest(logits[..., 0], labels),
        lambda logits, labels: losses.detail(logits[..., :1], labels),
        lambda logits, labels: jax.jit(losses.focal)(logits, labels),
    ],
)
def test_labels_of_another_shape_are_not_broadcast(loss):
    logits, labels = example()
    with pytest.raises(ValueError, match=r"labels \(1, 4, 6\) do not fit pixels \(2, 4, 6\)"):
        loss(jnp.float32(logits), jnp.asarray(labels[:1]))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
@pytest.mark.parametrize("value", [-1, -5, 5, 30, 254])
def test_labels_of_no_class_are_named_and_nan_under_jit(loss, value):
    logits, labels = example()
    labels = labels.astype(np.int32)
    labels[0, 1, :2] = value, 255
    with pytest.raises(
        ValueError, match=rf"labels have the values {value}; expected 0\.\.4, or 255"
    ):
        loss(jnp.float32(logits), jnp.asarray(labels))
    with pytest.raises(
        ValueError, match=rf"labels have the values {value}; expected 0\.\.4, or 255"
    ):
        losses.label_weights(labels, np.ones(5))
    loud = np.argwhere(np.isnan(jax.jit(loss)(jnp.float32(logits), jnp.asarray(labels))))
    np.testing.assert_array_equal(loud, [[0, 1, 0]])
    weights = jax.jit(losses.label_weights)(jnp.asarray(labels), jnp.ones(5))
    np.testing.assert_array_equal(np.argwhere(np.isnan(weights)), [[0, 1, 0]])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.uint16])
def test_labels_of_every_integer_type_give_the_same_loss(dtype):
    logits, labels = example()
    if dtype == np.int8:  # which has no 255
        labels[labels == 255] = 0
    expected = jax.jit(losses.cross_entropy)(jnp.float32(logits), jnp.asarray(labels))
    loss = jax.jit(losses.cross_entropy)(jnp.float32(logits), jnp.asarray(labels.astype(dtype)))
    np.testing.assert_array_equal(loss, expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_against_numpy(gamma, weighted):
    logits, labels = example(1)
    ce = numpy_cross_entropy(logits, labels)
    weights = np.array([1.0, 2.0, 0.5, 3.0, 1.5]) if weighted else None
    expected = (1 - np.exp(-ce)) ** gamma * ce
    if weighted:
        expected = expected * weights[np.where(labels == 255, 0, labels)]
    loss = losses.focal(
        jnp.float32(logits), jnp.asarray(labels), gamma=gamma, class_weights=weights
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


def test_focal_golden_vectors():
    logits = jnp.array([[2.0, 0, -1], [0, 1, 0]]).reshape(1, 1, 2, 3)
    labels = jnp.array([[[0, 2]]])
    plain = losses.focal(logits, labels, gamma=2.0)
    weighted = losses.focal(logits, labels, gamma=2.0, class_weights=jnp.array([1.0, 2, 3]))
    np.testing.assert_allclose(plain.mean(), 0.483824, atol=1e-6)
    np.testing.assert_array_equal(losses.focal(logits, labels), plain)  # the default exponent
    np.testing.assert_allclose(weighted.mean(), 1.447327, atol=1e-6)


def test_the_weight_of_a_pixel_is_that_of_its_class():
    labels = jnp.uint8([[[2, 0, 255, 1, 2]]])
    weights = losses.label_weights(labels, np.array([0.5, 3.0, 7.0]))
    np.testing.assert_array_equal(weights, [[[7, 0.5, 0, 3, 7]]])
    assert weights.dtype == jnp.float32
    counts = losses.valid(jnp.uint8([[[0, 18, 254, 255]]]))
    np.testing.assert_array_equal(counts, [[[True, True, True, False]]])


def test_half_precision_logits_give_losses_in_single_precision():
    logits, labels = example(4)
    half = jnp.bfloat16(logits)
    expected = losses.cross_entropy(half.astype(jnp.float32), jnp.asarray(labels))
    np.testing.assert_array_equal(losses.cross_entropy(half, jnp.asarray(labels)), expected)
    assert losses.entropy(half).dtype == jnp.float32
    assert losses.least_squares(half, domain=1.0).dtype == jnp.float32
    assert losses.binary_cross_entropy(half, domain=1.0).dtype == jnp.float32


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.focal])
def test_all_ignored_is_zero_with_zero_gradient(loss):
    logits = jnp.full((1, 2, 2, 4), 50.0).at[..., 1].set(-50.0)
    labels = jnp.full((1, 2, 2), 255, jnp.uint8)
    value, grad = jax.jit(jax.value_and_grad(lambda z: loss(z, labels).sum()))(logits)
    assert value == 0
    assert not np.asarray(grad).any()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_at_certainty(gamma):
    logits = jnp.array([[[[100.0, -100.0]]]])
    grad = jax.grad(lambda z: losses.focal(z, jnp.zeros((1, 1, 1), int), gamma=gamma).sum())(logits)
    assert bool(jnp.isfinite(grad).all())


def test_discriminator_losses():
    logits = jnp.array([-2.0, 0.0, 3.0])
    source = losses.binary_cross_entropy(logits, domain=0.0)
    target = losses.binary_cross_entropy(logits, domain=1.0)
    np.testing.assert_allclose(source, np.log1p(np.exp(np.array([-2.0, 0, 3]))), rtol=1e-6)
    np.testing.assert_allclose(target, np.log1p(np.exp(-np.array([-2.0, 0, 3]))), rtol=1e-6)
    np.testing.assert_allclose(losses.least_squares(logits, domain=1.0), [9.0, 1.0, 4.0])
    np.testing.assert_allclose(losses.least_squares(logits, domain=0.0), [4.0, 0.0, 9.0])


def test_losses_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    logits, labels = example(2)
    weights = np.linspace(0.5, 2.0, 5)
    for weight in (None, weights):
        theirs = torch.nn.functional.cross_entropy(
            torch.tensor(logits).permute(0, 3, 1, 2),
            torch.tensor(labels.astype(np.int64)),
            weight=None if weight is None else torch.tensor(weight),
            ignore_index=255,
        )
        options = {} if weight is None else {"weighting": "given", "weights": tuple(weight)}
        total, count = sums("cross_entropy", logits, labels, **options)
        np.testing.assert_allclose(total / count, float(theirs), rtol=1e-5)


WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5)
GIVEN = {"weighting": "given", "weights": WEIGHTS}


def sums(name, logits, labels, **options):
    loss = losses.pixel_loss(name, LossOptions(**options), num_classes=logits.shape[-1])
    total = loss(jnp.float32(logits), jnp.asarray(labels))
    assert isinstance(total, Sum)
    return float(total.total), float(total.count)


@pytest.mark.parametrize("reduction", ["weights", "valid", "pixels"])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_weighted_losses_and_what_they_are_divided_by(name, reduction):
    logits, labels = example(3)
    ce, valid = numpy_cross_entropy(logits, labels), labels != 255
    weight = np.array(WEIGHTS)[np.where(valid, labels, 0)] * valid
    loss = ce if name == "cross_entropy" else (1 - np.exp(-ce)) ** 1.5 * ce
    count = {"weights": weight.sum(), "valid": valid.sum(), "pixels": labels.size}[reduction]
    weighted = sums(name, logits, labels, reduction=reduction, gamma=1.5, **GIVEN)
    np.testing.assert_allclose(weighted, ((weight * loss).sum(), count), rtol=1e-5)
    unweighted = sums(name, logits, labels, reduction=reduction, gamma=1.5)
    count = labels.size if reduction == "pixels" else valid.sum()
    np.testing.assert_allclose(unweighted, (loss.sum(), count), rtol=1e-5)


def test_weighted_cross_entropy_golden_vectors():
    logits = np.array([[2.0, 0, -1], [0, 1, 0]]).reshape(1, 1, 2, 3)
    labels = np.array([[[0, 2]]])
    given = {"weighting": "given", "weights": (1.0, 2, 3)}
    for reduction, expected in (("weights", 1.206045), ("pixels", 2.412090)):
        total, count = sums("cross_entropy", logits, labels, reduction=reduction, **given)
        assert total / count == pytest.approx(expected, abs=1e-6)


def numpy_ohem(loss, labels, *, rule, probability):
    """States both originals: one sorts and branches, one masks and falls back to the largest."""
    threshold = -np.log(probability)
    ranked = np.sort(loss.ravel())[::-1]
    if rule == "pixels":
        least = labels.size // 16
        hard = ranked[ranked > threshold] if ranked[least] > threshold else ranked[:least]
    else:
        least = (labels != 255).sum() // 16
        hard = ranked[ranked > threshold]
        hard = ranked[:least] if hard.size < least else hard
    return hard.sum(), hard.size


@pytest.mark.parametrize("rule", ["pixels", "valid"])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["unsure", "sure"])
@pytest.mark.parametrize("ignored", [0.2, 0.95])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("probability", [0.7, 0.35])
def test_hard_example_mining_against_numpy(rule, scale, ignored, weighted, probability):
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, (2, 8, 16)).astype(np.uint8)
    logits = scale * (np.eye(5)[labels] + 0.02 * rng.normal(0, 1, (2, 8, 16, 5)))
    labels[rng.random(labels.shape) < ignored] = 255
    loss = numpy_cross_entropy(logits, labels)
    if weighted:
        loss = loss * np.array(WEIGHTS)[np.where(labels == 255, 0, labels)]
    expected = numpy_ohem(loss, labels, rule=rule, probability=probability)
    options = {"ohem_rule": rule, "ohem_probability": probability}
    options |= GIVEN if weighted else {}
    mined = sums("ohem", logits, labels, **options)
    np.testing.assert_allclose(mined, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["pixels", "valid"])
@pytest.mark.parametrize("hard", [3, 4, 5])
def test_hard_example_mining_on_both_sides_of_its_least_number(rule, hard):
    # n_min is 4 of 64; the losses above -ln 0.7 = 0.357 are `hard` in number.
    loss = np.float32(np.linspace(0.3, 0.01, 64))
    loss[:hard] = np.linspace(2.0, 1.0, hard)
    labels = jnp.zeros((1, 8, 8), jnp.uint8)
    mined = losses.hardest(jnp.asarray(loss.reshape(1, 8, 8)), labels, rule=rule)
    expected = numpy_ohem(loss, np.asarray(labels), rule=rule, probability=0.7)
    np.testing.assert_allclose(mined, expected, rtol=1e-6)
    assert mined.count == max(hard, 4)


def test_a_pixel_of_just_the_probability_is_not_hard():
    confident = float(-jnp.log(jnp.float32(0.7)))
    loss = jnp.full((1, 8, 8), confident).at[0, 0].set(0.5)
    mined = losses.hardest(loss, jnp.zeros((1, 8, 8), jnp.uint8), rule="valid")
    np.testing.assert_allclose(mined, (4.0, 8.0), rtol=1e-6)


@pytest.mark.parametrize("rule", ["pixels", "valid"])
def test_hard_example_mining_of_ties_keeps_exactly_the_least_number(rule):
    loss, labels = jnp.full((1, 8, 8), 0.1), jnp.zeros((1, 8, 8), jnp.uint8)
    loss = loss.at[0, 0, 0].set(0.2)

    def mined(x):
        mined = losses.hardest(x, labels, rule=rule)
        return mined.total, mined.count

    (total, count), grad = jax.value_and_grad(mined, has_aux=True)(loss)
    np.testing.assert_allclose((total, count, grad.sum()), (0.5, 4, 4), rtol=1e-6)
    np.testing.assert_allclose(grad[0, 0, :2], (1, 3 / 63), rtol=1e-6)


def test_hard_example_mining_of_less_than_sixteen_pixels_may_keep_none():
    loss, labels = jnp.full((1, 3, 4), 0.1), jnp.zeros((1, 3, 4), jnp.uint8)
    for rule in losses.N_MIN_RULES:
        np.testing.assert_array_equal(losses.hardest(loss, labels, rule=rule), (0, 0))
        hard = losses.hardest(loss.at[0, 1, 2].set(2.0), labels, rule=rule)
        np.testing.assert_array_equal(hard, (2, 1))
    mined = losses.hardest(loss, labels, probability=0.99)
    np.testing.assert_allclose(mined, (1.2, 12), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(losses.PIXEL_LOSSES))
@pytest.mark.parametrize("rule", ["pixels", "valid"])
def test_every_pixel_loss_of_ignored_pixels_is_finite_and_moves_nothing(name, rule):
    options = LossOptions(**GIVEN, ohem_rule=rule)
    labels = jnp.full((1, 4, 8), 255, jnp.uint8)
    logits = 40.0 * jax.random.normal(jax.random.key(0), (1, 4, 8, 5))

    def loss(z):
        total, count = losses.pixel_loss(name, options, num_classes=5)(z, labels)
        return total / jnp.maximum(jax.lax.stop_gradient(count), 1.0)

    value, grad = jax.value_and_grad(loss)(logits)
    assert value == 0
    assert not np.asarray(grad).any()


def test_the_default_options():
    assert dataclasses.asdict(LossOptions()) == {
        "weighting": "none",
        "weights": (),
        "enet_c": 1.02,
        "reduction": "weights",
        "gamma": 2.0,
        "ohem_probability": 0.7,
        "ohem_rule": "pixels",
        "eta": 2.0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, r"loss\.gamma must be at least 0, got -0\.1"),
        ({"ohem_probability": 1.0}, r"loss\.ohem_probability must lie in \(0, 1\), got 1"),
        ({"ohem_probability": 0.0}, r"loss\.ohem_probability must lie in \(0, 1\), got 0"),
        ({"enet_c": 1.0}, r"loss\.enet_c must be above 1, got 1"),
        ({"eta": 0.0}, r"loss\.eta must be above 0, got 0"),
        ({"weights": (1.0, 2.0)}, r"loss\.weights is read by loss\.weighting='given' only"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LossOptions(**options)


@pytest.mark.parametrize("field", ["weighting", "reduction", "ohem_rule"])
def test_unknown_names_are_refused_by_field(field):
    with pytest.raises(ConfigError, match=rf"loss\.{field} 'old'; known: "):
        LossOptions(**{field: "old"})


def test_limits_are_allowed():
    LossOptions(gamma=0.0, eta=0.5, enet_c=1.01)


def test_an_unknown_pixel_loss_is_named():
    message = "pixel_loss 'ce'; known: cross_entropy, focal, ohem"
    with pytest.raises(ConfigError, match=message):
        losses.pixel_loss("ce", LossOptions(), num_classes=5)


def test_class_weights_are_none_or_those_given():
    assert losses.class_weights(LossOptions(), num_classes=5) is None
    weights = losses.class_weights(LossOptions(**GIVEN), num_classes=5)
    np.testing.assert_array_equal(weights, np.float32(WEIGHTS))
    assert weights.dtype == jnp.float32


@pytest.mark.parametrize("refused", [losses.class_weights, losses.check_weights])
def test_weights_must_be_one_for_each_class(refused):
    message = r"loss\.weights has 5 numbers, the class set has 6 classes"
    with pytest.raises(ConfigError, match=message):
        refused(LossOptions(**GIVEN), num_classes=6)
    with pytest.raises(ConfigError, match=message):
        losses.pixel_loss("focal", LossOptions(**GIVEN), num_classes=6)


def test_weights_that_were_not_counted_are_refused_when_they_are_read():
    loss = losses.pixel_loss("cross_entropy", LossOptions(weighting="enet"), num_classes=5)
    logits, labels = example()
    with pytest.raises(ConfigError, match="weighting='enet' are not computed yet"):
        loss(jnp.float32(logits), jnp.asarray(labels))


def test_entropy_and_self_information_golden_vectors():
    np.testing.assert_allclose(losses.entropy(jnp.zeros((1, 1, 1, 19))), 1.0, rtol=1e-6)
    p = np.array([0.7, 0.2, 0.1])
    logits = jnp.log(jnp.float32(p)).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(losses.entropy(logits), 0.729847, atol=1e-6)
    np.testing.assert_allclose(
        losses.self_information(logits).ravel(), -p * np.log2(p) / np.log2(3), rtol=1e-5
    )
    certain = losses.entropy(jnp.array([[[[0.0, -1e4, -1e4]]]]))
    np.testing.assert_allclose(certain, 0.0, atol=1e-7)


def test_robust_entropy_golden_vector_has_the_nineteen_classes_of_its_authors():
    padded = np.concatenate([np.log([0.7, 0.2, 0.1]), np.full(16, -80.0)])
    logits = jnp.float32(padded).reshape(1, 1, 1, 19)
    np.testing.assert_allclose(losses.robust_entropy(logits), 0.00549942, rtol=1e-4)
    # For a certain prediction only the constant (1e-8)^eta is left.
    certain = jnp.array([[[[1e4, 0.0]]]])
    np.testing.assert_allclose(losses.robust_entropy(certain, eta=0.5), 1e-4, rtol=1e-4)
    grad = jax.grad(lambda z: losses.robust_entropy(z).sum())(certain)
    assert np.isfinite(grad).all()


def test_detail_is_the_binary_cross_entropy_and_the_dice_loss_of_each_image():
    rng = np.random.default_rng(7)
    labels = np.kron(rng.integers(0, 3, (2, 4, 6)), np.ones((1, 8, 8))).astype(np.uint8)
    z = rng.normal(0, 2, (2, 32, 48)).astype(np.float32)
    target = np.asarray(losses.detail_targets(jnp.asarray(labels)), np.float64)
    assert 0.1 < target.mean() < 0.9
    p = 1 / (1 + np.exp(-np.float64(z)))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    for i in range(2):
        both = (p[i] * target[i]).sum()
        expected[i] += 1 - (2 * both + 1) / (p[i].sum() + target[i].sum() + 1)
    found = losses.detail(jnp.asarray(z)[..., None], jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
