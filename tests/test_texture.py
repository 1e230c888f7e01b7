import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment.texture import TEXTURES, Texture, textured


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_an_image_looks_alike_wherever_it_lies_and_another_step_differs(name):
    made, key = images(5), jax.random.key(3)
    index = np.array([5, 900, 31, 7, 2], np.int32)
    one = jax.jit(functools.partial(textured, how=TEXTURES[name]))
    expected = one(made, key, index)
    assert expected.min() >= 0
    assert expected.max() <= 255
    np.testing.assert_allclose(one(made[::-1], key, index[::-1])[::-1], expected, atol=2e-2)
    assert np.abs(one(made, jax.random.key(4), index) - expected).mean() > 5


OFF = {"shadow": (0.0, 0.0), "noise": (0, 0), "blur": (0.0, 0.0)}


def test_ranges_of_one_value_are_these_operations():
    made = np.full((3, 12, 16, 3), 100, np.uint8)
    same = textured(made, jax.random.key(0), jnp.arange(3), how=Texture(**OFF))
    np.testing.assert_allclose(same, made, atol=1e-3)
    half = Texture(**{**OFF, "brightness": (0.5, 0.5)})
    np.testing.assert_allclose(textured(made, jax.random.key(0), jnp.arange(3), how=half), 50)


def strengths(once, *, noise, step):
    """The noise left on grey images, which tells how strong it was drawn."""
    made = np.full((64, 12, 16, 3), 128, np.uint8)
    how = Texture(**{**OFF, "noise": noise})
    got = textured(made, jax.random.key(step), jnp.arange(64), how=how, once=once)
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
