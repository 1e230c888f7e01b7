import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import classes
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
INDEX = jnp.arange(3)


def half_mask(labels, key, index, *, num_classes, ignore="class"):
    shown = classes.present(labels, num_classes=num_classes, ignore=ignore)
    return classes.mask_of(labels, classes.half_of(shown, key, index))


def test_classes_present_in_each_image():
    shown = classes.present(LABELS, num_classes=K)
    expected = [[1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(shown, np.bool_(expected))
    never = classes.present(LABELS, num_classes=K, ignore="never")
    np.testing.assert_array_equal(never[:, :K], shown[:, :K])
    assert not never[:, K].any()
    with pytest.raises(ValueError, match=r"mix\.ignore 'maybe'; known: class, never"):
        classes.present(LABELS, num_classes=K, ignore="maybe")


@pytest.mark.parametrize(("ignore", "counts"), [("class", (3, 1, 2)), ("never", (2, 1, 1))])
def test_a_mask_is_the_pixels_of_a_random_half_of_the_images_classes(ignore, counts):
    choose = jax.jit(functools.partial(half_mask, num_classes=K, ignore=ignore))
    drawn = [set() for _ in LABELS]
    for step in range(60):
        masks = np.asarray(choose(LABELS, jax.random.key(step), INDEX))
        for i, (label, mask) in enumerate(zip(LABELS, masks, strict=True)):
            chosen = np.unique(label[mask])
            np.testing.assert_array_equal(mask, np.isin(label, chosen))
            assert len(chosen) == counts[i]
            drawn[i].add(tuple(chosen.tolist()))
    for i, label in enumerate(LABELS):
        there = [c for c in np.unique(label).tolist() if ignore == "class" or c != 255]
        assert drawn[i] == set(itertools.combinations(there, counts[i]))


def test_a_half_is_rounded_up():
    for count in range(1, 8):
        shown = jnp.arange(8)[None] < count
        half = classes.half_of(shown, jax.random.key(count), jnp.arange(1))
        assert half.sum() == (count + count % 2) / 2


def test_every_class_is_drawn_equally_often():
    many = np.broadcast_to(LABELS[:1], (600, 3, 4))
    shown = classes.present(many, num_classes=K)
    chosen = np.asarray(classes.half_of(shown, jax.random.key(0), jnp.arange(600)))
    np.testing.assert_allclose(chosen.mean(axis=0), 3 / 5, atol=0.07)


def test_fewer_classes_but_at_least_one():
    shown = classes.present(LABELS, num_classes=K)
    half = classes.half_of(shown, jax.random.key(0), INDEX, fewer=jnp.array([1, 2, 0]))
    np.testing.assert_array_equal(half.sum(axis=1), [2, 1, 2])
    half = classes.half_of(shown, jax.random.key(0), INDEX, fewer=2)
    np.testing.assert_array_equal(half.sum(axis=1), [1, 1, 1])


def test_an_image_without_any_class_has_an_empty_mask():
    nothing = np.full((1, 2, 2), 255, np.uint8)
    mask = half_mask(nothing, jax.random.key(0), jnp.arange(1), num_classes=K, ignore="never")
    assert not mask.any()


def test_neither_batch_nor_device_matters():
    labels = np.random.default_rng(0).integers(0, 9, (8, 6, 5)).astype(np.uint8)
    index = np.array([5, 900, 31, 7, 2, 1, 77, 12], np.int32)
    key = jax.random.key(3)
    choose = functools.partial(half_mask, num_classes=9)
    expected = np.asarray(choose(labels, key, index))
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    np.testing.assert_array_equal(choose(labels[order], key, index[order]), expected[order])
    devices = list(parallel.mesh().devices.flat)
    mapped = jax.pmap(choose, in_axes=(0, None, 0), devices=devices)
    halves = mapped(labels.reshape(2, 4, 6, 5), key, index.reshape(2, 4))
    np.testing.assert_array_equal(halves.reshape(8, 6, 5), expected)
    assert not np.array_equal(choose(labels, jax.random.key(4), index), expected)


def test_the_classes_of_the_batch_are_those_of_all_images_of_all_devices():
    shown = np.bool_([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    own = classes.AMONG["image"](shown, None)
    np.testing.assert_array_equal(own, shown)
    everywhere = classes.AMONG["batch"](jnp.asarray(shown), None)
    np.testing.assert_array_equal(everywhere, np.bool_([[1, 0, 1, 1]] * 4))
    mesh = parallel.mesh()
    mapped = jax.pmap(
        lambda x: classes.AMONG["batch"](x, parallel.AXIS),
        axis_name=parallel.AXIS,
        devices=list(mesh.devices.flat),
    )
    np.testing.assert_array_equal(mapped(shown.reshape(2, 2, 4)).reshape(4, 4), everywhere)


def test_paste_pixel_by_pixel():
    mask = np.bool_([[[1, 0], [0, 1]]])
    np.testing.assert_array_equal(
        classes.paste(mask, np.full((1, 2, 2), 7), np.array([[[1, 2], [3, 4]]])), [[[7, 2], [3, 7]]]
    )
    over, under = np.full((1, 2, 2, 3), 100.0), np.arange(12.0).reshape(1, 2, 2, 3)
    pasted = np.asarray(classes.paste(mask, over, under))
    assert (pasted[mask] == 100).all()
    np.testing.assert_array_equal(pasted[~mask], under[~mask])


def numpy_families(chosen, shown, order, table):
    """Whole families, in the order drawn, until half of the classes have joined."""
    joined = set()
    for c in order:
        if chosen[c] and (len(joined) < shown.sum() // 2 or not joined) and c < len(table):
            joined |= {c, *np.flatnonzero(table[c])} & set(np.flatnonzero(shown))
    return joined


def test_related_classes_join_in_the_order_drawn_until_half_of_them_are_there():
    table = np.zeros((K, K), bool)
    table[0, [1, 2]] = True  # class 0 brings 1 and 2
    table[3, 1] = True
    shown = classes.present(LABELS, num_classes=K)  # image 0 shows 0, 1, 2, 3 and 255
    shown = jnp.concatenate([shown, jnp.array([[False, True, True, True, True]])])
    index = jnp.arange(4)
    join = jax.jit(classes.with_related)
    families = set()
    for step in range(60):
        key = jax.random.key(step)
        chosen = classes.half_of(shown, key, index)
        joined = join(chosen, shown, key, index, table=jnp.asarray(table))
        for i in range(4):
            lots = np.array(jax.random.uniform(jax.random.fold_in(key, i), (K + 1,)))
            lots[~np.asarray(shown[i])] = 2
            expected = numpy_families(
                np.asarray(chosen[i]), np.asarray(shown[i]), np.argsort(lots), table
            )
            assert set(np.flatnonzero(joined[i]).tolist()) == expected
        families.add(frozenset(np.flatnonzero(joined[0]).tolist()))
    assert families == {frozenset(f) for f in ((0, 1, 2), (1, 2), (1, 3), (1, 2, 3))}


def relatives(table, names, name):
    return {names[i] for i in np.flatnonzero(table[names.index(name)])}


POSTS = {"pole", "traffic light", "traffic sign"}
TWO_WHEELS = {"rider", "motorcycle", "bicycle"}


def test_the_related_classes_are_those_of_tufl():
    names = class_set("cityscapes19").names
    gta5 = classes.related_classes("gta5", names=names)
    synthia = classes.related_classes("synthia", names=names)
    road = {"terrain", "car", "truck", "bus", "train"} | TWO_WHEELS
    expected = {
        "road": (road, {"person", "car", "bus"} | TWO_WHEELS),
        "sidewalk": ({"terrain", "person"}, {"person"} | TWO_WHEELS),
        "building": (set(), POSTS),
        "wall": ({"fence"}, set()),
        "fence": ({"wall"}, set()),
        "vegetation": ({"terrain"}, set()),
        "terrain": ({"vegetation"}, set()),
        **{name: (POSTS - {name},) * 2 for name in POSTS},
        **{name: (TWO_WHEELS - {name},) * 2 for name in TWO_WHEELS},
    }
    for name in names:
        wanted = expected.get(name, (set(), set()))
        assert (relatives(gta5, names, name), relatives(synthia, names, name)) == wanted
    assert not classes.related_classes("none", names=names).any()


def test_related_classes_go_by_name_where_a_class_set_lacks_some():
    names = class_set("crosscity13").names
    table = classes.related_classes("synthia", names=names)
    assert relatives(table, names, "traffic light") == {"traffic sign"}
    assert {"car", "bus", "person", "rider"} <= relatives(table, names, "road")
    with pytest.raises(ValueError, match=r"'kitti'; known: gta5, none, synthia"):
        classes.related_classes("kitti", names=names)
