"""Examples of plain folders are decoded, and every defect is reported with the file's name."""

import io
import json
import pathlib

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, count_labels, decode, load
from rtda_jax.data.check import check_data
from rtda_jax.data.labels import class_set
from rtda_jax.data.sampling import dataset_sentences
from rtda_jax.data.stream import eval_stream

CLASSES = "cityscapes19"


def only(root, **spec):
    """Returns the only example of images/ and labels/, decoded."""
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


def pgm(path, numbers, white):
    """Writes a binary PGM with any number as white; some tools use the largest id."""
    stored = numbers.astype(np.uint8 if white < 256 else ">u2")
    height, width = numbers.shape
    path.write_bytes(b"P5\n%d %d\n%d\n" % (width, height, white) + stored.tobytes())


# The storage of whole numbers, and the largest number of each.
STORES = {
    "png of 8 bits": (255, lambda path, x: Image.fromarray(x.astype(np.uint8)).save(path, "PNG")),
    "png of 16 bits": (65535, lambda path, x: data_files.save_16bit(path, x[..., None])),
    "tiff of 16 bits": (
        65535,
        lambda path, x: Image.fromarray(x.astype(np.uint16)).save(path, "TIFF"),
    ),
    "tiff of 32 bits": (
        65535,
        lambda path, x: Image.fromarray(x.astype(np.int32)).save(path, "TIFF"),
    ),
    "tiff of floats": (
        65535,
        lambda path, x: Image.fromarray(x.astype(np.float32)).save(path, "TIFF"),
    ),
    "pgm of few levels": (20, lambda path, x: pgm(path, x, 20)),
    "pgm of 10 bits": (1023, lambda path, x: pgm(path, x, 1023)),
    "pgm of 16 bits": (65535, lambda path, x: pgm(path, x, 65535)),
}


@pytest.mark.parametrize("store", STORES)
def test_whole_numbers_are_the_same_ids_however_they_are_stored(root, store):
    """A number above 255 is not truncated to a byte: it is another id, or an error."""
    largest, save = STORES[store]
    listed = [number for number in (0, 3, 7, 20, 255, 263, 1023, 65535) if number <= largest]
    definition = root / "labels.json"
    rows = [{"name": f"c{number}", "ids": [number]} for number in listed]
    definition.write_text(json.dumps({"classes": rows}))
    positions = data_files.ids(5, range(len(listed)))
    save(label(root), np.array(listed)[positions])
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=root, classes=str(definition))
    np.testing.assert_array_equal(decode.examine(data, 0)[1], positions)
    definition.write_text(json.dumps({"classes": rows[:3]}))
    data = load(spec, data_dir=root, classes=str(definition))
    with pytest.raises(
        DataError, match=r"labels.000\.\w+: \d+ label pixels \((ids )?\d+.*\) outside"
    ):
        decode.examine(data, 0)


@pytest.mark.parametrize("shift", [-1, 0.5, 256])
def test_pixels_that_are_no_byte_are_refused(root, shift):
    numbers = data_files.ids(5, range(34)) + np.float32(shift)
    Image.fromarray(numbers).save(label(root), "TIFF")
    with pytest.raises(DataError, match=r"label pixels \(.*\) outside the ids of 'cityscapes_ids'"):
        only(root)


def test_ids_above_255_are_stored_and_reported_as_they_are(root):
    definition = root / "labels.json"
    rows = [{"name": "road", "ids": [300]}, {"name": "car", "ids": [7, 900]}]
    definition.write_text(json.dumps({"classes": rows, "ignore": [65535]}))
    numbers = np.array([300, 7, 900, 65535])[data_files.ids(5, range(4))]
    data_files.save_16bit(label(root), numbers[..., None])
    spec = {"name": "folders", "images": "images", "labels": "labels", "store": "shards"}
    classes = np.select([numbers == 300, numbers == 65535], [0, 255], 1)
    data = load(spec, data_dir=root, classes=str(definition))
    np.testing.assert_array_equal(decode.examine(data, 0)[1], classes)
    manifest = check_data(
        spec | {"store": "files"}, data_dir=root, classes=str(definition), out=root / "out",
        say=lambda line: None,
    )  # fmt: skip
    assert manifest["raw_ids"] == {str(i): int((numbers == i).sum()) for i in np.unique(numbers)}
    with pytest.raises(DataError, match="are numbers above 255, not label ids"):
        data.classes.label_ids()


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
    "deep label": (label, sixteen, r"labels.000\.png: 16-bit label of 3 .*synthia_ids"),
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
        next(data_files.stream(data, seed=0, batch_size=2, threads=1))


@pytest.mark.parametrize("store", ["plain", "blended", "grey"])
def test_colours_of_no_class_are_named_with_what_is_near_them(root, store):
    """Of thousands of pixels, one colour is wrong by a level: its numbers say which."""
    rows = [
        {"name": "road", "colour": [128, 64, 128]},
        {"name": "pavement", "colour": [244, 35, 232]},
    ]
    (root / "labels.json").write_text(
        json.dumps({"classes": rows, "ignore": [[0, 0, 0]], "encoding": "rgb"})
    )
    pixels = np.full((*data_files.SIZE, 3), (128, 64, 128), np.uint8)
    pixels[:3], pixels[3] = (244, 35, 231), (9, 200, 9)
    if store == "blended":
        pixels[4:, :, 0] += np.arange(32, dtype=np.uint8)
    data_files.save(label(root), pixels[..., 0] if store == "grey" else pixels)
    data = load(
        {"name": "folders", "images": "images", "labels": "labels"},
        data_dir=root,
        classes=str(root / "labels.json"),
    )
    with pytest.raises(DataError, match=r"000\.png: \d+ label pixels of no colour in") as error:
        decode.examine(data, 0)
    if store == "grey":
        assert "[128, 128, 128] (640 pixels)" in str(error.value)
        assert str(error.value).endswith(
            "the file is grey: are its labels ids, of the encoding 'index'?"
        )
        return
    named = "[244, 35, 231] (96 pixels, near pavement [244, 35, 232]), [9, 200, 9] (32 pixels)"
    assert named in str(error.value)
    assert ("33 colours; was the picture resized" in str(error.value)) == (store == "blended")


def test_a_file_that_cannot_be_read_later_says_what_to_do(root):
    image(root).write_bytes(image(root).read_bytes()[:300])
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=root, classes=CLASSES, role="target")
    what = (
        r"000\.png: truncated or damaged.*; check_data names all such files and writes the list "
        r"for --config\.benchmark\.target\.quarantine$"
    )
    with pytest.raises(DataError, match=what):
        next(data_files.stream(data, seed=0, batch_size=1, threads=1))
    with pytest.raises(DataError, match=what):
        next(data_files.stream(data, data.unlabelled(), seed=0, batch_size=1, threads=1))
    with pytest.raises(DataError, match=what):
        list(eval_stream(data))
    with pytest.raises(DataError, match=what):
        dataset_sentences(data)
    with pytest.raises(DataError, match=what):
        load({**spec, "store": "shards"}, data_dir=root, classes=CLASSES, role="target")
    label(root).write_bytes(b"")
    with pytest.raises(DataError, match="zero bytes; expected a picture; check_data names"):
        count_labels(data)
    manifest = check_data(spec, data_dir=root, classes=CLASSES, out=root / "out", say=len)
    assert "check_data" not in manifest["quarantine"]["000"]  # it is that job
