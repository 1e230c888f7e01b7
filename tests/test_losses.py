import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import losses


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
