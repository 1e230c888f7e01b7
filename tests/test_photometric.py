import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rtda_jax.augment import photometric

FACTORS = np.array([0.0, 0.5, 1.0, 3.7], np.float32)


def images(count=4, seed=0, size=(9, 14)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_agree_with_torchvisions_definition(name):
    made = np.float64(images())
    grey = made @ np.array([0.2989, 0.587, 0.114])
    got = getattr(photometric, name)(jnp.float32(made), jnp.asarray(FACTORS))
    for i, f in enumerate(FACTORS):
        other = {"brightness": 0.0, "contrast": grey[i].mean(), "saturation": grey[i][..., None]}
        expected = np.clip(f * made[i] + (1 - f) * other[name], 0, 255)
        np.testing.assert_allclose(got[i], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("sharpness", ImageEnhance.Sharpness)],
)
def test_adjustments_agree_with_pillow_up_to_its_rounding(name, enhancer):
    made = images()
    got = getattr(photometric, name)(jnp.float32(made), jnp.asarray(FACTORS))
    for i, f in enumerate(FACTORS):
        expected = np.asarray(enhancer(Image.fromarray(made[i])).enhance(float(f)), np.float32)
        # Pillow rounds the smoothed image (by up to 1) and cuts off the blended one's fraction.
        np.testing.assert_allclose(got[i], expected, atol=1.01 + abs(1 - f))


def test_sharpness_keeps_the_border_and_smooths_with_a_heavy_centre():
    made = np.zeros((1, 5, 5, 3), np.float32)
    made[0, 2, 2] = 130
    got = np.asarray(photometric.sharpness(made, jnp.zeros(1)))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4], expected[2, 2] = 10, 50
    np.testing.assert_allclose(got[0, ..., 0], expected, atol=1e-4)


def test_equalize_is_pillows_bit_for_bit():
    rng = np.random.default_rng(1)
    dark = (rng.random((40, 50, 3)) ** 3 * 200).astype(np.uint8)
    flat = np.full((40, 50, 3), 7, np.uint8)
    two = np.where(rng.random((40, 50, 3)) < 0.5, 10, 250).astype(np.uint8)
    few = np.full((40, 50, 3), 100, np.uint8)
    few[:5, :5] = 3  # 25 pixels beside the brightest value: below 255, nothing happens
    uniform = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    batch = np.stack([dark, flat, two, few, uniform])
    got = np.asarray(jax.jit(photometric.equalize)(jnp.float32(batch)))
    for picture, out in zip(batch, got, strict=True):
        np.testing.assert_array_equal(out, np.asarray(ImageOps.equalize(Image.fromarray(picture))))
    np.testing.assert_array_equal(got[1], flat)
    np.testing.assert_array_equal(got[3], few)


def test_noise_has_the_asked_spread_and_is_drawn_for_each_key():
    made = np.full((3, 60, 80, 3), 128, np.float32)
    got = np.asarray(photometric.gaussian_noise(made, keys(3), jnp.array([0.0, 3.0, 20.0])))
    np.testing.assert_array_equal(got[0], made[0])
    np.testing.assert_allclose(got.std(axis=(1, 2, 3)), [0, 3, 20], rtol=0.03, atol=1e-6)
    again = photometric.gaussian_noise(made[1:2], keys(3)[1:2], jnp.array([3.0]))
    np.testing.assert_allclose(again[0], got[1], atol=1e-4)
    wild = photometric.gaussian_noise(made, keys(3), jnp.full(3, 500.0))
    assert wild.min() == 0
    assert wild.max() == 255


@pytest.mark.parametrize("size", [(9, 14), (23, 8)])
def test_blur_is_the_gaussian_with_reflected_borders(size):
    made, radius = np.float64(images(3, size=size)), 4
    sigma = np.array([0.0, 0.7, 1.2])
    got = np.asarray(photometric.gaussian_blur(jnp.float32(made), jnp.float32(sigma), radius=4))
    offsets = np.arange(-radius, radius + 1)
    for picture, out, s in zip(made, got, sigma, strict=True):
        if not s:
            np.testing.assert_allclose(out, picture, atol=1e-3)
            continue
        kernel = np.exp(-0.5 * (offsets / s) ** 2)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        expected = np.zeros_like(picture)
        for y in range(size[0]):
            for x in range(size[1]):
                window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
                expected[y, x] = (window * kernel[..., None]).sum(axis=(0, 1))
        np.testing.assert_allclose(out, expected, atol=2e-3)


def test_blur_refuses_a_radius_as_large_as_the_image():
    with pytest.raises(ValueError, match="radius 8 needs sides above it"):
        photometric.gaussian_blur(jnp.zeros((1, 8, 20, 3)), jnp.ones(1), radius=8)


def test_shadows_darken_by_their_pattern():
    made = np.float32(images(2))
    pattern = np.zeros((2, 9, 14, 1), np.float32)
    pattern[:, :, 7:] = 1
    got = np.asarray(photometric.shadow(made, pattern, jnp.array([0.3, 0.0])))
    np.testing.assert_array_equal(got[0, :, :7], made[0, :, :7])
    np.testing.assert_allclose(got[0, :, 7:], 0.7 * made[0, :, 7:], rtol=1e-6)
    np.testing.assert_array_equal(got[1], made[1])


def test_shadow_patterns_are_soft_patches_that_differ():
    got = np.asarray(photometric.shadow_pattern(keys(5), size=(32, 64)))
    assert got.shape == (5, 32, 64, 1)
    assert got.min() >= 0
    assert got.max() <= 1
    assert ((got > 0.9).mean(axis=(1, 2, 3)) > 0.05).all()
    assert ((got < 0.1).mean(axis=(1, 2, 3)) > 0.05).all()
    assert np.abs(got[0] - got[1]).mean() > 0.1
