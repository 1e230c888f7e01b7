import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import fda


def numpy_fda(source, target, beta):
    """The authors' NumPy algorithm, [H,W,C]: shift, replace the amplitude window, shift back."""
    spectrum = np.fft.fft2(source, axes=(0, 1))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    wanted = np.abs(np.fft.fft2(target, axes=(0, 1)))
    amplitude = np.fft.fftshift(amplitude, axes=(0, 1))
    wanted = np.fft.fftshift(wanted, axes=(0, 1))
    height, width = source.shape[:2]
    b = int(np.floor(min(height, width) * beta))
    y, x = height // 2, width // 2
    rows, columns = slice(y - b, y + b + 1), slice(x - b, x + b + 1)
    amplitude[rows, columns] = wanted[rows, columns]
    amplitude = np.fft.ifftshift(amplitude, axes=(0, 1))
    return np.real(np.fft.ifft2(amplitude * np.exp(1j * phase), axes=(0, 1)))


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, shape), rng.uniform(0, 200, shape) ** 2 / 200


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (48, 31)])
@pytest.mark.parametrize("beta", [0.0, 0.01, 0.05, 0.1, 0.25])
def test_equals_the_numpy_algorithm(size, beta):
    source, target = pair((2, *size, 3))
    ours = fda.transfer(jnp.float32(source), jnp.float32(target), beta=beta)
    theirs = np.stack([numpy_fda(s, t, beta) for s, t in zip(source, target, strict=True)])
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize(("beta", "b"), [(0.01, 5), (0.05, 25), (0.09, 46), (0.1, 51)])
def test_half_width_of_the_papers(beta, b):
    assert fda.half_width(512, 1024, beta=beta) == b


def test_same_image_is_unchanged_and_beta_zero_moves_the_mean_only():
    source, target = pair((1, 32, 48, 3), seed=3)
    source, target = jnp.float32(source), jnp.float32(target)
    np.testing.assert_allclose(fda.transfer(source, source, beta=0.1), source, atol=1e-3)
    moved = fda.transfer(source, target, beta=0.0)
    shift = (target - source).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(moved - source, jnp.broadcast_to(shift, source.shape), atol=2e-3)


def test_black_source_takes_the_amplitude_with_phase_zero():
    target = jnp.full((1, 32, 32, 3), 80.0)
    styled = fda.transfer(jnp.zeros_like(target), target, beta=0.05)
    np.testing.assert_allclose(styled, target, atol=1e-3)


def test_must_come_before_mean_subtraction():
    source, target = pair((1, 32, 32, 3), seed=1)
    source, target = jnp.float32(source), jnp.float32(target)
    mean = 100.0
    before = fda.transfer(source, target, beta=0.0) - mean
    after = fda.transfer(source - mean, target - mean, beta=0.0)
    assert float(jnp.abs(before - after).max()) > 10


def test_gradient_is_finite_where_the_spectrum_vanishes():
    target = jnp.ones((1, 16, 16, 3))
    grad = jax.grad(lambda s: fda.transfer(s, target, beta=0.1).sum())(jnp.zeros_like(target))
    assert bool(jnp.isfinite(grad).all())


@pytest.mark.parametrize("beta", [-0.1, 0.6])
def test_refuses_a_window_outside_the_spectrum(beta):
    x = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match="beta must lie"):
        fda.transfer(x, x, beta=beta)


def test_refuses_unequal_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        fda.transfer(jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 18, 3)), beta=0.1)
