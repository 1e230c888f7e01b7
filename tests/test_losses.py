import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import losses
from rtda_jax.errors import ConfigError


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
    ours = losses.cross_entropy(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(ours, numpy_cross_entropy(logits, labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_against_numpy(gamma, weighted):
    logits, labels = example(1)
    ce = numpy_cross_entropy(logits, labels)
    weights = np.array([1.0, 2.0, 0.5, 3.0, 1.5]) if weighted else None
    expected = (1 - np.exp(-ce)) ** gamma * ce
    if weighted:
        expected = expected * weights[np.where(labels == 255, 0, labels)]
    ours = losses.focal(
        jnp.float32(logits), jnp.asarray(labels), gamma=gamma, class_weights=weights
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_focal_golden_vectors():
    logits = jnp.array([[2.0, 0, -1], [0, 1, 0]]).reshape(1, 1, 2, 3)
    labels = jnp.array([[[0, 2]]])
    plain = losses.focal(logits, labels, gamma=2.0)
    weighted = losses.focal(logits, labels, gamma=2.0, class_weights=jnp.array([1.0, 2, 3]))
    np.testing.assert_allclose(plain.mean(), 0.483824, atol=1e-6)
    np.testing.assert_allclose(weighted.mean(), 1.447327, atol=1e-6)


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


def test_losses_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    logits, labels = example(2)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits).permute(0, 3, 1, 2),
        torch.tensor(labels.astype(np.int64)),
        ignore_index=255,
    )
    loss = losses.cross_entropy(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(loss.sum() / losses.valid(labels).sum(), float(theirs), rtol=1e-5)


WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5)


def sums(name, logits, labels, **options):
    loss = losses.pixel_loss(name, losses.LossOptions(**options), num_classes=logits.shape[-1])
    total, count = loss(jnp.float32(logits), jnp.asarray(labels))
    return float(total), float(count)


@pytest.mark.parametrize("reduction", ["weights", "valid", "pixels"])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_weighted_losses_and_what_they_are_divided_by(name, reduction):
    logits, labels = example(3)
    ce, valid = numpy_cross_entropy(logits, labels), labels != 255
    weight = np.array(WEIGHTS)[np.where(valid, labels, 0)] * valid
    loss = ce if name == "cross_entropy" else (1 - np.exp(-ce)) ** 1.5 * ce
    count = {"weights": weight.sum(), "valid": valid.sum(), "pixels": labels.size}[reduction]
    got = sums(
        name, logits, labels, weighting="given", weights=WEIGHTS, reduction=reduction, gamma=1.5
    )
    np.testing.assert_allclose(got, ((weight * loss).sum(), count), rtol=1e-5)
    unweighted = sums(name, logits, labels, reduction=reduction, gamma=1.5)
    count = labels.size if reduction == "pixels" else valid.sum()
    np.testing.assert_allclose(unweighted, (loss.sum(), count), rtol=1e-5)


def test_weighted_cross_entropy_golden_vectors():
    logits = np.array([[2.0, 0, -1], [0, 1, 0]]).reshape(1, 1, 2, 3)
    labels = np.array([[[0, 2]]])
    for reduction, expected in (("weights", 1.206045), ("pixels", 2.412090)):
        total, count = sums(
            "cross_entropy",
            logits,
            labels,
            weighting="given",
            weights=(1.0, 2, 3),
            reduction=reduction,
        )
        assert total / count == pytest.approx(expected, abs=1e-6)


def numpy_ohem(loss, labels, *, rule, probability):
    """The two originals: a sort with a branch, and a mask with a fallback to the largest."""
    threshold = -np.log(probability)
    ranked = np.sort(loss.ravel())[::-1]
    if rule == "pixels":
        least = labels.size // 16
        kept = ranked[ranked > threshold] if ranked[least] > threshold else ranked[:least]
    else:
        least = (labels != 255).sum() // 16
        kept = ranked[ranked > threshold]
        kept = ranked[:least] if kept.size < least else kept
    return kept.sum(), kept.size


@pytest.mark.parametrize("rule", ["pixels", "valid"])
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["unsure", "sure"])
@pytest.mark.parametrize("ignored", [0.2, 0.95])
@pytest.mark.parametrize("weighted", [False, True])
def test_hard_example_mining_against_numpy(rule, scale, ignored, weighted):
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, (2, 8, 16)).astype(np.uint8)
    logits = scale * (np.eye(5)[labels] + 0.02 * rng.normal(0, 1, (2, 8, 16, 5)))
    labels[rng.random(labels.shape) < ignored] = 255
    loss = numpy_cross_entropy(logits, labels)
    weights = {"weighting": "given", "weights": WEIGHTS} if weighted else {}
    if weighted:
        loss = loss * np.array(WEIGHTS)[np.where(labels == 255, 0, labels)]
    expected = numpy_ohem(loss, labels, rule=rule, probability=0.7)
    got = sums("ohem", logits, labels, ohem_rule=rule, **weights)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["pixels", "valid"])
def test_hard_example_mining_of_ties_keeps_exactly_the_least_number(rule):
    loss, labels = jnp.full((1, 8, 8), 0.1), jnp.zeros((1, 8, 8), jnp.uint8)
    (total, count), grad = jax.value_and_grad(
        lambda x: losses.hardest(x, labels, rule=rule), has_aux=True
    )(loss)
    np.testing.assert_allclose((total, count, grad.sum()), (0.4, 4, 4), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(losses.PIXEL_LOSSES))
@pytest.mark.parametrize("rule", ["pixels", "valid"])
def test_every_pixel_loss_of_ignored_pixels_is_finite_and_moves_nothing(name, rule):
    options = losses.LossOptions(weighting="given", weights=WEIGHTS, ohem_rule=rule)
    labels = jnp.full((1, 4, 8), 255, jnp.uint8)
    logits = 40.0 * jax.random.normal(jax.random.key(0), (1, 4, 8, 5))

    def loss(z):
        total, count = losses.pixel_loss(name, options, num_classes=5)(z, labels)
        return total / jnp.maximum(jax.lax.stop_gradient(count), 1.0)

    value, grad = jax.value_and_grad(loss)(logits)
    assert value == 0
    assert not np.asarray(grad).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ce", {}, "unknown pixel_loss 'ce'; known: cross_entropy, focal, ohem"),
        ("focal", {"gamma": -1.0}, "gamma must be at least 0, got -1"),
        ("ohem", {"ohem_rule": "old"}, "unknown loss.ohem_rule 'old'; known: pixels, valid"),
        ("ohem", {"ohem_probability": 1.0}, r"must lie in \(0, 1\), got 1"),
        ("focal", {"reduction": "mean"}, "unknown loss.reduction 'mean'; known: pixels, valid"),
    ],
)
def test_unknown_losses_and_numbers_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        losses.pixel_loss(name, losses.LossOptions(**options), num_classes=5)


def test_weights_that_were_not_counted_are_refused():
    with pytest.raises(ConfigError, match="weighting='enet' are not computed yet"):
        sums("cross_entropy", *example(), weighting="enet")


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
    grad = jax.grad(lambda z: losses.robust_entropy(z).sum())(jnp.array([[[[1e4, 0.0]]]]))
    assert np.isfinite(grad).all()
