import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import classes, mixing
from rtda_jax.data.labels import class_set
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
    seen = classes.present(labels, num_classes=num_classes, ignore=ignore)
    return classes.mask_of(labels, classes.half_of(seen, key, index))


def test_classes_present_in_each_image():
    got = classes.present(LABELS, num_classes=K)
    expected = [[1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(got, np.bool_(expected))
    never = classes.present(LABELS, num_classes=K, ignore="never")
    np.testing.assert_array_equal(never[:, :K], got[:, :K])
    assert not never[:, K].any()
    with pytest.raises(ValueError, match="'maybe'; known: class, never"):
        classes.present(LABELS, num_classes=K, ignore="maybe")


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
    seen = classes.present(many, num_classes=K)
    chosen = np.asarray(classes.half_of(seen, jax.random.key(0), jnp.arange(600)))
    np.testing.assert_allclose(chosen.mean(axis=0), 3 / 5, atol=0.07)


def test_fewer_classes_but_at_least_one():
    seen = classes.present(LABELS, num_classes=K)
    fewer = classes.half_of(seen, jax.random.key(0), jnp.arange(3), fewer=jnp.array([2, 2, 0]))
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
        classes.paste(mask, np.full((1, 2, 2), 7), np.array([[[1, 2], [3, 4]]])), [[[7, 2], [3, 7]]]
    )
    over, under = np.full((1, 2, 2, 3), 100.0), np.arange(12.0).reshape(1, 2, 2, 3)
    got = np.asarray(classes.paste(mask, over, under))
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
    seen = classes.present(LABELS, num_classes=K)  # image 0 shows 0, 1, 2, 3 and 255
    orders = set()
    for step in range(60):
        key, index = jax.random.key(step), jnp.arange(3)
        chosen = classes.half_of(seen, key, index)
        joined = classes.with_related(chosen, seen, key, index, table=jnp.asarray(table))
        joined, picked = np.asarray(joined), np.asarray(chosen)
        assert not joined[:, K].any()
        family = frozenset(np.flatnonzero(joined[0]).tolist())
        own = frozenset(np.flatnonzero(picked[0, :K]).tolist())
        if 0 in family:
            # With its two relatives there are enough, unless one other class came before.
            assert family >= {0, 1, 2}
        else:
            assert family <= own
            assert len(family) == 2
        orders.add(family)
        np.testing.assert_array_equal(joined[1], picked[1])
    assert {frozenset({0, 1, 2}), frozenset({0, 1, 2, 3})} <= orders


NUMBERS = [str(k) for k in range(8)]


def test_a_cut_takes_whole_families(monkeypatch):
    labels = np.tile(np.arange(8, dtype=np.uint8), (3, 2, 1))
    image = np.random.default_rng(0).uniform(0, 255, (3, 2, 8, 3))
    pairs = {str(k): (str(k ^ 1),) for k in range(8)}  # 0 and 1 belong together, 2 and 3, ...
    monkeypatch.setitem(classes.RELATED, "pairs", pairs)
    batch = {"source_image": image, "source_label": labels, "source_index": jnp.arange(3)}
    drawn = set()
    for step in range(5):
        masks = {}
        for name, related in (("alone", "none"), ("related", "pairs")):
            options = mixing.MixOptions(related=related)
            cut = mixing.make_cut(options, mixing.LongTailOptions(), names=NUMBERS)
            got_image, got_label, mask = cut(batch, jax.random.key(step), None)
            np.testing.assert_array_equal(got_image, image)
            np.testing.assert_array_equal(got_label, labels)
            masks[name] = np.asarray(mask)[:, 0]
            np.testing.assert_array_equal(mask[:, 1], mask[:, 0])
            assert (masks[name].sum(axis=1) == 4).all()
        families = masks["related"].reshape(3, 4, 2)
        np.testing.assert_array_equal(families[..., 0], families[..., 1])
        drawn |= {tuple(row) for row in masks["alone"].tolist()}
    assert len(drawn) > 5


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
    got_image, got_label, got_mask = mixing.paste_candidates(
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
        got_label, [[[3, 1, 2, 3], [0, 0, 0, 0]], [[0, 0, 0, 0], [2, 2, 0, 0]]]
    )
    np.testing.assert_array_equal(
        got_image[..., 0], [[[30, 10, 10, 30], [0, 0, 0, 0]], [[0, 0, 0, 0], [20, 20, 0, 0]]]
    )
    np.testing.assert_array_equal(
        got_mask, np.bool_([[[1, 1, 1, 1], [0, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]])
    )


def test_accepted_candidates_follow_the_softmax_of_the_inverse_thresholds():
    theta = jnp.array([0.4, 0.6, 0.9, 0.99])
    kinds = np.random.default_rng(0).integers(0, 4, (20000, 1))
    taken = mixing.accepted(
        kinds,
        jax.random.key(0),
        jnp.arange(20000),
        count=(1, 1),
        odds=mixing.CHOICES["threshold"](theta),
    )
    counts = np.bincount(kinds[np.asarray(taken)], minlength=4)
    expected = jax.nn.softmax(1 / theta)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.015)


def test_as_many_are_taken_as_drawn_and_absent_ones_never():
    kinds = np.tile(np.array([[255, 1, 1, 2, 2, 3]]), (300, 1))
    index = jnp.arange(300)
    taken = np.asarray(mixing.accepted(kinds, jax.random.key(1), index, count=(2, 4)))
    assert not taken[:, 0].any()
    assert set(taken.sum(axis=1).tolist()) == {2, 3, 4}
    assert taken[:, 1:3].all()  # the first ones that are there
    again = mixing.accepted(kinds[::-1], jax.random.key(1), index[::-1], count=(2, 4))
    np.testing.assert_array_equal(again[::-1], taken)


def test_tables_of_related_classes_go_by_name():
    names = class_set("cityscapes19").names
    gta5 = classes.related_classes("gta5", names=names)
    bring = lambda t, n, c: {n[i] for i in np.flatnonzero(t[n.index(c)])}  # noqa: E731
    assert bring(gta5, names, "rider") == {"motorcycle", "bicycle"}
    assert bring(gta5, names, "pole") == {"traffic light", "traffic sign"}
    assert bring(gta5, names, "wall") == {"fence"}
    assert bring(gta5, names, "sky") == set()
    names = class_set("crosscity13").names
    city = classes.related_classes("synthia", names=names)
    assert bring(city, names, "traffic light") == {"traffic sign"}
    assert {"car", "bus", "person", "rider"} <= bring(city, names, "road")
    assert not np.diag(gta5).any()
    assert not classes.related_classes("none", names=names).any()
    with pytest.raises(ValueError, match=r"'kitti'; known: gta5, none, synthia"):
        classes.related_classes("kitti", names=names)


@pytest.mark.parametrize(
    ("choice", "own", "slot"), [("uniform", [4, 2, 2, 1], 1), ("threshold", [4, 2, 4, 1], 3)]
)
def test_a_cut_pastes_what_its_choice_accepts_and_takes_fewer_classes_only_there(
    choice, own, slot, monkeypatch
):
    source = np.full((4, 4, 8), 255, np.uint8)
    source[:3, :2] = np.arange(8)
    source[3, :2] = np.arange(8) % 2
    offered = [[255] * 6, [6, 6, 3, 3, 3, 3], [6] * 6, [6, 6, 3, 3, 3, 3]]
    kinds = np.array(offered, np.uint8)
    labels = np.full((4, 6, 4, 8), 255, np.uint8)
    labels[:, :, 2] = kinds[:, :, None]
    labels[:, :, 3, :4] = kinds[:, :, None] + (kinds < 255)[:, :, None]  # comes along
    labels[:, :, 3, 4:] = 0  # does not
    batch = {
        "source_image": np.zeros((4, 4, 8, 3), np.float32),
        "source_label": source,
        "source_index": jnp.arange(4),
        "candidate_images": np.zeros((4, 6, 4, 8, 3)) + np.arange(1, 7).reshape(1, 6, 1, 1, 1),
        "candidate_labels": labels,
        "candidate_classes": kinds,
    }
    theta = jnp.full(8, 0.99).at[3].set(0.06)  # of 6 none is accepted in e^15 draws
    following = {str(k): (str(k + 1),) for k in range(7)}
    monkeypatch.setitem(classes.RELATED, "following", following)
    long_tail = mixing.LongTailOptions(
        probability=1.0, slots=6, count=(2, 2), related="following", choice=choice
    )
    cut = mixing.make_cut(mixing.MixOptions(), long_tail, names=NUMBERS)
    pasted = [i for i in range(4) if i and (choice == "uniform" or 3 in offered[i])]
    for step in range(4):
        image, label, mask = (np.asarray(x) for x in cut(batch, jax.random.key(step), theta))
        assert [len(np.unique(source[i, :2][mask[i, :2]])) for i in range(4)] == own
        np.testing.assert_array_equal(label[:, :2], source[:, :2])
        assert not image[:, :2].any()
        expected = np.zeros((4, 2, 8), bool)
        expected[pasted] = [[True] * 8, [True] * 4 + [False] * 4]
        np.testing.assert_array_equal(mask[:, 2:], expected)
        for i in pasted:
            np.testing.assert_array_equal(image[i, 2:, :, 0], (slot + 1) * expected[i])
            np.testing.assert_array_equal(
                label[i, 2:], np.where(expected[i], labels[i, slot, 2:], 255)
            )
