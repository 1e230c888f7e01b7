"""Every picture gives the same pixels wherever it is read, or is refused with its true format."""

import io
import pathlib
import runpy
import threading
import warnings

import data_files
import numpy as np
import pytest
from mutilate import bounded
from PIL import Image, ImageOps

from rtda_jax.data import DataError, decode, load, pictures
from rtda_jax.data.check import check_data
from rtda_jax.data.geometry import tf
from rtda_jax.data.stream import eval_stream

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "run_exported.py"
RGB = data_files.smooth(0)
GREY = RGB[..., 0]
ALPHA = np.dstack([RGB, np.arange(GREY.size, dtype=np.uint8).reshape(GREY.shape)])


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def quantized(**options):
    coarse = Image.fromarray(RGB).quantize(16)
    return coarse, {"format": "PNG", **options}


# One picture of each kind that is read: its Pillow image and how it is saved.
KINDS = {
    "png": (Image.fromarray(RGB), {"format": "PNG"}),
    "jpeg": (Image.fromarray(RGB), {"format": "JPEG", "quality": 90}),
    "jpeg with full colours": (Image.fromarray(RGB), {"format": "JPEG", "subsampling": 0}),
    "progressive jpeg": (Image.fromarray(RGB), {"format": "JPEG", "progressive": True}),
    "lossless webp": (Image.fromarray(RGB), {"format": "WEBP", "lossless": True}),
    "lossy webp": (Image.fromarray(RGB), {"format": "WEBP", "quality": 60}),
    "bmp": (Image.fromarray(RGB), {"format": "BMP"}),
    "tiff": (Image.fromarray(RGB), {"format": "TIFF"}),
    "deflated tiff": (Image.fromarray(RGB), {"format": "TIFF", "compression": "tiff_deflate"}),
    "gif": (Image.fromarray(RGB).quantize(64), {"format": "GIF"}),
    "animated gif": (
        Image.fromarray(RGB).quantize(64),
        {"format": "GIF", "save_all": True, "append_images": [Image.fromarray(RGB[::-1])]},
    ),
    "ppm": (Image.fromarray(RGB), {"format": "PPM"}),
    "grey png": (Image.fromarray(GREY), {"format": "PNG"}),
    "grey jpeg": (Image.fromarray(GREY), {"format": "JPEG"}),
    "grey with alpha": (Image.fromarray(ALPHA).convert("LA"), {"format": "PNG"}),
    "two colours": (Image.fromarray(GREY).convert("1"), {"format": "PNG"}),
    "rgba png": (Image.fromarray(ALPHA), {"format": "PNG"}),
    "rgba webp": (Image.fromarray(ALPHA), {"format": "WEBP", "lossless": True, "exact": True}),
    "rgba tiff": (Image.fromarray(ALPHA), {"format": "TIFF"}),
    "palette": quantized(),
    "palette of 4 bits": quantized(bits=4),
    "palette with transparency": quantized(transparency=bytes([0, 128, 255])),
    "grey with a transparent value": (Image.fromarray(GREY), {"format": "PNG", "transparency": 9}),
    "cmyk jpeg": (Image.fromarray(RGB).convert("CMYK"), {"format": "JPEG"}),
    "16-bit grey png": (Image.fromarray(GREY.astype(np.uint16) * 257), {"format": "PNG"}),
    "16-bit grey ppm": (Image.fromarray(GREY.astype(np.uint16) * 257), {"format": "PPM"}),
    "two colours in ppm": (Image.fromarray(GREY).convert("1"), {"format": "PPM"}),
    "16-bit grey tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), {"format": "TIFF"}),
    # Uncompressed: given a path instead of the content, Pillow maps these into memory.
    "turned 16-bit tiff": (
        Image.fromarray(GREY.astype(np.uint16) * 257),
        {"format": "TIFF", "exif": exif(6)},
    ),
    "turned grey tiff": (Image.fromarray(GREY), {"format": "TIFF", "exif": exif(6)}),
    "turned palette tiff": quantized(format="TIFF", exif=exif(6)),
    **{
        f"{kind}, orientation {turn}": (
            Image.fromarray(RGB),
            {"format": kind, "exif": exif(turn)},
        )
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for turn in range(1, 9)
    },
}
EXACT = ("png", "bmp", "tiff", "deflated tiff", "lossless webp", "ppm", "rgba png", "rgba tiff")


