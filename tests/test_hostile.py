"""Images, lists and labels from elsewhere, mutilated: a named error or a result, in bounds."""

import contextlib
import hashlib
import io
import json
import pathlib
import struct
import zlib

import data_files
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutilate import bounded, encoded, fuzz, mutilated
from PIL import Image

from rtda_jax.data import DataError, decode, labels, listing, load, pictures
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.geometry import tf
from rtda_jax.data.labels import class_set
from rtda_jax.data.pseudo import PseudoLabels, label_path, load_pseudo


def images():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 12, 3), np.uint8)
    palette = Image.fromarray(rgb).quantize(8)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    return [
        encoded(rgb, "PNG"),
        encoded(rgb, "JPEG"),
        encoded(rgb, "WebP"),
        encoded(rgb, "WebP", lossless=True),
        encoded(rgb[..., 0], "PNG"),
        encoded(rgb[..., 0].astype(np.uint16), "PNG"),
        stream.getvalue(),
        b"",
    ]


assert tf  # loaded before any test bounds the memory


class Bytes:
    """A reader of two given files."""

    def __init__(self, image, label):
        self.files = image, label

    def __len__(self):
        return 1

    def image(self, i):
        return self.files[0]

    def label(self, i):
        return self.files[1]

    def pair(self, i):
        return self.files

    def where(self, i):
        return "a/image", "a/label"

    def fingerprint(self, *, labels):
        return ""


@fuzz
@given(mutilated(images()), mutilated(images()))
@pytest.mark.parametrize("labelling", ["cityscapes_ids", "synthia_ids", "camvid32_colours"])
def test_headers_of_images_and_labels(labelling, image, label):
    meaning = labels.LABELLINGS[labelling]
    dataset = Dataset("set", ("a",), class_set("cityscapes19"), meaning, Bytes(image, label))
    with bounded(), contextlib.suppress(DataError):
        decode.examine_ids(dataset, 0)


@fuzz
@given(mutilated(images()))
def test_the_header_names_its_file(data):
    try:
        found = pictures.header(data, "somewhere/b.png")
    except DataError as error:
        assert "somewhere/b.png" in str(error)
    else:
        assert 0 < found.height * found.width <= pictures.MAX_PIXELS


def bomb(width, height):
    """A valid PNG header of any size, and a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + data_files.chunk(b"IHDR", header)
        + data_files.chunk(b"IDAT", zlib.compress(bytes(1000))) + data_files.chunk(b"IEND", b"")
    )  # fmt: skip


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: above 50,000,000 pixels"):
        pictures.header(bomb(60000, 60000), "a.png")
    with pytest.raises(DataError, match="cut in its header"):
        pictures.header(bomb(0, 7), "a.png")
    data_files.folders(tmp_path / "source")
    path = tmp_path / "source" / "images" / "001.png"
    path.write_bytes(bomb(60000, 60000))
    spec = {"name": "folders", "images": "source/images", "labels": "source/labels"}
    dataset = load(spec, data_dir=tmp_path, classes="cityscapes19")
    with bounded(), pytest.raises(DataError, match=r"001\.png: above 50,000,000 pixels"):
        decode.examine(dataset, 1)


# --- lists and manifests --------------------------------------------------------------------------

LIST = b"a/b\tbroken\n# note\nc d\n../../etc/passwd\n"


@fuzz
@given(st.one_of(st.binary(max_size=60), mutilated([LIST])))
def test_a_list_names_examples_that_exist_or_nothing(tmp_path, data):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    keys = ("a/b", "c", "d")
    with contextlib.suppress(DataError):
        assert set(listing.choose(keys, listing.read_list(path), what="list.txt")) <= set(keys)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", "~/secret"])
def test_a_list_can_not_leave_the_root(name, tmp_path):
    """What a list names is looked up among the images below the root, never opened as a path."""
    data_files.folders(tmp_path / "data" / "source")
    Image.new("RGB", (80, 40)).save(tmp_path / "secret.png")
    (tmp_path / "data" / "list.txt").write_text(f"{name}\n")
    spec = {
        "name": "folders", "images": "source/images", "labels": "source/labels",
        "quarantine": "list.txt",
    }  # fmt: skip
    with pytest.raises(DataError, match="no image has that name"):
        load(spec, data_dir=tmp_path / "data", classes="cityscapes19")


MANIFESTS = [
    b'{"classes": "cityscapes19", "data": "x", "files": {"000": "00"}}',
    b'{"classes": "cityscapes19", "data": "x", "files": {"../../../etc/passwd": "00"}}',
    b'{"classes": 3, "data": [], "files": {"000": 7, "001": null, "002": {}, "003": []}}',
    b"[" * 100_000,
    b"null",
]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root = tmp_path_factory.mktemp("target")
    data_files.folders(root / "target")
    spec = {"name": "folders", "images": "target/images", "use": "unlabelled"}
    return load(spec, data_dir=root, classes="cityscapes19")


@fuzz
@given(mutilated(MANIFESTS))
def test_manifests_of_pseudo_labels(tmp_path, target, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DataError):
        load_pseudo(tmp_path, target=target)


def small(value=0, size=(4, 6)):
    return encoded(np.full(size, value, np.uint8), "PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(60000, 60000), "above 50,000,000 pixels"),
        (small(size=(8, 6)), r"is 6x8, but .*000\.png is 6x4"),
        (encoded(np.zeros((4, 6, 3), np.uint8), "PNG"), "not a pseudo-label"),
        (encoded(np.zeros((4, 6), np.uint8), "JPEG"), "not a pseudo-label"),
        (b"", "zero bytes"),
    ],
    ids=["bomb", "size", "colour", "jpeg", "empty"],
)
def test_pseudo_labels_of_another(tmp_path, target, data, said):
    """The manifest is right about every file."""
    files = {}
    for key in target.keys:
        files[key] = data if key == target.keys[1] else small()
        path = pathlib.Path(label_path(tmp_path, key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[key])
    sums = {key: hashlib.sha256(content).hexdigest() for key, content in files.items()}
    manifest = {"classes": "cityscapes19", "data": target.name, "files": sums}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with bounded(), pytest.raises(DataError, match=rf"001\.png: .*{said}"):
        load_pseudo(tmp_path, target=target)


@fuzz
@given(mutilated([small(), small(19), *images()]))
def test_a_pseudo_label(tmp_path, data):
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.png").write_bytes(data)
    held = PseudoLabels(str(tmp_path), ("a",), (hashlib.sha256(data).hexdigest(),), 19)
    with bounded(), contextlib.suppress(DataError):
        label = held.examine(0)
        assert ((label < 19) | (label == 255)).all()
