"""Resizing, cropping and mirroring, read off images whose pixels say where they come from."""

import itertools

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, geometry, load, stream
from rtda_jax.data.geometry import tf

SIZE = (24, 32)


def places(height, width):
    """uint8 [H,W,3]: row, column and 255 at each pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 255)], -1).astype(np.uint8)


def moved(number, image=None, label=None, **options):
    image = places(*SIZE) if image is None else image
    key = tf.constant([number, 7], tf.int64)
    move = geometry.draw(geometry.Moves(**options), key, tf.constant(image.shape[:2]))
    image = np.asarray(geometry.move_image(tf.constant(image), move))
    return image, None if label is None else np.asarray(geometry.move_label(label, move))


def test_nothing_asked_changes_nothing():
    label = data_files.ids(0, range(19))
    image, out = moved(0, label=label)
    np.testing.assert_array_equal(image, places(*SIZE))
    np.testing.assert_array_equal(out, label)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [((10, 15), 1.25, (12, 19)), ((10, 15), 1.15, (12, 17)), ((3, 200), 0.1, (1, 20))],
)
def test_the_zoomed_size_is_rounded_to_the_nearest(size, factor, expected):
    image, label = moved(0, label=np.zeros(SIZE, np.uint8), size=size, scale=(factor, factor))
    assert image.shape[:2] == label.shape == expected


def draws(count, **options):
    """(row, column, mirrored) of the crops of many keys."""
    out = []
    for number in range(count):
        image, _ = moved(number, crop=(8, 8), **options)
        mirrored = image[0, 0, 1] > image[0, -1, 1]
        out.append((image[0, 0, 0], image[0, :, 1].min(), mirrored))
    return np.array(out, float)


def test_crops_are_uniform_and_mirrors_independent_of_them():
    rows, columns, mirrored = draws(600, flip=True).T
    assert set(rows) == set(range(17)) and set(columns) == set(range(25))
    assert abs(mirrored.mean() - 0.5) < 0.08
    table = np.corrcoef([rows, columns, mirrored])
    assert np.abs(table[np.triu_indices(3, 1)]).max() < 0.15


def test_without_flip_nothing_is_mirrored():
    assert not draws(40)[:, 2].any()


def test_the_zoom_is_uniform_and_independent_of_the_mirror():
    shapes, flips = [], []
    for number in range(400):
        image, _ = moved(number, size=(200, 200), scale=(0.5, 1.5), flip=True)
        shapes.append(image.shape[0] / 200)
        flips.append(image[0, 0, 1] > image[0, -1, 1])
    assert min(shapes) < 0.53 and max(shapes) > 1.47
    assert abs(np.mean(shapes) - 1) < 0.05 and abs(np.var(shapes) - 1 / 12) < 0.015
    assert abs(np.corrcoef(shapes, flips)[0, 1]) < 0.15


def test_label_files_of_another_size_lie_on_the_image():
    label = np.repeat(np.arange(4, dtype=np.uint8), 4)[None].repeat(12, 0)  # 12x16, half the size
    image, out = moved(3, label=label, crop=(10, 10), flip=True)
    np.testing.assert_array_equal(out, image[..., 1] // 8)


def test_resizing_is_pillows_within_a_level():
    image = data_files.picture(0, (40, 60))
    ours = geometry.resized(tf.constant(image), (17, 23)).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(image).resize((23, 17), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(17, 23), (40, 31), (61, 90)], ids=str)
def test_bicubic_resizing_is_pillows_to_the_bit(size):
    image = data_files.picture(0, (40, 60))
    theirs = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    ours = geometry.resized(tf.constant(image), size, resize="bicubic").numpy()
    np.testing.assert_array_equal(ours, theirs)
    crop = (size[0] - 5, size[1] - 3)
    cut, _ = moved(4, image=image, size=size, crop=crop, resize="bicubic")
    corners = [(y, x) for y in range(6) for x in range(4)]
    assert any(np.array_equal(cut, theirs[y : y + crop[0], x : x + crop[1]]) for y, x in corners)


def test_bicubic_and_bilinear_differ_and_labels_do_not():
    image, label = data_files.picture(0, (40, 60)), data_files.ids(0, range(19), (40, 60))
    plain = moved(1, image=image, label=label, size=(17, 23))
    cubic = moved(1, image=image, label=label, size=(17, 23), resize="bicubic")
    assert np.abs(plain[0].astype(int) - cubic[0]).max() > 5
    np.testing.assert_array_equal(plain[1], cubic[1])


def test_labels_are_those_at_the_pixels_centres():
    label = data_files.ids(0, range(19), (30, 41))
    rows = (np.arange(13) + 0.5) * 30 / 13
    columns = (np.arange(50) + 0.5) * 41 / 50
    expected = label[rows.astype(int)][:, columns.astype(int)]
    np.testing.assert_array_equal(geometry.resized_label(tf.constant(label), (13, 50)), expected)


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (24, 32), (20, 60)], ids=str)
@pytest.mark.parametrize("scale", [(0.3, 0.6), (0.5, 2.0), (1.0, 1.0)], ids=str)
@pytest.mark.parametrize("crop", [(24, 32), (16, 30), (40, 20)], ids=str)
def test_an_image_that_must_cover_the_crop_is_never_padded(size, scale, crop):
    for number in range(12):
        image, _ = moved(number, size=size, crop=crop, scale=scale, at_least=crop, flip=True)
        assert image.shape == (*crop, 3) and image[..., 2].min() == 255


def test_a_zoom_that_covers_the_crop_stays_as_it_was():
    options = {"size": (24, 32), "crop": (16, 20), "scale": (0.5, 2.0), "flip": True}
    same = 0
    for number in range(60):
        free, label = moved(number, label=np.zeros(SIZE, np.uint8), **options)
        if (label == 255).any():
            continue
        same += 1
        covering, _ = moved(number, **options, at_least=(16, 20))
        np.testing.assert_array_equal(free, covering)
    assert 30 < same < 60


def test_a_zoom_is_raised_no_further_than_needed():
    for number in range(20):
        image, _ = moved(number, crop=(12, 32), scale=(0.4, 0.9), at_least=(12, 32))
        np.testing.assert_array_equal(image[0, :, 1], np.arange(32))  # the whole width
        np.testing.assert_array_equal(np.diff(image[:, 0, 0].astype(int)), 1)  # not squeezed


def test_the_source_is_padded_with_black_and_ignored_pixels():
    image, label = moved(0, label=np.zeros(SIZE, np.uint8), crop=(30, 50))
    assert (image[24:] == 0).all() and (image[:, 32:] == 0).all()
    np.testing.assert_array_equal(label == 255, image[..., 2] == 0)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.5, 2.0), (1.0, 1.0), (0.25, 1.0)], ids=str)
def test_the_share_of_padding_is_that_of_many_crops(scale):
    shares = [(moved(n, crop=(20, 32), scale=scale)[0][..., 2] == 0).mean() for n in range(300)]
    assert abs(np.mean(shares) - stream.padded_share((24, 32), (20, 32), scale)) < 0.04


def test_padding_is_said_and_much_of_it_is_a_warning():
    assert stream.padding((24, 32), (24, 32), (1.0, 2.0)) == []
    assert stream.padding((24, 32), (24, 32), (0.998, 1.0)) == []  # 0.2 % on average
    assert len(stream.padding((24, 32), (24, 32), (0.99, 1.0))) == 1  # 1 %
    (line,) = stream.padding((24, 32), (24, 32), (0.5, 2.0))
    assert line == (
        "zoomed by 0.5 to 2, a source image of 24x32 fills 86% of the crop 24x32 on average and "
        "25% at least; the rest is black and ignored"
    )
    (line,) = stream.padding((24, 32), (24, 32), (0.5, 0.5))
    assert line.startswith("warning: ") and "fills 25% of the crop" in line


def test_the_size_fills_the_crop_even_if_every_zoom_is_smaller():
    for scale in ((0.5, 0.8), (1.0, 1.0), (1.0, 2.0)):
        stream.check_sizes(stream.Frame((24, 32), (24, 32)), scale)
    for crop, scale in (((25, 32), (0.5, 0.8)), ((24, 33), (0.5, 1.0)), ((24, 65), (1.0, 2.0))):
        with pytest.raises(DataError, match="larger than the images at their largest"):
            stream.check_sizes(stream.Frame((24, 32), crop), scale)
    stream.check_sizes(stream.Frame((24, 32), (48, 64)), (1.0, 2.0))
    with pytest.raises(DataError, match="a random scale needs a crop"):
        stream.check_sizes(stream.Frame(), (1.0, 2.0))
    stream.check_sizes(stream.Frame(), (1.0, 1.0))


def pair(root):
    source = data_files.folders(root / "source", count=4)
    for i in range(4):
        data_files.save(
            root / "source" / "images" / f"{i:03d}.png", 90 + data_files.picture(i) // 8
        )
        data_files.save(root / "target" / f"{i}.png", 200 + data_files.picture(i) // 8)
    target = {"name": "folders", "images": "target", "use": "unlabelled"}
    return [load(spec, data_dir=root, classes="cityscapes19") for spec in (source, target)]


@pytest.mark.parametrize("moves", ["each", "once"])
def test_no_target_of_a_stream_has_any_black(tmp_path, moves):
    options = {"seed": 0, "batch_size": 4, "size": SIZE, "crop": SIZE, "scale": (0.5, 2.0)}
    batches = data_files.stream(*pair(tmp_path), **options, target_moves=moves)
    source_black = 0
    for batch in itertools.islice(batches, 6):
        assert batch["target_image"].min() >= 199
        padded = (batch["source_image"] == 0).all(-1)
        source_black += padded.sum()
        assert (batch["source_label"][padded] == 255).all()
    assert source_black


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": (12, 16), "crop": SIZE}, "crop 24x32 is larger than .* 12x16.*benchmark.size"),
        ({"size": (24, 16), "crop": SIZE, "scale": (0.5, 1.5)}, "larger than .* 36x24"),
    ],
)
def test_a_crop_that_no_zoom_fills_is_refused(tmp_path, sizes, message):
    with pytest.raises(DataError, match=message):
        data_files.stream(*pair(tmp_path), seed=0, batch_size=1, **sizes)


@pytest.mark.parametrize("number", range(6))
def test_a_move_is_a_function_of_four_numbers_in_a_fixed_order(number):
    """Another use of the numbers would change the batches of every run that has begun."""
    key = tf.constant([number, 3], tf.int64)
    numbers = tf.random.stateless_uniform([4], seed=key, alg="philox").numpy()
    options = {"size": (20, 31), "crop": (12, 17), "flip": True, "scale": (0.5, 1.75)}
    move = geometry.draw(geometry.Moves(**options, resize="bicubic"), key, tf.constant(SIZE))
    shape = np.rint(np.float32((20, 31)) * (np.float32(0.5) + np.float32(1.25) * numbers[0]))
    room = np.maximum(shape - (12, 17), 0)
    start = np.minimum(np.floor(numbers[1:3] * (room + 1)), room)
    np.testing.assert_array_equal(move.shape, shape)
    np.testing.assert_array_equal(move.start, start)
    assert bool(move.mirrored) == (numbers[3] < 0.5)
    assert (move.crop, move.resize) == ((12, 17), "bicubic")
    plain = geometry.draw(geometry.Moves(crop=(12, 17)), key, tf.constant(SIZE))
    start = np.floor(numbers[1:3] * (np.array(SIZE) - (12, 17) + 1))
    np.testing.assert_array_equal(plain.shape, SIZE)
    np.testing.assert_array_equal(plain.start, start)
    assert plain.mirrored is None