def encoded(kind):
    image, options = KINDS[kind]
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def example():
    """Returns the reader of the exported example, which is a script."""
    names = runpy.run_path(str(EXAMPLE))
    assert names["FORMATS"] == pictures.FORMATS
    assert names["MOST_PIXELS"] == pictures.MAX_PIXELS
    return names["read"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_everywhere(tmp_path, example, kind):
    """Reads a picture as training, evaluation, prediction, checks and the exported example do."""
    path = tmp_path / "images" / "a.png"  # the content decides, not the name
    path.parent.mkdir()
    path.write_bytes(encoded(kind))
    pixels = pictures.read(path)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    np.testing.assert_array_equal(np.asarray(example(path)), pixels)
    label = np.full(pixels.shape[:2], 7, np.uint8)
    data_files.save(tmp_path / "labels" / "a.png", label)
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    np.testing.assert_array_equal(decode.examine(data, 0)[0], pixels)
    np.testing.assert_array_equal(next(eval_stream(data))["image"], pixels)
    batch = next(data_files.stream(data, data, seed=0, batch_size=1, threads=1))
    for domain in ("source", "target"):
        np.testing.assert_array_equal(batch[f"{domain}_image"][0], pixels)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken tags
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_truncated_is_refused_by_the_example_too(tmp_path, example, kind):
    data, path = encoded(kind), tmp_path / "a.png"
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        refused = []
        for read in (pictures.read, example):
            try:
                read(path)
            except (DataError, SystemExit, OSError, ValueError, SyntaxError):
                refused.append(read)
        assert len(refused) in (0, 2), share


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_that_pillow_says(kind):
    """Reads a picture by an independent statement: EXIF first, then RGB."""
    with Image.open(io.BytesIO(encoded(kind))) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            expected = np.repeat(np.asarray(image)[..., None] // 256, 3, axis=2)
        else:
            expected = np.asarray(image.convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(pictures.rgb(encoded(kind), "a"), expected)
    if kind in EXACT:
        np.testing.assert_array_equal(expected, RGB)


@pytest.mark.parametrize("kind", ["png", "grey png", "palette", "lossless webp", "lossy webp"])
def test_lossless_pictures_are_those_that_tensorflow_decodes(kind):
    theirs = tf.io.decode_image(encoded(kind), channels=3, expand_animations=False)
    np.testing.assert_array_equal(pictures.rgb(encoded(kind), "a"), theirs)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.endswith("jpeg") and "cmyk" not in k])
def test_jpegs_are_decoded_with_the_accurate_transform(kind):
    theirs = tf.io.decode_jpeg(encoded(kind), channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(pictures.rgb(encoded(kind), "a"), theirs)


def test_large_pictures_are_converted_in_bands_like_small_ones(monkeypatch):
    whole = pictures.rgb(encoded("rgba png"), "a")
    monkeypatch.setattr(pictures, "_BAND", 70)
    np.testing.assert_array_equal(pictures.rgb(encoded("rgba png"), "a"), whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_largest_picture_needs_less_than_half_a_gibibyte(mode):
    buffer = io.BytesIO()
    Image.new(mode, (7000, 7000), 9 if mode == "L" else (9,) * len(mode)).save(
        buffer, "PNG", exif=exif(6)
    )
    with bounded():
        pixels = pictures.rgb(buffer.getvalue(), "a")
    assert pixels.shape == (7000, 7000, 3) and (pixels[::999] == 9).all()


OTHERS = {
    b"\0\0\0\x18ftypheic\0\0\0\0": "is HEIC, which is not read",
    b"\0\0\0\x1cftypavif\0\0\0\0": "is AVIF, which is not read",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n": "is PostScript, which is not read",
    b"%PDF-1.7\n": "is PDF, which is not read",
    b"version https://git-lfs.github.com/spec/v1\n": "is a Git LFS pointer, which is not read",
    b"<html>": "neither PNG, JPEG",
    b"": "zero bytes",
}


@pytest.mark.parametrize("data", OTHERS, ids=OTHERS.values())
def test_what_is_not_read_is_refused_by_its_true_name(tmp_path, data):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"a.png: {OTHERS[data]}"):
        pictures.read(path)
    spec = {"name": "folders", "images": "images", "use": "unlabelled"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    with pytest.raises(DataError, match=f"a.png: {OTHERS[path.read_bytes()]}"):
        next(eval_stream(data))
    quiet = {"classes": "cityscapes19", "out": tmp_path / "out", "say": lambda line: None}
    manifest = check_data(spec, data_dir=tmp_path, **quiet)
    assert OTHERS[path.read_bytes()] in manifest["quarantine"]["a"]


def test_postscript_never_starts_a_program(tmp_path, monkeypatch):
    def no_program(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr("subprocess.Popen", no_program)
    monkeypatch.setattr("subprocess.check_call", no_program)
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "EPS")
    with pytest.raises(DataError, match="PostScript"):
        pictures.rgb(buffer.getvalue(), "x.png")


@pytest.mark.parametrize(("mode", "words"), [("F", "floating-point"), ("I", "32-bit integers")])
def test_pixels_without_a_range_are_refused(mode, words):
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(buffer, "TIFF")
    with pytest.raises(DataError, match=rf"a\.tif: its pixels are {words}"):
        pictures.rgb(buffer.getvalue(), "a.tif")


@pytest.mark.parametrize("kind", ["png", "grey png", "palette"])
def test_a_flipped_bit_of_a_png_is_noticed(kind):
    data = bytearray(encoded(kind))
    place = data.index(b"IDAT") + 20
    data[place] ^= 1
    with pytest.raises(DataError, match="truncated or damaged"):
        pictures.rgb(bytes(data), "a.png")


def test_a_flipped_bit_of_uncompressed_pixels_is_noticed():
    """Only the checksum of the chunk reveals the damage."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", compress_level=0)
    data = bytearray(buffer.getvalue())
    data[data.index(b"IDAT") + 200] ^= 1
    with pytest.raises(DataError, match="truncated or damaged"):
        pictures.rgb(bytes(data), "a.png")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"animated gif"}))  # its first frame is whole
def test_a_cut_picture_is_an_error_and_not_grey(kind):
    data = encoded(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libtiff warns
        with pytest.raises(DataError, match=r"^a: "):
            pictures.rgb(data[: len(data) // 2], "a")


def test_a_process_without_memory_finds_no_picture_damaged(monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "PNG")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(MemoryError), pictures.opened(file.getvalue(), "whole.png") as image:
        image.load()


def test_sizes_are_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1] - 1)
    with pytest.raises(DataError, match=r"a: 32x24 pixels; a picture may have 1 to 767"):
        pictures.rgb(encoded("jpeg"), "a")


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded():
    """Each scan costs as much as all pixels: one of 78 bytes takes 20 ms at 49 megapixels."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    pixels = pictures.rgb(data, "a.jpg")
    few = data[:-2] + 80 * scan + data[-2:]
    np.testing.assert_array_equal(pictures.rgb(few, "a.jpg").shape, pixels.shape)
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG of more than 100 scans"):
        pictures.rgb(data[:-2] + 100 * scan + data[-2:], "a.jpg")


def test_only_scans_of_the_picture_itself_are_counted():
    """Scan markers in a thumbnail, in other segments, or after the end are not counted."""
    data = encoded("jpeg")
    inside = b"\xff\xe4" + (2 + 400).to_bytes(2, "big") + 200 * b"\xff\xda"
    glued = data[:2] + inside + data[2:] + 200 * b"\xff\xda"
    np.testing.assert_array_equal(pictures.rgb(glued, "a.jpg"), pictures.rgb(data, "a.jpg"))


def test_a_label_must_have_the_size_of_the_upright_image(tmp_path):
    image = data_files.save(tmp_path / "images" / "a.jpg", RGB, exif=exif(6))
    data_files.save(tmp_path / "labels" / "a.png", np.full(GREY.shape, 7, np.uint8))
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    with pytest.raises(DataError, match=r"label is 32x24 .*a\.jpg is 24x32 upright, as its EXIF"):
        decode.examine(data, 0)
    data_files.save(tmp_path / "labels" / "a.png", np.full(GREY.T.shape, 7, np.uint8))
    np.testing.assert_array_equal(decode.examine(data, 0)[0], pictures.read(image))


def test_headers_say_what_a_file_is():
    header = pictures.header(encoded("palette of 4 bits"), "a")
    assert header == ("PNG", 24, 32, 1, 4, True, 0, False)
    assert pictures.header(encoded("16-bit grey png"), "a")[3:6] == (1, 16, False)
    lossy = {kind: pictures.header(encoded(kind), "a").lossy for kind in KINDS}
    assert {kind for kind, value in lossy.items() if value} == {
        kind for kind in KINDS if "jpeg" in kind.lower() or kind.startswith(("lossy", "WEBP"))
    }


def test_threads_read_the_same(tmp_path):
    data, results = encoded("progressive jpeg"), []
    threads = [
        threading.Thread(target=lambda: results.append(pictures.rgb(data, "a"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all((result == results[0]).all() for result in results)


@pytest.mark.parametrize("encode", [pictures.png, pictures.webp])
def test_lossless_encoders_keep_every_pixel(encode):
    np.testing.assert_array_equal(pictures.rgb(encode(RGB), "a"), RGB)
