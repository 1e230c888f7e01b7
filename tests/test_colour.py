import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtda_jax.augment import colour
from rtda_jax.run import parallel

S1 = {"probability": 0.5, "contrast_range": (2.0, 6.0), "saturation_range": (1.0, 4.0)}


def images(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3)).astype(np.uint8)


def test_half_of_the_images_change_and_the_others_do_not():
    made = images(400)
    got = colour.colour(made, jax.random.key(1), jnp.arange(400), **S1)
    changed = np.any(np.asarray(got) != made, axis=(1, 2, 3))
    assert 150 < changed.sum() < 250
    assert got.min() >= 0
    assert got.max() <= 255
    spread = np.asarray(got).std(axis=(1, 2, 3)) / made.std(axis=(1, 2, 3))
    assert (spread[changed] > 1.1).all()


def test_an_image_is_changed_alike_wherever_it_lies():
    made, key = images(8), jax.random.key(3)
    index = np.array([5, 900, 31, 7, 2, 1, 77, 12], np.int32)
    one = functools.partial(colour.colour, **S1)
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


def test_only_the_source_image_changes_and_probability_zero_changes_nothing():
    batch = {
        "source_image": images(16),
        "target_image": images(16, seed=1),
        "source_index": np.arange(16, dtype=np.int32),
    }
    got = colour.make_augment(**S1)(batch, jax.random.key(0))
    assert not np.array_equal(got["source_image"], batch["source_image"])
    assert got["target_image"] is batch["target_image"]
    off = colour.make_augment(**{**S1, "probability": 0.0})(batch, jax.random.key(0))
    assert off["source_image"] is batch["source_image"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probability": 1.5}, "must be a probability, got 1.5"),
        ({"contrast_range": (3.0, 2.0)}, "augment.contrast must be a range"),
        ({"saturation_range": (-1.0, 2.0)}, "augment.saturation must be a range"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        colour.make_augment(**{**S1, **fields})


def test_a_batch_that_does_not_say_which_images_it_holds_is_refused():
    with pytest.raises(ValueError, match="source_index"):
        colour.make_augment(**S1)({"source_image": images()}, jax.random.key(0))


def test_strong_colours_stay_in_range_change_most_images_and_follow_the_index():
    made = images(200)
    got = np.asarray(colour.strong(made, jax.random.key(2), jnp.arange(200)))
    assert got.min() >= 0
    assert got.max() <= 255
    changed = np.abs(got - made).max(axis=(1, 2, 3)) > 0.5
    assert 160 < changed.sum() < 199  # 1 - 0.2 * 0.5 of them
    alone = colour.strong(made[7:9], jax.random.key(2), jnp.arange(7, 9))
    np.testing.assert_allclose(alone, got[7:9], atol=1e-3)
