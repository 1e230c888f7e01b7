"""Crops that show the class an image was drawn for, and margins that move with the target."""

import itertools

import data_files
import numpy as np
import pytest
from test_stream import assert_equal, batches

from rtda_jax.data import RareClass, count_labels, decode, geometry, load
from rtda_jax.data.geometry import tf
from rtda_jax.errors import ConfigError

RARE, CROP, MARGINS = 3, (10, 12), (2, 7, 3, 1)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A pair whose source labels hold 4x4 pixels of class 5 or 6 somewhere, 0 elsewhere."""
    root = tmp_path_factory.mktemp("patches")
    source = data_files.folders(root / "source", count=6, among=[0])
    target = data_files.folders(root / "target", count=5)
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted((root / "source" / "labels").iterdir())):
        label = np.zeros(data_files.SIZE, np.uint8)
        y, x = rng.integers(0, 20), rng.integers(0, 28)
        label[y : y + 4, x : x + 4] = 5 + number % 2
        data_files.save(path, label)
    rows, columns = np.mgrid[:24, :32]
    place = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    for path in (root / "target" / "images").iterdir():
        data_files.save(path, place)
    source["labelling"], target["use"] = "train_ids", "unlabelled"
    return tuple(load(spec, data_dir=root, classes="cityscapes19") for spec in (source, target))


def uniform(key, shape, kind):
    return tf.random.stateless_uniform(shape, seed=key, dtype=kind, alg="philox").numpy()


def folded(key, number):
    """The seed that a seed becomes by a number, as TensorFlow documents it."""
    key = tf.constant(key, tf.int64)
    return tf.random.experimental.stateless_fold_in(key, tf.constant(number, tf.int64)).numpy()


def nearest(pixels, height, width):
    rows = ((np.arange(height) + 0.5) * pixels.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * pixels.shape[1] / width).astype(int)
    return pixels[rows][:, columns]


def placed(key, scale, shape=data_files.SIZE):
    """Zoomed size, corner and mirror of the move that a seed gives."""
    zoom, y, x, mirror = uniform(key, [4], np.float32)
    factor = np.float32(scale[0]) + np.float32(scale[1] - scale[0]) * zoom
    size = np.rint(np.float32(shape) * factor).astype(int)
    room = np.maximum(size - CROP, 0)
    corner = np.minimum((np.float32([y, x]) * np.float32(room + 1)).astype(int), room)
    return size, corner, mirror < 0.5


def cut(pixels, corner, mirrored, fill):
    out = np.full((*CROP, *pixels.shape[2:]), fill, np.uint8)
    window = pixels[corner[0] : corner[0] + CROP[0], corner[1] : corner[1] + CROP[1]]
    out[: window.shape[0], : window.shape[1]] = window
    return out[:, ::-1] if mirrored else out


def drawn_by_hand(source, counts, position, *, tries, pixels, scale, seed=3):
    """The example, its crop and the number of crops drawn, in plain NumPy but for the numbers."""
    weights = np.exp((1 - counts.sum(0) / counts.sum()) / 0.5) * (counts >= pixels).any(0)
    first, second = uniform(folded([seed, 4], position), [2], np.float64)
    kind = int(np.searchsorted(np.cumsum(weights) / weights.sum(), first, side="right"))
    showing = np.flatnonzero(counts[:, kind] >= pixels)
    index = showing[int(second * len(showing))]
    image, label = decode.examine(source, index)
    key = folded([seed, 2], position)
    for number in range(tries):
        size, corner, mirrored = placed(folded(key, number) if number else key, scale)
        crop = cut(nearest(label, *size), corner, mirrored, 255)
        if (crop == kind).sum() > pixels / 2:
            break
    zoomed = geometry.resized(tf.constant(image), size).numpy()
    return index, cut(zoomed, corner, mirrored, 0), crop, number + 1, (crop == kind).sum()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 1.5)], ids=str)
@pytest.mark.parametrize("tries", [1, RARE])
def test_crops_are_drawn_until_one_shows_the_rare_class(patches, tries, scale):
    source, _ = patches
    counts = count_labels(source)[:, :-1]
    rare = RareClass(counts, temperature=0.5, min_pixels=16, crops=tries)
    options = {"crop": CROP, "rare": rare, "scale": scale}
    numbers = []
    for step, batch in enumerate(batches(patches, 12, **options)):
        for row in range(4):
            index, image, label, number, shown = drawn_by_hand(
                source, counts, 4 * step + row, tries=tries, pixels=16, scale=scale
            )
            assert batch["source_index"][row] == index
            np.testing.assert_array_equal(batch["source_label"][row], label)
            np.testing.assert_array_equal(batch["source_image"][row], image)
            numbers.append((number, shown > 8))
    if tries > 1:  # some show it at once, some later, and some never
        assert {(1, True), (2, True), (RARE, False)} <= set(numbers)


def test_crops_of_rare_classes_resume_and_default_to_any_crop(patches):
    counts = count_labels(patches[0])[:, :-1]
    rare = RareClass(counts, temperature=0.01, min_pixels=16, crops=11)
    options = {"crop": CROP, "rare": rare, "scale": (0.5, 1.5)}
    whole = batches(patches, 6, threads=1, **options)
    assert_equal(whole[3:], batches(patches, 3, start_step=3, threads=4, **options))
    any_crop = batches(
        patches, 6, **{**options, "rare": RareClass(counts, temperature=0.01, min_pixels=16)}
    )
    for a, b in zip(whole, any_crop, strict=True):
        np.testing.assert_array_equal(a["source_index"], b["source_index"])
        np.testing.assert_array_equal(a["target_image"], b["target_image"])


def test_margins_move_with_the_target(patches):
    top, bottom, left, right = MARGINS
    for batch in batches(patches, 5, size=(24, 32), crop=CROP, target_margins=MARGINS):
        rows, columns = batch["target_image"][..., 0], batch["target_image"][..., 1]
        outside = (rows < top) | (rows >= 24 - bottom) | (columns < left) | (columns >= 32 - right)
        np.testing.assert_array_equal(batch["target_border"], np.where(outside, 255, 0))
        assert batch["target_border"].dtype == np.uint8 and 0 < outside.mean() < 1


def test_margins_are_of_the_resized_image_and_zoomed_with_it(patches):
    size, scale = (36, 40), (0.5, 1.5)
    options = {"size": size, "crop": CROP, "scale": scale, "target_margins": MARGINS}
    whole = batches(patches, 6, **options)
    frame = np.full(size, 255, np.uint8)
    frame[2 : 36 - 7, 3 : 40 - 1] = 0
    for step, row in itertools.product(range(6), range(4)):
        zoomed, corner, mirrored = placed(folded([3, 3], 4 * step + row), scale, size)
        expected = cut(nearest(frame, *zoomed), corner, mirrored, 255)
        np.testing.assert_array_equal(whole[step]["target_border"][row], expected)
    assert_equal(whole[3:], batches(patches, 3, start_step=3, **options))
    without = batches(patches, 6, **{**options, "target_margins": (0, 0, 0, 0)})
    for batch in whole:
        del batch["target_border"]
    assert_equal(whole, without)


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ((20, 4, 0, 0), r"target_margins \(20, 4, 0, 0\) leave nothing of images of 24x32"),
        ((0, 0, 16, 16), "leave nothing of images of 24x32"),
    ],
)
def test_margins_that_leave_nothing_are_refused(patches, margins, message):
    with pytest.raises(ConfigError, match=message):
        batches(patches, 1, size=(24, 32), target_margins=margins)
    batches(patches, 1, size=(25, 33), target_margins=margins)


def test_margins_of_no_target_are_refused(patches):
    message = r"target_margins \(1, 0, 0, 0\): no target images of one size are read"
    for target, size in ((None, (24, 32)), (patches[1], None)):
        with pytest.raises(ConfigError, match=message):
            batches((patches[0], target), 1, size=size, target_margins=(1, 0, 0, 0))
