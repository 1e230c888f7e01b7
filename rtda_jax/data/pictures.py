"""One reader of pictures: the same file gives the same pixels wherever it is read.

Training, evaluation, prediction and the checks all call `rgb`. `examples/run_exported.py` repeats
the same rule, because it must run without this package, and a test compares the two. The rule: the
content of a file decides its format, its EXIF orientation is applied, and its pixels become 8-bit
RGB (see `rgb`). Pillow decodes JPEG with the accurate integer transform. `tf.io.decode_jpeg` does
so only with dct_method="INTEGER_ACCURATE" and otherwise differs by up to 17 levels, which is one
reason why TensorFlow does not decode pictures here.
"""

import contextlib
import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from rtda_jax.errors import DataError
from rtda_jax.run.files import read_bytes

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # as Pillow calls them
EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm",
    ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# How images are resized; both filters widen their kernel when images become smaller (antialiasing).
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_PIXELS = 50_000_000  # of a picture; larger ones are refused before they are decoded
_MOST_SCANS = 100  # of a JPEG, each of which costs as much as decoding all of its pixels
# Pixels that are converted at a time, so that there is never a third copy of a large picture.
_BAND = 2**22
_STRETCHED = 1.2  # by how much wider or higher things may become without a word
_UNIT = 32  # pixels: sides that are multiples of it need no padding in any network

