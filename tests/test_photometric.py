import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rtda_jax.augment import photometric

FACTORS = np.array([0.0, 0.5, 1.0, 3.7], np.float32)


def random_images(count=4, seed=0, size=(9, 14)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_agree_with_torchvisions_definition(name):
    images = np.float64(random_images())
    grey = images @ np.array([0.2989, 0.587, 0.114])
    adjusted = getattr(photometric, name)(jnp.float32(images), jnp.asarray(FACTORS))
    for i, f in enumerate(FACTORS):
        other = {"brightness": 0.0, "contrast": grey[i].mean(), "saturation": grey[i][..., None]}
        expected = np.clip(f * images[i] + (1 - f) * other[name], 0, 255)
        np.testing.assert_allclose(adjusted[i], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("sharpness", ImageEnhance.Sharpness)],
)
def test_adjustments_agree_with_pillow_up_to_its_rounding(name, enhancer):
    images = random_images()
    adjusted = getattr(photometric, name)(jnp.float32(images), jnp.asarray(FACTORS))
    for i, f in enumerate(FACTORS):
        expected = np.asarray(enhancer(Image.fromarray(images[i])).enhance(float(f)), np.float32)
        # Pillow rounds the smoothed image (by up to 1) and cuts off the blended one's fraction.
        np.testing.assert_allclose(adjusted[i], expected, atol=1.01 + abs(1 - f))


def colours():
    """All corners of the colour cube, greys, and random colours, [1,H,W,3]."""
    corners = np.stack(np.meshgrid(*[[0, 128, 255]] * 3), axis=-1).reshape(-1, 3)
    random = np.random.default_rng(3).integers(0, 256, (101, 3))
    return np.concatenate([corners, random]).reshape(1, 8, 16, 3).astype(np.float64)


def in_hsv(images, change):
    """Changes (h, s, v) of each pixel by the standard library's conversion."""
    out = np.empty_like(images)
    for place in np.ndindex(images.shape[:-1]):
        hsv = colorsys.rgb_to_hsv(*(images[place] / 255))
        out[place] = 255 * np.array(colorsys.hsv_to_rgb(*change(*hsv)))
    return out


@pytest.mark.parametrize("turn", [-0.4, -0.2, 0.0, 0.1, 0.25, 1 / 3, 0.5])
def test_hue_turns_the_angle_of_hsv(turn):
    expected = in_hsv(colours(), lambda h, s, v: ((h + turn) % 1, s, v))
    turned = photometric.hue(jnp.float32(colours()), jnp.float32([turn]))
    np.testing.assert_allclose(turned, expected, atol=1e-2)


def test_a_third_of_a_turn_makes_red_green_and_in_bgr_it_makes_red_blue():
    red, turn = jnp.float32([[[[200, 0, 0]]]]), jnp.float32([1 / 3])
    np.testing.assert_allclose(photometric.hue(red, turn), [[[[0, 200, 0]]]], atol=1e-3)
    swapped = photometric.hue(red[..., ::-1], turn)[..., ::-1]
    np.testing.assert_allclose(swapped, [[[[0, 0, 200]]]], atol=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.25, 40.0])
def test_hsv_saturation_multiplies_the_saturation_up_to_one(factor):
    expected = in_hsv(colours(), lambda h, s, v: (h, min(factor * s, 1), v))
    adjusted = photometric.hsv_saturation(jnp.float32(colours()), jnp.float32([factor]))
    np.testing.assert_allclose(adjusted, expected, atol=1e-2)


def test_an_offset_is_added_to_each_image_and_clipped():
    images = np.float32(random_images(3))
    amounts = np.float32([-40, 0, 60])
    expected = np.clip(images + amounts.reshape(3, 1, 1, 1), 0, 255)
    np.testing.assert_allclose(photometric.offset(images, jnp.asarray(amounts)), expected)


def test_sharpness_keeps_the_border_and_smooths_with_a_heavy_centre():
    image = np.zeros((1, 5, 5, 3), np.float32)
    image[0, 2, 2] = 130
    image[0, 0, 4] = 13
    smoothed = np.asarray(photometric.sharpness(image, jnp.zeros(1)))
    expected = np.zeros((5, 5))
    expected[1:4, 1:4], expected[2, 2] = 10, 50
    expected[0, 4], expected[1, 3] = 13, 11
    np.testing.assert_allclose(smoothed[0, ..., 0], expected, atol=1e-4)


def test_equalize_is_pillows_bit_for_bit():
    rng = np.random.default_rng(1)
    dark = (rng.random((40, 50, 3)) ** 3 * 200).astype(np.uint8)
    flat = np.full((40, 50, 3), 7, np.uint8)
    two = np.where(rng.random((40, 50, 3)) < 0.5, 10, 250).astype(np.uint8)
    few = np.full((40, 50, 3), 100, np.uint8)
    few[:5, :5] = 3  # 25 pixels beside the brightest value: below 255, nothing happens
    uniform = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    batch = np.stack([dark, flat, two, few, uniform])
    equalized = np.asarray(jax.jit(photometric.equalize)(jnp.float32(batch)))
    for image, out in zip(batch, equalized, strict=True):
        np.testing.assert_array_equal(out, np.asarray(ImageOps.equalize(Image.fromarray(image))))
    np.testing.assert_array_equal(equalized[1], flat)
    np.testing.assert_array_equal(equalized[3], few)
    np.testing.assert_array_equal(photometric.equalize(jnp.float32(batch) + 0.3), equalized)


