import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment import classes, mixing, photometric
from rtda_jax.augment.mixing import LongTailOptions, MixOptions
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel

K = 8
NAMES = [str(k) for k in range(K)]
KEY = jax.random.key(1)


def random_batch(count=4, size=(12, 16), seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, K, (count, 3, 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    coarse[:, :2] = 255
    return {
        "source_image": np.float32(rng.uniform(0, 255, (count, *size, 3))),
        "source_label": coarse,
        "source_index": np.array([5, 900, 31, 7][:count], np.int32),
        "target_image": np.float32(rng.uniform(0, 255, (count, *size, 3))),
        "teacher_label": rng.integers(0, K, (count, *size)).astype(np.uint8),
        "teacher_weight": np.float32(rng.uniform(0, 1, (count, *size))),
    }


def as_they_are(images, key, index):
    return images


def mix(batch, options, *, recolour=as_they_are, axis_name=None, key=KEY):
    cut = mixing.make_cut(options, LongTailOptions(), names=NAMES, axis_name=axis_name)
    return mixing.mix(batch, key, options=options, cut=cut, recolour=recolour)


def half(shown, key, number):
    """Returns the classes among `shown` that are drawn for the image with that number."""
    lots = np.array(jax.random.uniform(jax.random.fold_in(key, int(number)), (K + 1,)))
    order = [c for c in np.argsort(lots) if c in shown]
    return [255 if c == K else c for c in order[: (len(order) + 1) // 2]]


@pytest.mark.parametrize("ignore", ["never", "class"])
@pytest.mark.parametrize("among", ["image", "batch"])
def test_a_mix_is_half_of_the_classes_of_the_source_over_the_teachers_labels(ignore, among):
    batch = random_batch()
    mixed = mix(batch, MixOptions(ignore=ignore, among=among))
    draw, _ = jax.random.split(KEY)
    labels = batch["source_label"]
    shown = [{K if c == 255 else c for c in np.unique(label)} for label in labels]
    if ignore == "never":
        shown = [image - {K} for image in shown]
    if among == "batch":
        shown = [set().union(*shown)] * 4
    drawn = [half(s, draw, n) for s, n in zip(shown, batch["source_index"], strict=True)]
    mask = np.stack([np.isin(label, c) for label, c in zip(labels, drawn, strict=True)])
    assert mask.any(axis=(1, 2)).any()
    pasted = mask[..., None]
    np.testing.assert_array_equal(
        mixed.image, np.where(pasted, batch["source_image"], batch["target_image"])
    )
    np.testing.assert_array_equal(mixed.label, np.where(mask, labels, batch["teacher_label"]))
    np.testing.assert_array_equal(mixed.weight, np.where(mask, 1, batch["teacher_weight"]))
    assert mixed.label.dtype == np.uint8


def test_a_mix_is_recoloured_at_the_end_with_a_key_of_its_own():
    def recolour(images, key, index):
        noise = jax.random.uniform(key)
        return images + noise + jnp.asarray(index).reshape(-1, 1, 1, 1)

    batch = random_batch()
    plain, painted = (mix(batch, MixOptions(), recolour=r) for r in (as_they_are, recolour))
    _, paint = jax.random.split(KEY)
    added = jax.random.uniform(paint) + batch["source_index"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(painted.image - plain.image, added + 0 * plain.image, atol=1e-3)
    np.testing.assert_array_equal(painted.label, plain.label)


def test_the_whole_batch_is_that_of_all_devices():
    options = MixOptions(among="batch")
    batch = random_batch()
    expected = mix(batch, options)
    mesh = parallel.mesh()
    mapped = jax.pmap(
        functools.partial(mix, options=options, axis_name=parallel.AXIS),
        axis_name=parallel.AXIS,
        devices=list(mesh.devices.flat),
    )
    halves = {name: x.reshape(2, 2, *x.shape[1:]) for name, x in batch.items()}
    mixed = mapped(halves)
    for ours, whole in zip(mixed, expected, strict=True):
        np.testing.assert_allclose(ours.reshape(whole.shape), whole, rtol=1e-6)


def test_pixels_at_the_seam_count_twice_and_are_blurred():
    batch = random_batch()
    plain = mix(batch, MixOptions())
    seamed = mix(batch, MixOptions(boundary=1))
    blurred = mix(batch, MixOptions(boundary=1, boundary_blur=0.6))
    mask = (np.asarray(plain.image) == batch["source_image"]).all(-1)
    seam = np.asarray(mixing.boundary(mask, radius=1))
    assert 0.05 < seam.mean() < 0.95
    weight = np.where(seam, 2 * plain.weight, plain.weight)
    np.testing.assert_allclose(seamed.weight, weight)
    np.testing.assert_allclose(blurred.weight, weight)
    np.testing.assert_array_equal(seamed.image, plain.image)
    soft = photometric.gaussian_blur(plain.image, jnp.full(4, 0.6), radius=2)
    expected = np.where(seam[..., None], soft, plain.image)
    np.testing.assert_allclose(blurred.image, expected, atol=1e-3)

    def square(images, key, index):
        return images**2 / 255

    blurred = mix(batch, MixOptions(boundary=1, boundary_blur=0.6), recolour=square)
    np.testing.assert_allclose(blurred.image, expected**2 / 255, atol=1e-2)  # after the blur


@pytest.mark.parametrize("radius", [1, 2])
def test_the_boundary_is_what_lies_near_both_sides(radius):
    mask = np.zeros((2, 5, 9), bool)
    mask[0, :, 4:] = True
    mask[1, 3:, :] = True
    expected = np.zeros_like(mask)
    expected[0, :, 4 - radius : 4 + radius] = True
    expected[1, 3 - radius : 3 + radius, :] = True
    np.testing.assert_array_equal(mixing.boundary(mask, radius=radius), expected)
    assert not mixing.boundary(np.ones_like(mask), radius=radius).any()


def test_a_cut_takes_whole_families(monkeypatch):
    labels = np.tile(np.arange(8, dtype=np.uint8), (3, 2, 1))
    image = np.random.default_rng(0).uniform(0, 255, (3, 2, 8, 3))
    pairs = {str(k): (str(k ^ 1),) for k in range(8)}  # 0 and 1 are related, 2 and 3, ...
    monkeypatch.setitem(classes.RELATED, "pairs", pairs)
    batch = {"source_image": image, "source_label": labels, "source_index": jnp.arange(3)}
    drawn = set()
    for step in range(5):
        masks = {}
        for name, related in (("alone", "none"), ("related", "pairs")):
            cut = mixing.make_cut(MixOptions(related=related), LongTailOptions(), names=NAMES)
            source, label, mask = cut(batch, jax.random.key(step), None)
            np.testing.assert_array_equal(source, image)
            np.testing.assert_array_equal(label, labels)
            masks[name] = np.asarray(mask)[:, 0]
            np.testing.assert_array_equal(mask[:, 1], mask[:, 0])
            assert (masks[name].sum(axis=1) == 4).all()
        families = masks["related"].reshape(3, 4, 2)
        np.testing.assert_array_equal(families[..., 0], families[..., 1])
        drawn |= {tuple(row) for row in masks["alone"].tolist()}
    assert len(drawn) > 5


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
    # The following class is related and pasted too; class 0 is not.
    labels[:, :, 3, :4] = kinds[:, :, None] + (kinds < 255)[:, :, None]
    labels[:, :, 3, 4:] = 0
    batch = {
        "source_image": np.zeros((4, 4, 8, 3), np.float32),
        "source_label": source,
        "source_index": jnp.arange(4),
        "candidate_images": np.zeros((4, 6, 4, 8, 3)) + np.arange(1, 7).reshape(1, 6, 1, 1, 1),
        "candidate_labels": labels,
        "candidate_classes": kinds,
    }
    theta = jnp.full(8, 0.99).at[3].set(0.06)  # class 6 is accepted once in e^15 draws
    following = {str(k): (str(k + 1),) for k in range(7)}
    monkeypatch.setitem(classes.RELATED, "following", following)
    long_tail = LongTailOptions(
        probability=0.1, slots=6, count=(2, 2), related="following", choice=choice
    )
    cut = mixing.make_cut(MixOptions(), long_tail, names=NAMES)
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


def test_a_cut_draws_its_own_classes_and_its_candidates_with_two_keys():
    batch = random_batch()
    kinds = np.random.default_rng(2).integers(0, K, (4, 6))
    batch |= {
        "candidate_images": np.zeros((4, 6, 12, 16, 3), np.float32),
        "candidate_labels": np.full((4, 6, 12, 16), 255, np.uint8),
        "candidate_classes": np.full((4, 6), 255, np.uint8),
    }
    long_tail = LongTailOptions(probability=0.5, slots=6, count=(1, 3))
    cut = mixing.make_cut(MixOptions(), long_tail, names=NAMES)
    plain = mixing.make_cut(MixOptions(), LongTailOptions(), names=NAMES)
    draw, accept = jax.random.split(KEY)
    np.testing.assert_array_equal(cut(batch, KEY, None)[2], plain(batch, draw, None)[2])
    # Each candidate covers a column of its own, so that the mask shows which are pasted.
    for slot in range(6):
        batch["candidate_labels"][:, slot, 0, slot] = kinds[:, slot]
    taken = mixing.accepted(kinds, accept, batch["source_index"], count=(1, 3))
    mask = cut({**batch, "candidate_classes": kinds}, KEY, None)[2]
    np.testing.assert_array_equal(mask[:, 0, :6], taken)


def test_each_number_of_candidates_in_the_range_is_equally_likely():
    classes = np.full((900, 5), 2, np.uint8)
    taken = np.asarray(mixing.accepted(classes, KEY, jnp.arange(900), count=(2, 4)))
    numbers = np.bincount(taken.sum(axis=1), minlength=6)
    assert numbers[[0, 1, 5]].sum() == 0
    deviation = (900 * (1 / 3) * (2 / 3)) ** 0.5
    assert (np.abs(numbers[2:5] - 300) < 4 * deviation).all()
    assert (taken == (np.arange(5) < taken.sum(axis=1, keepdims=True))).all()  # the first


def test_theta_is_handed_to_the_cut():
    batch, theta = random_batch(), jnp.linspace(0.1, 0.9, K)

    def cut(given, key, thresholds):
        assert thresholds is theta
        return given["source_image"], given["source_label"], given["source_label"] == 255

    mixed = mixing.mix(batch, KEY, options=MixOptions(), cut=cut, recolour=as_they_are, theta=theta)
    assert (np.asarray(mixed.label)[batch["source_label"] == 255] == 255).all()


def test_the_defaults_are_those_of_the_text_of_dacs_without_rare_classes():
    assert dataclasses.asdict(MixOptions()) == {
        "among": "image",
        "colour": "strong",
        "ignore": "never",
        "related": "none",
        "boundary": 0,
        "boundary_blur": 0.0,
    }
    assert dataclasses.asdict(LongTailOptions()) == {
        "probability": 0.0,
        "slots": 2,
        "count": (2, 2),
        "choice": "uniform",
        "classes": (),
        "related": "none",
        "min_pixels": 1,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boundary": -1}, "must be 0 or more"),
        ({"boundary": 1, "boundary_blur": -1.0}, "must be 0 or more"),
        ({"boundary_blur": 1.0}, r"it needs mix\.boundary"),
    ],
)
def test_mixes_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MixOptions(**fields)


@pytest.mark.parametrize("field", ["among", "colour", "ignore", "related"])
def test_unknown_names_of_a_mix_are_refused_by_field(field):
    with pytest.raises(ConfigError, match=rf"mix\.{field} 'kitti'; known: "):
        MixOptions(**{field: "kitti"})


def test_limits_are_allowed():
    MixOptions(boundary=1, boundary_blur=0.0)
    LongTailOptions(probability=1.0, slots=3, count=(1, 3))
