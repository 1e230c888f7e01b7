import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import fda
from rtda_jax.errors import ConfigError


def numpy_fda(source, target, beta, *, window="square"):
    """The authors' NumPy algorithm, [H,W,C]: shifts, replaces the amplitude window, shifts back."""
    spectrum = np.fft.fft2(source, axes=(0, 1))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    wanted = np.abs(np.fft.fft2(target, axes=(0, 1)))
    amplitude = np.fft.fftshift(amplitude, axes=(0, 1))
    wanted = np.fft.fftshift(wanted, axes=(0, 1))
    height, width = source.shape[:2]
    lengths = (min(height, width),) * 2 if window == "square" else (height, width)
    tall, wide = (int(np.floor(length * beta)) for length in lengths)
    y, x = height // 2, width // 2
    rows, columns = slice(y - tall, y + tall + 1), slice(x - wide, x + wide + 1)
    amplitude[rows, columns] = wanted[rows, columns]
    amplitude = np.fft.ifftshift(amplitude, axes=(0, 1))
    return np.real(np.fft.ifft2(amplitude * np.exp(1j * phase), axes=(0, 1)))


def irfft_fda(source, target, beta):
    """The authors' PyTorch algorithm, [H,W,C]: four b x b corners, then an inverse real transform.

    `torch.irfft` with onesided=False is given the whole spectrum and reads its columns 0..W/2, as
    NumPy's does.
    """
    spectrum, wanted = (np.fft.fft2(x, axes=(0, 1)) for x in (source, target))
    amplitude, phase, wanted = np.abs(spectrum), np.angle(spectrum), np.abs(wanted)
    height, width = source.shape[:2]
    b = int(np.floor(min(height, width) * beta))
    for rows in (slice(0, b), slice(height - b, height)):
        for columns in (slice(0, b), slice(width - b, width)):
            amplitude[rows, columns] = wanted[rows, columns]
    mixed = (amplitude * np.exp(1j * phase))[:, : width // 2 + 1]
    return np.fft.irfft2(mixed, s=(height, width), axes=(0, 1))


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


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (48, 31)])
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.25, 0.5])
@pytest.mark.parametrize(
    ("window", "statement"),
    [("rectangle", functools.partial(numpy_fda, window="rectangle")), ("corners", irfft_fda)],
)
def test_the_other_windows_equal_their_statements(window, statement, size, beta):
    source, target = pair((1, *size, 3), seed=2)
    ours = fda.transfer(jnp.float32(source), jnp.float32(target), beta=beta, window=window)
    np.testing.assert_allclose(ours[0], statement(source[0], target[0], beta), atol=2e-3)


def test_the_corners_are_what_pytorchs_inverse_real_transform_reads():
    torch = pytest.importorskip("torch")
    source, target = (torch.tensor(x[0]).permute(2, 0, 1) for x in pair((1, 32, 48, 3), seed=4))
    spectrum, wanted = torch.fft.fft2(source), torch.fft.fft2(target)
    amplitude, wanted = spectrum.abs().clone(), wanted.abs()
    b = 3  # floor(32 * .1)
    for rows in (slice(0, b), slice(-b, None)):
        for columns in (slice(0, b), slice(-b, None)):
            amplitude[:, rows, columns] = wanted[:, rows, columns]
    mixed = torch.polar(amplitude, spectrum.angle())
    expected = torch.fft.irfft2(mixed[..., :25], s=(32, 48)).permute(1, 2, 0)
    images = (jnp.float32(x.permute(1, 2, 0)[None]) for x in (source, target))
    styled = fda.transfer(*images, beta=0.1, window="corners")
    np.testing.assert_allclose(styled[0], expected, atol=2e-3)


def test_the_corners_are_halved_only_in_a_column_that_is_its_own_opposite():
    share = fda.target_share(8, 10, beta=0.25, window="corners")  # frequencies -2..1 each way
    expected = np.zeros((8, 6))
    expected[[0, 1, 2, 6, 7], 0] = 1, 1, 0.5, 0.5, 1
    expected[[0, 1, 6, 7], 1] = 1
    np.testing.assert_array_equal(share, expected)
    share = fda.target_share(
        12, 8, beta=0.5, window="corners"
    )  # -4..3, so that column 4 = -4 is inside
    expected = np.zeros((12, 5))
    expected[[0, 1, 2, 3, 9, 10, 11]] = 1
    expected[[4, 8], 0] = expected[[4, 8], 4] = 0.5
    expected[8, 1:4] = 1
    np.testing.assert_array_equal(share, expected)


def test_the_windows_hold_whole_frequencies():
    square = fda.target_share(10, 20, beta=0.2, window="square")  # b = 2
    rows, columns = [0, 1, 2, 8, 9], [0, 1, 2]
    expected = np.zeros((10, 11))
    expected[np.ix_(rows, columns)] = 1
    np.testing.assert_array_equal(square, expected)
    rectangle = fda.target_share(10, 20, beta=0.2, window="rectangle")  # 2 rows, 4 columns each way
    expected[np.ix_(rows, [3, 4])] = 1
    np.testing.assert_array_equal(rectangle, expected)
    np.testing.assert_array_equal(
        fda.target_share(20, 10, beta=0.2, window="square")[:3, :4].sum(), 9
    )


def test_an_unknown_window_is_refused():
    with pytest.raises(ValueError, match="unknown fda_window 'round'; known: corners, rect"):
        fda.target_share(8, 8, beta=0.1, window="round")


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
    with pytest.raises(ConfigError, match=r"FDA beta must lie in \[0, 0\.5\], got "):
        fda.transfer(x, x, beta=beta)


def test_the_square_is_the_default_window():
    source, target = (jnp.float32(x) for x in pair((1, 12, 24, 3)))
    default = fda.transfer(source, target, beta=0.2)
    np.testing.assert_array_equal(default, fda.transfer(source, target, beta=0.2, window="square"))
    assert default.dtype == jnp.float32


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 16, 16, 3), (1, 16, 18, 3)),
        ((1, 3, 16, 18), (1, 3, 16, 18)),
        ((16, 18, 3), (16, 18, 3)),
        ((16, 18), (16, 18)),
    ],
)
def test_refuses_unequal_shapes_other_channels_and_single_images(source, target):
    pair = (jnp.zeros(source), jnp.zeros(target))
    key, index = jax.random.key(0), jnp.zeros(1, jnp.int32)
    for function in (
        lambda: fda.transfer(*pair, beta=0.1),
        lambda: fda.transfer_drawn(*pair, key, index, betas=(0.1, 0.2)),
    ):
        with pytest.raises(ValueError, match=r"same shape \[B,H,W,3\], got \("):
            function()
