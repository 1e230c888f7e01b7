"""Candidates of rare classes: which are accepted, and what they cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import mixing
from rtda_jax.augment.mixing import LongTailOptions
from rtda_jax.errors import ConfigError


def test_candidates_are_pasted_with_their_relatives_one_over_the_other():
    image = np.zeros((2, 2, 4, 3), np.float32)
    label = np.zeros((2, 2, 4), np.uint8)
    mask = np.zeros((2, 2, 4), bool)
    mask[:, 0, 0] = True
    images = np.stack([np.full((2, 2, 4, 3), 10.0 * (slot + 1)) for slot in range(3)], axis=1)
    labels = np.full((2, 3, 2, 4), 255, np.uint8)
    labels[:, 0, 0] = [1, 1, 2, 3]
    labels[:, 1, 1] = [2, 2, 255, 3]
    labels[:, 2, 0] = [3, 0, 0, 3]
    table = np.zeros((4, 4), bool)
    table[1, 2] = True  # 1 brings 2
    image, label, mask = mixing.paste_candidates(
        image,
        label,
        mask,
        images=images,
        labels=labels,
        classes=np.array([[1, 2, 3], [1, 2, 255]]),
        accepted=np.bool_([[1, 0, 1], [0, 1, 1]]),
        table=jnp.asarray(table),
    )
    np.testing.assert_array_equal(
        label, [[[3, 1, 2, 3], [0, 0, 0, 0]], [[0, 0, 0, 0], [2, 2, 0, 0]]]
    )
    np.testing.assert_array_equal(
        image[..., 0], [[[30, 10, 10, 30], [0, 0, 0, 0]], [[0, 0, 0, 0], [20, 20, 0, 0]]]
    )
    np.testing.assert_array_equal(
        mask, np.bool_([[[1, 1, 1, 1], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]])
    )


def test_accepted_candidates_follow_the_softmax_of_the_inverse_thresholds():
    theta = jnp.array([0.4, 0.6, 0.9, 0.99])
    candidates = np.random.default_rng(0).integers(0, 4, (20000, 1))
    odds = mixing.CHOICES["threshold"](theta)
    assert odds.max() == 1
    taken = mixing.accepted(
        candidates, jax.random.key(0), jnp.arange(20000), count=(1, 1), odds=odds
    )
    counts = np.bincount(candidates[np.asarray(taken)], minlength=4)
    expected = jax.nn.softmax(1 / theta)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.015)
    assert mixing.CHOICES["uniform"](theta) is None
    with pytest.raises(ValueError, match="needs the adaptive thresholds"):
        mixing.CHOICES["threshold"](None)


def test_as_many_are_taken_as_drawn_and_absent_ones_never():
    candidates = np.tile(np.array([[255, 1, 1, 2, 2, 3]]), (300, 1))
    index = jnp.arange(300)
    taken = np.asarray(mixing.accepted(candidates, jax.random.key(1), index, count=(2, 4)))
    assert not taken[:, 0].any()
    counts = np.bincount(taken.sum(axis=1), minlength=5)
    assert counts[:2].sum() == 0
    assert (np.abs(counts[2:] - 100) < 30).all()
    assert taken[:, 1:3].all()  # the first ones that are there
    again = mixing.accepted(candidates[::-1], jax.random.key(1), index[::-1], count=(2, 4))
    np.testing.assert_array_equal(again[::-1], taken)


def test_the_candidates_of_an_image_are_drawn_by_its_number():
    candidates, key = np.array([[0, 1, 0, 1, 255, 1]] * 4), jax.random.key(9)
    odds, numbers = jnp.array([0.3, 0.8]), (5, 900, 31, 7)
    taken = mixing.accepted(candidates, key, jnp.array(numbers), count=(1, 3), odds=odds)
    for row, number, kinds in zip(taken, numbers, candidates, strict=True):
        by_class, by_number = jax.random.split(jax.random.fold_in(key, number))
        lots = jax.random.uniform(by_class, (6,))
        wanted = jax.random.randint(by_number, (), 1, 4)
        willing = [s for s in range(6) if kinds[s] != 255 and lots[s] < odds[kinds[s]]]
        assert np.flatnonzero(row).tolist() == willing[:wanted]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probability": 1.5}, r"long_tail\.probability must be a probability, got 1\.5"),
        ({"probability": -0.5}, r"long_tail\.probability must be a probability"),
        ({"count": (0, 2)}, r"long_tail\.count \(0, 2\) must be a range within 1\.\.2"),
        ({"count": (2, 1)}, r"long_tail\.count \(2, 1\) must be a range within 1\.\.2"),
        ({"count": (2, 3)}, r"long_tail\.count \(2, 3\) must be a range within 1\.\.2"),
        ({"choice": "kitti"}, r"long_tail\.choice 'kitti'; known: threshold, uniform"),
        ({"related": "kitti"}, r"long_tail\.related 'kitti'; known: gta5, none, synthia"),
    ],
)
def test_rare_classes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        LongTailOptions(**fields)
