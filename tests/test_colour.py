import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtda_jax.augment import colour, photometric
from rtda_jax.augment.colour import TEXTURES, ColourOptions, Texture
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel

INDEX = np.array([5, 900, 31, 7, 2, 1, 77, 12], np.int32)
KEY = jax.random.key(3)
MBT = ColourOptions(colour=0.5)


def random_images(count=8, size=(12, 16), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(np.uint8)


def uniform(key, count):
    return np.array(jax.random.uniform(key, (count,)))


def one(operation, image, number, **options):
    """Returns the result of an operation on one image with one parameter."""
    return np.asarray(operation(jnp.float32(image)[None], jnp.float32([number]), **options))[0]


def in_turn(images, key, index, change):
    """Returns the images, each changed by itself: change(image, key of the image)."""
    keys = [jax.random.fold_in(key, int(number)) for number in index]
    return np.stack([change(np.float32(x), k) for x, k in zip(images, keys, strict=True)])


def contrast_then_saturation(image, key):
    chance, by_contrast, by_saturation = uniform(key, 3)
    if chance >= 0.5:
        return image
    image = one(photometric.contrast, image, 2 + 4 * by_contrast)
    return one(photometric.saturation, image, 1 + 3 * by_saturation)


def test_contrast_then_saturation_of_a_share_of_the_images():
    images = random_images()
    changed = colour.colour(images, KEY, INDEX, options=MBT)
    expected = in_turn(images, KEY, INDEX, contrast_then_saturation)
    np.testing.assert_allclose(changed, expected, atol=1e-2)
    assert 0 < (np.asarray(changed) == images).all(axis=(1, 2, 3)).sum() < 8


def test_half_of_the_images_change_and_stay_in_range():
    images = random_images(400, (6, 8))
    changed = np.asarray(colour.colour(images, jax.random.key(1), jnp.arange(400), options=MBT))
    assert 150 < np.any(changed != images, axis=(1, 2, 3)).sum() < 250
    assert changed.min() >= 0
    assert changed.max() <= 255


@pytest.mark.parametrize(("share", "changes"), [(0.0, 0), (1.0, 8)])
def test_a_share_of_zero_changes_nothing_and_of_one_everything(share, changes):
    images = random_images()
    changed = colour.colour(images, KEY, INDEX, options=ColourOptions(colour=share))
    assert np.any(changed != images, axis=(1, 2, 3)).sum() == changes


def strong(image, key, jitters=None, blurs=None):
    u = uniform(key, 6)
    if (u[3] if jitters is None else jitters) < 0.8:
        operations = (photometric.brightness, photometric.contrast, photometric.saturation)
        for operation, number in zip(operations, u[:3], strict=True):
            image = one(operation, image, 1 + 0.25 * (2 * number - 1))
    if (u[5] if blurs is None else blurs) < 0.5:
        image = one(photometric.gaussian_blur, image, 0.15 + u[4], radius=4)
    return image


def jittered(image, key, jitters=None, blurs=None, *, strength):
    draws, orders = jax.random.split(key)
    u = uniform(draws, 7)
    away = strength * (2 * u - 1)
    operations = (
        lambda x: np.clip(x + 255 * away[0], 0, 255),
        lambda x: np.clip(x * (1 + away[2]), 0, 255),
        lambda x: one(photometric.hsv_saturation, x, 1 + away[3]),
        lambda x: one(photometric.hue, x, away[1]),
    )
    if (u[4] if jitters is None else jitters) < 0.8:
        for number in jax.random.permutation(orders, 4):
            image = operations[int(number)](image)
    if (u[5] if blurs is None else blurs) < 0.5:
        image = one(photometric.gaussian_blur, image, 0.15 + u[6], radius=4)
    return image


JITTERS = {
    "strong": strong,
    "dacs_released": functools.partial(jittered, strength=0.25),
    "daformer": functools.partial(jittered, strength=0.2),
}


@pytest.mark.parametrize("name", JITTERS)
def test_jitter_and_blur_of_an_image_follow_its_number(name):
    images = random_images()
    changed = jax.jit(colour.recolour(name, draw="image", seed=0))(images, KEY, INDEX)
    np.testing.assert_allclose(changed, in_turn(images, KEY, INDEX, JITTERS[name]), atol=2e-2)


@pytest.mark.parametrize("name", JITTERS)
def test_a_batch_is_jittered_and_blurred_as_a_whole_or_not_at_all(name):
    images, sides = random_images(3), set()
    recolour = jax.jit(colour.recolour(name, draw="batch", seed=0))
    for step in range(12):
        key = jax.random.key(step)
        jitters, blurs = uniform(jax.random.fold_in(key, 2**32 - 1), 2)
        change = functools.partial(JITTERS[name], jitters=jitters, blurs=blurs)
        expected = in_turn(images, key, INDEX[:3], change)
        np.testing.assert_allclose(recolour(images, key, INDEX[:3]), expected, atol=2e-2)
        sides.add((bool(jitters < 0.8), bool(blurs < 0.5)))
    assert len(sides) >= 3


@pytest.mark.parametrize("name", JITTERS)
def test_four_of_five_images_are_jittered(name):
    flat = np.full((1000, 5, 5, 3), (150, 90, 40), np.uint8)  # a blur does not change it
    changed = np.asarray(jax.jit(colour.RECOLOURS[name])(flat, KEY, jnp.arange(1000)))
    share = (np.abs(changed - flat).max(axis=(1, 2, 3)) > 0.01).mean()
    np.testing.assert_allclose(share, 0.8, atol=0.03)


def test_the_probabilities_and_strengths_are_those_of_dacs():
    assert colour.JITTERED == 0.8
    assert colour.BLURRED == 0.5
    assert colour.BLUR == (0.15, 1.15)
    assert colour.STRENGTH == 0.25


def textured(image, key, *, texture, once=None):
    draws, pattern, grain = jax.random.split(key, 3)
    u = uniform(draws, 8)
    if once is not None:
        u[5:7] = np.asarray(jax.random.uniform(once, (2, 1)))[:, 0]

    def between(number, bounds):
        return bounds[0] + (bounds[1] - bounds[0]) * number

    image = one(photometric.brightness, image, between(u[0], texture.brightness))
    image = one(photometric.contrast, image, between(u[1], texture.contrast))
    image = one(photometric.saturation, image, between(u[2], texture.saturation))
    image = one(photometric.sharpness, image, between(u[3], texture.sharpness))
    shadow = photometric.shadow_pattern(pattern[None], size=image.shape[:2])[0]
    image = image * (1 - between(u[4], texture.shadow) * np.asarray(shadow))
    low, high = texture.noise
    spread = low + int((high - low + 1) * u[5])
    image = np.clip(image + spread * np.asarray(jax.random.normal(grain, image.shape)), 0, 255)
    image = one(photometric.gaussian_blur, image, between(u[6], texture.blur), radius=4)
    if u[7] < texture.equalize:
        image = np.asarray(photometric.equalize(image[None]))[0]
    return image


@pytest.mark.parametrize("name", sorted(TEXTURES))
@pytest.mark.parametrize("draw", ["image", "batch", "run"])
def test_textures_of_an_image_follow_its_number_and_what_is_drawn_once(name, draw):
    images = random_images()
    once = {
        "image": None,
        "batch": jax.random.fold_in(KEY, 2**32 - 1),
        "run": jax.random.fold_in(jax.random.key(11), ["tufl_source", "tufl_strong"].index(name)),
    }[draw]
    changed = np.asarray(colour.recolour(name, draw=draw, seed=11)(images, KEY, INDEX))
    change = functools.partial(textured, texture=TEXTURES[name], once=once)
    expected = in_turn(images, KEY, INDEX, change)
    # A value that is rounded differently before the histogram moves a few pixels by much.
    assert (np.abs(changed - expected) < 0.02).mean() > 0.99


@pytest.mark.parametrize("name", ["strong", "daformer", *sorted(TEXTURES)])
def test_an_image_looks_alike_wherever_it_lies_and_another_step_differs(name):
    images = random_images()
    recolour = jax.jit(colour.recolour(name, draw="image", seed=0))
    expected = np.asarray(recolour(images, KEY, INDEX))
    assert expected.min() >= 0
    assert expected.max() <= 255
    np.testing.assert_allclose(recolour(images[::-1], KEY, INDEX[::-1])[::-1], expected, atol=0.02)
    assert np.abs(recolour(images, jax.random.key(4), INDEX) - expected).mean() > 5


def test_an_image_is_changed_alike_on_every_device():
    images = random_images()
    change = functools.partial(colour.colour, options=MBT)
    expected = jax.jit(change)(images, KEY, INDEX)
    mesh = parallel.mesh()
    mapped = jax.pmap(change, in_axes=(0, None, 0), devices=list(mesh.devices.flat))
    halves = mapped(images.reshape(2, 4, 12, 16, 3), KEY, INDEX.reshape(2, 4))
    np.testing.assert_allclose(halves.reshape(expected.shape), expected, atol=1e-3)
    split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    sharded = jax.jit(change)(jax.device_put(images, split), KEY, jax.device_put(INDEX, split))
    np.testing.assert_allclose(sharded, expected, atol=1e-3)


OFF = {"shadow": (0.0, 0.0), "noise": (0, 0), "blur": (0.0, 0.0)}


def test_a_texture_of_no_range_changes_nothing():
    images = random_images(3)
    change = jax.jit(functools.partial(colour.textured, texture=Texture(**OFF)))
    same = change(images, KEY, jnp.arange(3))
    np.testing.assert_allclose(same, images, atol=1e-3)


def test_noise_takes_whole_numbers_with_both_bounds():
    grey = np.full((64, 12, 16, 3), 128, np.uint8)
    texture = Texture(**{**OFF, "noise": (3, 4)})
    change = jax.jit(functools.partial(colour.textured, texture=texture))
    noisy = change(grey, jax.random.key(0), jnp.arange(64))
    levels = np.round(np.asarray(noisy).std(axis=(1, 2, 3)))
    assert set(levels.tolist()) == {3.0, 4.0}
    assert 20 < (levels == 3).sum() < 44


def test_what_a_run_draws_depends_on_its_seed_and_on_the_texture():
    def once(name, seed):
        return jax.random.key_data(colour.recolour(name, draw="run", seed=seed).keywords["once"])

    np.testing.assert_array_equal(once("tufl_strong", 0), once("tufl_strong", 0))
    assert (once("tufl_strong", 0) != once("tufl_strong", 1)).any()
    assert (once("tufl_strong", 0) != once("tufl_source", 0)).any()


@pytest.mark.parametrize("draw", sorted(colour.DRAWS))
def test_the_colours_none_are_the_images(draw):
    images = random_images()
    assert colour.recolour("none", draw=draw, seed=0)(images, KEY, INDEX) is images


def test_unknown_colours_and_draws_are_named():
    with pytest.raises(ValueError, match="'tufl'; known: dacs_released, daformer, none, strong, t"):
        colour.recolour("tufl", draw="image", seed=0)
    with pytest.raises(ValueError, match=r"augment\.draw 'epoch'; known: batch, image, run"):
        colour.recolour("none", draw="epoch", seed=0)


def test_the_ranges_are_those_of_tufls_code():
    assert TEXTURES["tufl_source"] == Texture(
        brightness=(0.5, 1.5),
        contrast=(0.5, 1.5),
        saturation=(0.5, 1.5),
        sharpness=(1.0, 1.0),
        shadow=(0.01, 0.3),
        noise=(0, 4),
        blur=(0.0, 1.2),
        equalize=0.0,
    )
    assert TEXTURES["tufl_strong"] == Texture(
        brightness=(0.4, 1.2),
        contrast=(0.4, 2.0),
        saturation=(0.5, 2.0),
        sharpness=(0.4, 2.0),
        shadow=(0.01, 0.3),
        noise=(3, 4),
        blur=(0.0, 1.2),
        equalize=0.3,
    )


def test_the_defaults_leave_the_source_as_it_is_and_have_mbts_ranges():
    assert dataclasses.asdict(ColourOptions()) == {
        "colour": 0.0,
        "contrast": (2.0, 6.0),
        "saturation": (1.0, 4.0),
        "texture": "none",
        "strong": "tufl_strong",
        "draw": "image",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": 1.5}, r"augment\.colour must be a probability, got 1\.5"),
        ({"colour": -0.5}, r"augment\.colour must be a probability, got -0\.5"),
        ({"contrast": (3.0, 2.0)}, r"augment\.contrast must be a range .* got \(3\.0, 2\.0\)"),
        ({"contrast": (3.0,)}, r"augment\.contrast must be a range"),
        ({"saturation": (-1.0, 2.0)}, r"augment\.saturation must be a range"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ColourOptions(**fields)


@pytest.mark.parametrize("field", ["texture", "strong", "draw"])
def test_unknown_names_are_refused_by_field(field):
    with pytest.raises(ConfigError, match=rf"augment\.{field} 'loud'; known: "):
        ColourOptions(**{field: "loud"})