def test_noise_has_the_asked_spread_and_is_drawn_for_each_key():
    images = np.full((3, 60, 80, 3), 128, np.float32)
    noisy = np.asarray(photometric.gaussian_noise(images, keys(3), jnp.array([0.0, 3.0, 20.0])))
    np.testing.assert_array_equal(noisy[0], images[0])
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)), [0, 3, 20], rtol=0.03, atol=1e-6)
    np.testing.assert_allclose(noisy.mean(axis=(1, 2, 3)), 128, atol=0.5)
    again = photometric.gaussian_noise(images[1:2], keys(3)[1:2], jnp.array([3.0]))
    np.testing.assert_allclose(again[0], noisy[1], atol=1e-4)
    assert np.corrcoef(noisy[1].ravel(), noisy[2].ravel())[0, 1] < 0.1
    assert np.corrcoef(noisy[1, ..., 0].ravel(), noisy[1, ..., 1].ravel())[0, 1] < 0.1
    wild = photometric.gaussian_noise(images, keys(3), jnp.full(3, 500.0))
    assert wild.min() == 0
    assert wild.max() == 255


@pytest.mark.parametrize("size", [(9, 14), (23, 8)])
def test_blur_is_the_gaussian_with_reflected_borders(size):
    images, radius = np.float64(random_images(3, size=size)), 4
    sigma = np.array([0.0, 0.7, 1.2])
    blurred = photometric.gaussian_blur(jnp.float32(images), jnp.float32(sigma), radius=radius)
    offsets = np.arange(-radius, radius + 1)
    for image, out, s in zip(images, np.asarray(blurred), sigma, strict=True):
        if not s:
            np.testing.assert_allclose(out, image, atol=1e-3)
            continue
        kernel = np.exp(-0.5 * (offsets / s) ** 2)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        expected = np.zeros_like(image)
        for y in range(size[0]):
            for x in range(size[1]):
                window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
                expected[y, x] = (window * kernel[..., None]).sum(axis=(0, 1))
        np.testing.assert_allclose(out, expected, atol=2e-3)


@pytest.mark.parametrize("size", [(8, 20), (20, 8)])
def test_blur_refuses_a_radius_as_large_as_the_image(size):
    photometric.gaussian_blur(jnp.zeros((1, *size, 3)), jnp.ones(1), radius=7)
    with pytest.raises(ValueError, match="radius 8 needs sides above it"):
        photometric.gaussian_blur(jnp.zeros((1, *size, 3)), jnp.ones(1), radius=8)


def test_shadows_darken_by_their_pattern():
    images = np.float32(random_images(2))
    pattern = np.zeros((2, 9, 14, 1), np.float32)
    pattern[:, :, 7:] = 1
    darkened = np.asarray(photometric.shadow(images, pattern, jnp.array([0.3, 0.0])))
    np.testing.assert_array_equal(darkened[0, :, :7], images[0, :, :7])
    np.testing.assert_allclose(darkened[0, :, 7:], 0.7 * images[0, :, 7:], rtol=1e-6)
    np.testing.assert_array_equal(darkened[1], images[1])


def numpy_upsample(coarse, size):
    """Bilinear from corner to corner."""
    out = coarse
    for axis, side in enumerate(size):
        places = np.linspace(0, out.shape[axis] - 1, side)
        low = np.minimum(places.astype(int), out.shape[axis] - 2)
        shape = [side if a == axis else 1 for a in range(2)]
        part = (places - low).reshape(shape)
        out = (1 - part) * out.take(low, axis) + part * out.take(low + 1, axis)
    return out


def test_shadow_patterns_are_two_octaves_of_noise_through_a_sigmoid():
    size = (32, 64)
    patterns = np.asarray(photometric.shadow_pattern(keys(2), size=size))
    assert patterns.shape == (2, 32, 64, 1)
    for key, pattern in zip(keys(2), patterns, strict=True):
        first, second = jax.random.split(key)
        # Six cells across the shorter side, then twelve, of half the amplitude.
        low = numpy_upsample(np.float64(jax.random.normal(first, (6, 12, 1)))[..., 0], size)
        high = numpy_upsample(np.float64(jax.random.normal(second, (12, 24, 1)))[..., 0], size)
        expected = 1 / (1 + np.exp(-6 * (low + 0.5 * high)))
        np.testing.assert_allclose(pattern[..., 0], expected, atol=1e-4)


def test_shadow_patterns_are_soft_patches_that_differ():
    patterns = np.asarray(photometric.shadow_pattern(keys(5), size=(32, 64)))
    assert ((patterns > 0.9).mean(axis=(1, 2, 3)) > 0.05).all()
    assert ((patterns < 0.1).mean(axis=(1, 2, 3)) > 0.05).all()
    assert np.abs(patterns[0] - patterns[1]).mean() > 0.1