# Common formats that are not read, by the position and bytes with which their content begins.
_OTHERS = (
    (4, b"ftypheic", "HEIC"), (4, b"ftypheix", "HEIC"), (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"), (0, b"%!PS", "PostScript"), (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"), (0, b"<svg", "SVG"), (0, b"<?xml", "XML"), (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"), (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"version https://git-lfs", "a Git LFS pointer"),
)  # fmt: skip
# Markers of a JPEG: those that are followed by a segment, and the end.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_DEEP = {"I": "32-bit integers", "F": "floating-point numbers", "LAB": "CIELAB colours"}
_DEEP_PPM = ("PPM", "I")  # grey values of 16 bits, which Pillow keeps in 32


class Header(NamedTuple):
    """The properties of a picture's file that are known before its pixels are decoded.

    Attributes:
      format: one of `FORMATS`.
      height, width: as stored, before the EXIF orientation is applied.
      channels: 1 to 4; 1 for a palette.
      bits: per channel.
      palette: whether the pixels are indices of colours.
      white: the largest value that the file can hold, where Pillow spreads its grey values over
        all values of 8 or 16 bits; 0 where it keeps them.
      lossy: whether the pixels can differ from those that were saved.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int
    palette: bool
    white: int
    lossy: bool


def rgb(data: bytes, where: str) -> np.ndarray:
    """Decodes a picture to uint8 [H,W,3] RGB, upright.

    Grey values are repeated, palettes are looked up, CMYK is converted and alpha is dropped (not
    blended). Only the upper 8 of 16 bits and only the first of several frames are read.

    Args:
      data: the encoded picture.
      where: its name in errors.

    Raises:
      DataError: the picture is empty or damaged, in a format that is not read, above MAX_PIXELS, or
        has pixels without a defined range (32-bit integers, floating-point numbers).
    """
    with opened(data, where) as image:
        if image.mode in _DEEP and (image.format, image.mode) != _DEEP_PPM:
            raise DataError(f"{where}: its pixels are {_DEEP[image.mode]}; save it with 8 bits")
        width, height = image.size
        rows = max(_BAND // width, 1)
        if rows >= height:
            return upright(_rgb(image), image)
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            band = image.crop((0, top, width, min(top + rows, height)))
            pixels[top : top + rows] = _rgb(band)
        return upright(pixels, image)


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Returns the pixels [H,W,...] of a picture, rotated by its EXIF orientation, and closes it."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    image.close()
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def resized(pixels: np.ndarray, size: tuple[int, int], *, resize: str = "bilinear") -> np.ndarray:
    """Resizes uint8 [H,W,3] to `size` (h, w) with Pillow, by a key of `FILTERS`.

    Pixels that already have this size are not changed.
    """
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], FILTERS[resize]))


def read(path: str | os.PathLike) -> np.ndarray:
    """Reads the picture of a file, like `rgb`."""
    return rgb(read_bytes(path), os.fspath(path))


@contextlib.contextmanager
def opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """Opens an encoded picture after checking its size and checksums; pixels may still be damaged.

    Any error inside the context becomes a DataError about this picture, except that the process has
    no memory left.
    """
    if not data:
        raise DataError(f"{where}: zero bytes; expected a picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                raise DataError(
                    f"{where}: {width}x{height} pixels; a picture may have 1 to {MAX_PIXELS:,}"
                )
            if image.format in ("JPEG", "MPO") and _scans(data) > _MOST_SCANS:
                raise DataError(f"{where}: a JPEG of more than {_MOST_SCANS} scans")
            if image.format == "PNG":  # Pillow decodes a PNG without checking its checksums
                with Image.open(io.BytesIO(data), formats=("PNG",)) as copy:
                    copy.verify()
            yield image
    except (DataError, MemoryError):  # a lack of memory says nothing about the picture
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{where}: above {MAX_PIXELS:,} pixels, the most that a picture may have"
        ) from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{where}: {_unknown(data)}") from None
    except Exception as error:
        # Pillow's errors for damaged files have no common class, and it decodes, and reads EXIF and
        # tags, only inside the context. The cause is kept in case it is a bug of ours.
        raise DataError(f"{where}: truncated or damaged ({error})") from error


def header(data: bytes, where: str) -> Header:
    """Returns the header of a picture; a DataError names `where` if it is not a picture."""
    with opened(data, where) as image:
        name = image.format or ""
        bits, white = _depth(image, data)
        lossy = (
            name in ("JPEG", "MPO")
            or (name == "WEBP" and not _lossless_webp(data))
            or (name == "TIFF" and image.info.get("compression") in ("jpeg", "webp"))
        )
        return Header(
            format="JPEG" if name == "MPO" else name,
            height=image.height,
            width=image.width,
            channels=len(image.getbands()),
            bits=bits,
            palette=image.mode == "P",
            white=white,
            lossy=lossy,
        )


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H,W] or [H,W,3] as PNG."""
    # Level 6 would compress a tenth better and take four times as long.
    return _encoded(pixels, "PNG", compress_level=3)


def webp(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H,W,3] as lossless WebP."""
    # The quality of a lossless WebP is the effort: even the least beats PNG in size and time.
    return _encoded(pixels, "WEBP", lossless=True, method=0, quality=0)


def jpeg(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H,W,3] as JPEG of quality 95 with full-resolution colours."""
    return _encoded(pixels, "JPEG", quality=95, subsampling=0)


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def _rgb(image: Image.Image) -> np.ndarray:
    """Converts pixels to 8-bit RGB, uint8 [H,W,3]."""
    if image.mode.startswith("I"):  # of 16 bits
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "RGBa" or "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _unknown(data: bytes) -> str:
    """Describes a file that is in none of the formats, for an error."""
    for offset, magic, name in _OTHERS:
        if data[offset : offset + len(magic)] == magic:
            return f"is {name}, which is not read; save it as PNG or JPEG"
    return (
        f"neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}, or cut in its header "
        f"(begins with {data[:8]!r})"
    )


def _scans(data: bytes) -> int:
    """Returns the number of scans in the first picture of a JPEG."""
    count, place = 0, 2
    while (marker := _MARKER.search(data, place)) and marker[0][1] != _END_OF_IMAGE:
        if marker[0][1] == _START_OF_SCAN:
            count += 1
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        place = marker.end() + max(length, 2)
    return count


def _lossless_webp(data: bytes) -> bool:
    """Returns whether a WebP's first picture is stored without loss."""
    place = 12
    while place + 8 <= len(data):
        kind, (length,) = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        place += 8 + length + length % 2
    return False


def _depth(image: Any, data: bytes) -> tuple[int, int]:
    """Returns the bits of a channel as the file has them, and the `white` of a `Header`."""
    if image.format == "PPM":
        bits = {"1": 1, "I": 16, "F": 32}.get(image.mode, 8)
        coding = image.tile[0].args  # (layout, white), or the layout of values that fill all bits
        return bits, coding[1] if isinstance(coding, tuple) and bits > 1 else 0
    bits = 8
    if image.format == "PNG":
        bits = data[24]
    elif image.format == "TIFF":
        bits = _tag(image, 258, 8)
    return bits, 2**bits - 1 if image.mode == "L" and bits < 8 else 0


def _tag(image: Any, number: int, default: int) -> int:
    """Returns the first value of a TIFF tag."""
    value = image.tag_v2.get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _encoded(pixels: np.ndarray, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def stretching(
    images: Mapping[tuple[int, int], int], size: tuple[int, int], *, field: str
) -> list[str]:
    """Returns a warning if resizing changes the proportions of most images by a fifth or more.

    Args:
      images: how many images have each shape (H, W).
      size: (H, W) that images are resized to.
      field: of the configuration that says so.
    """
    if not images:
        return []
    height, width = max(images, key=lambda shape: images[shape])

    def factor(size: tuple[int, int]) -> float:
        return size[1] / size[0] * height / width

    def change(size: tuple[int, int]) -> float:
        return max(factor(size), 1 / factor(size))

    if change(size) < _STRETCHED:
        return []
    better = fitting((height, width), pixels=size[0] * size[1])
    advice = f"--config.{field}={better[0]},{better[1]} keeps their proportions"
    if change(better) >= change(size):
        advice = "only a larger size could keep their proportions"
    return [
        f"warning: images of {width}x{height} are resized to {size[1]}x{size[0]}, which makes "
        f"things {factor(size):.2g} times as wide as they are; {advice}"
    ]


def fitting(shape: tuple[int, int], *, pixels: int) -> tuple[int, int]:
    """Returns the size (H, W) of about this many pixels with the proportions of a shape (H, W).

    Both sides are multiples of 32, so that no network has to pad them.
    """
    height, width = shape
    rows = math.sqrt(pixels * height / width)
    tall, wide = (max(_UNIT * round(s / _UNIT), _UNIT) for s in (rows, rows * width / height))
    return tall, wide
