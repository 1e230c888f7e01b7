import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import cuts, mixing
from rtda_jax.run import parallel

LABELS = np.array(
    [
        [[0, 0, 1, 1], [2, 2, 255, 255], [0, 0, 3, 3]],
        [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
        [[0, 0, 0, 0], [0, 2, 2, 0], [255, 255, 255, 255]],
    ],
    np.uint8,
)
K = 4


def class_mask(labels, key, index, *, num_classes, ignore="class"):
    seen = mixing.present(labels, num_classes=num_classes, ignore=ignore)
    return mixing.mask_of(labels, mixing.half_of(seen, key, index))


def test_classes_present_in_each_image():
    got = mixing.present(LABELS, num_classes=K)
    expected = [[1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(got, np.bool_(expected))
    never = mixing.present(LABELS, num_classes=K, ignore="never")
    np.testing.assert_array_equal(never[:, :K], got[:, :K])
    assert not never[:, K].any()
    with pytest.raises(ValueError, match="'maybe'; known: class, never"):
        mixing.present(LABELS, num_classes=K, ignore="maybe")


@pytest.mark.parametrize(("ignore", "counts"), [("class", (3, 1, 2)), ("never", (2, 1, 1))])
def test_a_mask_is_the_pixels_of_a_random_half_of_the_images_classes(ignore, counts):
    index = jnp.arange(3)
    choose = jax.jit(
        functools.partial(class_mask, num_classes=K, ignore=ignore),
    )
    drawn = [set() for _ in LABELS]
    for step in range(60):
        masks = np.asarray(choose(LABELS, jax.random.key(step), index))
        for i, (label, mask) in enumerate(zip(LABELS, masks, strict=True)):
            classes = np.unique(label[mask])
            np.testing.assert_array_equal(mask, np.isin(label, classes))
            assert len(classes) == counts[i]
            drawn[i].add(tuple(classes.tolist()))
    for i, label in enumerate(LABELS):
        there = [c for c in np.unique(label).tolist() if ignore == "class" or c != 255]
        assert drawn[i] == set(itertools.combinations(there, counts[i]))


def test_every_class_is_drawn_equally_often():
    many = np.broadcast_to(LABELS[:1], (600, 3, 4))
    seen = mixing.present(many, num_classes=K)
    chosen = np.asarray(mixing.half_of(seen, jax.random.key(0), jnp.arange(600)))
    np.testing.assert_allclose(chosen.mean(axis=0), 3 / 5, atol=0.07)


def test_fewer_classes_but_at_least_one():
    seen = mixing.present(LABELS, num_classes=K)
    fewer = mixing.half_of(seen, jax.random.key(0), jnp.arange(3), fewer=jnp.array([2, 2, 0]))
    np.testing.assert_array_equal(fewer.sum(axis=1), [1, 1, 2])


def test_an_image_without_any_class_has_an_empty_mask():
    nothing = np.full((1, 2, 2), 255, np.uint8)
    mask = class_mask(nothing, jax.random.key(0), jnp.arange(1), num_classes=K, ignore="never")
    assert not mask.any()


def test_neither_batch_nor_device_matters():
    labels = np.random.default_rng(0).integers(0, 9, (8, 6, 5)).astype(np.uint8)
    index = np.array([5, 900, 31, 7, 2, 1, 77, 12], np.int32)
    key = jax.random.key(3)
    one = functools.partial(class_mask, num_classes=9)
    expected = np.asarray(one(labels, key, index))
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    np.testing.assert_array_equal(one(labels[order], key, index[order]), expected[order])
    devices = list(parallel.mesh().devices.flat)
    mapped = jax.pmap(one, in_axes=(0, None, 0), devices=devices)
    halves = mapped(labels.reshape(2, 4, 6, 5), key, index.reshape(2, 4))
    np.testing.assert_array_equal(halves.reshape(8, 6, 5), expected)
    assert not np.array_equal(one(labels, jax.random.key(4), index), expected)


def test_paste_pixel_by_pixel():
    mask = np.bool_([[[1, 0], [0, 1]]])
    np.testing.assert_array_equal(
        mixing.paste(mask, np.full((1, 2, 2), 7), np.array([[[1, 2], [3, 4]]])), [[[7, 2], [3, 7]]]
    )
    over, under = np.full((1, 2, 2, 3), 100.0), np.arange(12.0).reshape(1, 2, 2, 3)
    got = np.asarray(mixing.paste(mask, over, under))
    assert (got[mask] == 100).all()
    np.testing.assert_array_equal(got[~mask], under[~mask])


def test_confidence_is_the_share_of_sure_pixels_and_weighs_the_teachers_half():
    sure, unsure = [0.968, 0.016, 0.016], [0.96, 0.02, 0.02]
    probabilities = jnp.array([[[sure, unsure], [unsure, unsure]], [[sure, sure], [sure, unsure]]])
    share = mixing.confidence(probabilities, threshold=0.968)
    np.testing.assert_allclose(share, [0.25, 0.75])
    mask = np.bool_([[[1, 0], [0, 1]], [[0, 0], [0, 1]]])
    np.testing.assert_allclose(
        mixing.pixel_weights(mask, share), [[[1, 0.25], [0.25, 1]], [[0.75, 0.75], [0.75, 1]]]
    )


def test_the_boundary_is_what_lies_near_both_sides():
    mask = np.zeros((1, 5, 7), bool)
    mask[:, :, 4:] = True
    expected = np.zeros_like(mask)
    expected[:, :, 3:5] = True
    np.testing.assert_array_equal(mixing.boundary(mask, radius=1), expected)
    assert not mixing.boundary(np.ones_like(mask), radius=2).any()


def test_related_classes_join_until_half_of_them_are_there():
    table = np.zeros((K, K), bool)
    table[0, [1, 2]] = True  # class 0 brings 1 and 2
    seen = mixing.present(LABELS, num_classes=K)  # image 0 shows 0, 1, 2, 3 and 255
    orders = set()
    for step in range(60):
        key, index = jax.random.key(step), jnp.arange(3)
        chosen = mixing.half_of(seen, key, index)
        joined = mixing.with_related(chosen, seen, key, index, table=jnp.asarray(table))
        joined, picked = np.asarray(joined), np.asarray(chosen)
        assert not joined[:, K].any()
        classes = frozenset(np.flatnonzero(joined[0]).tolist())
        own = frozenset(np.flatnonzero(picked[0, :K]).tolist())
        if 0 in classes:
            # With its two relatives there are enough, unless one other class came before.
            assert classes >= {0, 1, 2}
        else:
            assert classes <= own
            assert len(classes) == 2
        orders.add(classes)
        np.testing.assert_array_equal(joined[1], picked[1])
    assert {frozenset({0, 1, 2}), frozenset({0, 1, 2, 3})} <= orders


def test_a_cut_takes_whole_families():
    labels = np.tile(np.arange(8, dtype=np.uint8), (3, 2, 1))
    image = np.random.default_rng(0).uniform(0, 255, (3, 2, 8, 3))
    pairs = jnp.eye(8, dtype=bool)[jnp.arange(8) ^ 1]  # 0 and 1 belong together, 2 and 3, ...
    batch = {"source_image": image, "source_label": labels, "source_index": jnp.arange(3)}
    drawn = set()
    for step in range(5):
        masks = {}
        for name, related in (("alone", None), ("related", pairs)):
            cut = cuts.make_cut(num_classes=8, ignore="never", related=related)
            got_image, got_label, mask = cut(batch, jax.random.key(step))
            np.testing.assert_array_equal(got_image, image)
            np.testing.assert_array_equal(got_label, labels)
            masks[name] = np.asarray(mask)[:, 0]
            np.testing.assert_array_equal(mask[:, 1], mask[:, 0])
            assert (masks[name].sum(axis=1) == 4).all()
        families = masks["related"].reshape(3, 4, 2)
        np.testing.assert_array_equal(families[..., 0], families[..., 1])
        drawn |= {tuple(row) for row in masks["alone"].tolist()}
    assert len(drawn) > 5
