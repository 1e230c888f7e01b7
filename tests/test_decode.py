"""Examples of plain folders, decoded; every defect of a file is called by the file's name."""

import io
import pathlib

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, decode, load
from rtda_jax.data.labels import class_set
from rtda_jax.data.stream import eval_stream, train_stream

CLASSES = "cityscapes19"


def only(root, **spec):
    """The one example of images/ and labels/, decoded."""
    spec = {"name": "folders", "images": "images", "labels": "labels", **spec}
    data = load(spec, data_dir=root, classes=CLASSES)
    return decode.examine(data, 0)


@pytest.fixture
def root(tmp_path):
    data_files.folders(tmp_path, count=1)
    return tmp_path


def image(root):
    return root / "images" / "000.png"


def label(root):
    return root / "labels" / "000.png"


def test_an_example_is_its_pixels_and_mapped_ids(root):
    pixels, classes = only(root)
    np.testing.assert_array_equal(pixels, data_files.picture(0))
    raw = data_files.ids(0, range(34))
    assert (classes[raw == 26] == 13).all() and (classes[raw == 26].size > 0)
    assert (classes[raw < 7] == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_read_as_indices(root, bits):
    among = range(min(2**bits, 34))
    raw = data_files.ids(5, among)
    data_files.save_palette(label(root), raw, bits)
    _, classes = only(root, labelling="cityscapes_ids")
    data = load(
        {"name": "folders", "images": "images", "labels": "labels"}, data_dir=root, classes=CLASSES
    )
    np.testing.assert_array_equal(classes, data.classes.lut("cityscapes_ids")[raw])


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_labels_in_any_lossless_format_keep_their_ids(root, kind, palette):
    raw = data_files.ids(5, range(34))
    image = Image.fromarray(raw)
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(np.random.default_rng(0).permutation(256 * 3).astype(np.uint8).tolist())
    image.save(label(root), kind)  # the content decides, not the name
    lut = class_set(CLASSES).lut("cityscapes_ids")
    np.testing.assert_array_equal(only(root)[1], lut[raw])


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_labels_of_few_bits_are_indices(root, bits):
    raw = data_files.ids(5, range(2**bits))
    data_files.save_grey(label(root), raw, bits)
    lut = class_set(CLASSES).lut("cityscapes_ids")
    np.testing.assert_array_equal(only(root)[1], lut[raw])


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"quality": 90}), ("TIFF", {"compression": "jpeg"}), ("JPEG", {})],
)
def test_lossy_labels_are_refused(root, kind, options):
    Image.fromarray(np.zeros((*data_files.SIZE, 3), np.uint8)).save(label(root), kind, **options)
    with pytest.raises(DataError, match=r"labels.000\.png: a .* cannot hold labels exactly"):
        only(root)


@pytest.mark.parametrize("extension", ["jpg", "webp", "png"])
def test_image_formats(root, extension):
    image(root).unlink()
    Image.fromarray(np.full((*data_files.SIZE, 3), 90, np.uint8)).save(
        root / "images" / f"000.{extension}"
    )
    pixels, _ = only(root)
    assert abs(pixels.astype(int) - 90).max() <= 2


def test_names_with_spaces_accents_brackets_and_subfolders(tmp_path):
    root = tmp_path / "mes données [v1]"
    for i, name in enumerate(["rue d'été/a b", "東京/[0]*", "c"]):
        data_files.save(root / "im" / f"{name}_image.png", data_files.picture(i))
        data_files.save(root / "lb" / f"{name}_label.png", data_files.ids(i, range(34)))
    spec = {"name": "folders", "images": "im", "labels": "lb", "image_suffix": "_image",
            "label_suffix": "_label"}  # fmt: skip
    data = load(spec, data_dir=root, classes=CLASSES)
    assert sorted(data.keys) == sorted(["rue d'été/a b", "東京/[0]*", "c"])
    for example in eval_stream(data):
        i = ["rue d'été/a b", "東京/[0]*", "c"].index(example["key"])
        np.testing.assert_array_equal(example["image"], data_files.picture(i))


def reencode(path: pathlib.Path, mode: str) -> None:
    Image.open(path).convert(mode).save(path)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "gone.png")


def sixteen(path: pathlib.Path) -> None:
    data_files.save_16bit(path, np.full((*data_files.SIZE, 3), 7, np.uint16))


def jpeg(path: pathlib.Path) -> None:
    pixels = Image.open(path).convert("L")
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


DEFECTS = {
    "image truncated": (image, truncate, r"000\.png: truncated or damaged"),
    "label truncated": (label, truncate, r"000\.png: truncated or damaged"),
    "image empty": (image, lambda p: p.write_bytes(b""), r"images.000\.png: zero bytes"),
    "label empty": (label, lambda p: p.write_bytes(b""), r"labels.000\.png: zero bytes"),
    "header cut": (
        image,
        lambda p: p.write_bytes(p.read_bytes()[:20]),
        r"000\.png: truncated or damaged",
    ),
    "no image": (image, lambda p: p.write_bytes(b"<html>"), r"neither PNG, JPEG, .* nor PPM"),
    "cut in the middle of the header": (
        image,
        lambda p: p.write_bytes(p.read_bytes()[:30]),
        r"000\.png: (truncated|.* cut in its header)",
    ),
    "dangling image": (image, link, r"images.000\.png: dangling link to .*gone\.png"),
    "dangling label": (label, link, r"labels.000\.png: dangling link to .*gone\.png"),
    "colour label": (label, lambda p: reencode(p, "RGB"), r"labels.000\.png: label has 3 channels"),
    "deep label": (label, sixteen, r"labels.000\.png: 16-bit label, .*synthia_ids"),
    "jpeg label": (label, jpeg, r"labels.000\.png: a JPEG cannot hold labels"),
    "sizes": (
        label,
        lambda p: data_files.save(p, data_files.ids(0, range(34), (24, 31))),
        r"labels.000\.png: label is 31x24 but its image .*images.000\.png is 32x24",
    ),
    "id": (
        label,
        lambda p: data_files.save(p, data_files.ids(0, [7, 60, 61])),
        r"labels.000\.png: \d+ label pixels \(ids 60\.\.61\) outside the table of "
        r"'cityscapes_ids' \(0\.\.33, 255\)",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named(root, defect):
    which, damage, message = DEFECTS[defect]
    damage(which(root))
    with pytest.raises(DataError, match=message):
        only(root)
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=root, classes=CLASSES)
    with pytest.raises(DataError, match=message):
        next(train_stream(data, seed=0, batch_size=2, threads=1))
