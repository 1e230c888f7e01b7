import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtda_jax.augment import colour
from rtda_jax.augment.colour import TEXTURES, ColourOptions, Texture, textured
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel

MBT = ColourOptions(colour=0.5)


def images(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3)).astype(np.uint8)


def test_half_of_the_images_change_and_the_others_do_not():
    made = images(400)
    got = colour.colour(made, jax.random.key(1), jnp.arange(400), options=MBT)
    changed = np.any(np.asarray(got) != made, axis=(1, 2, 3))
    assert 150 < changed.sum() < 250
    assert got.min() >= 0
    assert got.max() <= 255
    spread = np.asarray(got).std(axis=(1, 2, 3)) / made.std(axis=(1, 2, 3))
    assert (spread[changed] > 1.1).all()


def test_an_image_is_changed_alike_wherever_it_lies():
    made, key = images(8), jax.random.key(3)
    index = np.array([5, 900, 31, 7, 2, 1, 77, 12], np.int32)
    one = functools.partial(colour.colour, options=MBT)
    expected = jax.jit(one)(made, key, index)
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled = jax.jit(one)(made[order], key, index[order])
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-3)
    mesh = parallel.mesh()
    mapped = jax.pmap(one, in_axes=(0, None, 0), devices=list(mesh.devices.flat))
    halves = mapped(made.reshape(2, 4, 6, 8, 3), key, index.reshape(2, 4))
    np.testing.assert_allclose(halves.reshape(8, 6, 8, 3), expected, atol=1e-3)
    split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    sharded = jax.jit(one)(jax.device_put(made, split), key, jax.device_put(index, split))
    np.testing.assert_allclose(sharded, expected, atol=1e-3)
    assert not np.allclose(one(made, jax.random.key(4), index), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": 1.5}, "must be a probability, got 1.5"),
        ({"contrast": (3.0, 2.0)}, "augment.contrast must be a range"),
        ({"saturation": (-1.0, 2.0)}, "augment.saturation must be a range"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ColourOptions(**fields)


def test_strong_colours_stay_in_range_change_most_images_and_follow_the_index():
    made = images(200)
    got = np.asarray(colour.strong(made, jax.random.key(2), jnp.arange(200)))
    assert got.min() >= 0
    assert got.max() <= 255
    changed = np.abs(got - made).max(axis=(1, 2, 3)) > 0.5
    assert 160 < changed.sum() < 199  # 1 - 0.2 * 0.5 of them
    alone = colour.strong(made[7:9], jax.random.key(2), jnp.arange(7, 9))
    np.testing.assert_allclose(alone, got[7:9], atol=1e-3)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_an_image_looks_alike_wherever_it_lies_and_another_step_differs(name):
    made, key = pictures(5), jax.random.key(3)
    index = np.array([5, 900, 31, 7, 2], np.int32)
    one = jax.jit(functools.partial(textured, texture=TEXTURES[name]))
    expected = one(made, key, index)
    assert expected.min() >= 0
    assert expected.max() <= 255
    np.testing.assert_allclose(one(made[::-1], key, index[::-1])[::-1], expected, atol=2e-2)
    assert np.abs(one(made, jax.random.key(4), index) - expected).mean() > 5


OFF = {"shadow": (0.0, 0.0), "noise": (0, 0), "blur": (0.0, 0.0)}


def test_ranges_of_one_value_are_these_operations():
    made = np.full((3, 12, 16, 3), 100, np.uint8)
    same = textured(made, jax.random.key(0), jnp.arange(3), texture=Texture(**OFF))
    np.testing.assert_allclose(same, made, atol=1e-3)
    half = Texture(**{**OFF, "brightness": (0.5, 0.5)})
    np.testing.assert_allclose(textured(made, jax.random.key(0), jnp.arange(3), texture=half), 50)


def strengths(once, *, noise, step):
    """The noise left on grey images, which tells how strong it was drawn."""
    made = np.full((64, 12, 16, 3), 128, np.uint8)
    texture = Texture(**{**OFF, "noise": noise})
    got = textured(made, jax.random.key(step), jnp.arange(64), texture=texture, once=once)
    return np.asarray(got).std(axis=(1, 2, 3))


def test_noise_takes_whole_numbers_between_its_bounds():
    levels = np.round(strengths(None, noise=(3, 4), step=0))
    assert set(levels.tolist()) == {3.0, 4.0}
    assert 20 < (levels == 3).sum() < 44


def test_constants_of_the_run_are_the_same_in_every_image_and_step():
    once = jax.random.key(1)
    drawn = [np.round(strengths(once, noise=(0, 20), step=step)) for step in range(3)]
    assert np.ptp(np.concatenate(drawn)) <= 3  # one strength, measured on few pixels
    assert np.ptp(np.round(strengths(None, noise=(0, 20), step=0))) > 10


def test_the_ranges_are_the_authors():
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
