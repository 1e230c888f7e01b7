"""Finds images and videos, and reads images of any kind as RGB arrays with Pillow."""

import collections
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rtda_jax.data.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")
MAX_PIXELS = 50_000_000  # larger pictures are refused before they are decoded


class Input(NamedTuple):
    """A file to predict, and the relative path without suffix that its results get."""

    path: pathlib.Path
    name: pathlib.PurePath

    @property
    def is_video(self) -> bool:
        """Tells by the suffix whether the file has frames."""
        return self.path.suffix.lower() in VIDEOS


def find(path: pathlib.Path, *, without: pathlib.Path | None = None) -> list[Input]:
    """Lists a file, or the images and videos of a folder at any depth, in the order of their names.

    Args:
      path: a file, or a folder; hidden folders and links to folders are not entered.
      without: a folder that is not entered (where results go).

    Raises:
      DataError: nothing is there.
    """
    if path.is_file():
        return [Input(path, pathlib.PurePath(path.stem))]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    left_out = without.resolve() if without is not None else None
    files = []
    for folder, folders, names in os.walk(path):
        here = pathlib.Path(folder)
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and (here / f).resolve() != left_out
        )
        files += [here / n for n in sorted(names) if not n.startswith(".")]
    files = [f for f in files if f.suffix.lower() in IMAGES + VIDEOS]
    if not files:
        raise DataError(f"{path}: holds no image or video ({', '.join(IMAGES + VIDEOS)})")
    stems = [file.relative_to(path).with_suffix("") for file in files]
    times = collections.Counter(stems)
    return [
        # Both a.jpg and a.png keep their whole names: neither result replaces the other.
        Input(file, stem if times[stem] == 1 else file.relative_to(path))
        for file, stem in zip(files, stems, strict=True)
    ]


def read_image(path: pathlib.Path) -> np.ndarray:
    """Reads an image as uint8 [H,W,3] RGB, upright: EXIF rotation is applied, alpha is dropped.

    Grey, palette, CMYK and 16-bit images are converted; of several frames the first is read.

    Raises:
      DataError: naming the file, which is empty, damaged, of an unknown format or too large.
    """
    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: zero bytes; expected an image")
        with Image.open(path) as image:
            width, height = image.size
            check_size(path, height, width)
            return _rgb(path, image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path}: larger than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{path}: no image of a known format") from None
    except Exception as error:  # what Pillow's decoders raise on damaged files has no common class
        raise DataError(f"{path}: truncated or damaged ({error})") from None


def check_size(path: pathlib.Path, height: int, width: int) -> None:
    """Raises DataError for a picture that is too large to decode."""
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} is larger than {MAX_PIXELS:,} pixels")


def _rgb(path: pathlib.Path, image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError(f"{path}: pixels of mode {image.mode!r} have no range; save it with 8 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 [H,W,3] to `size`, bilinear with antialiasing, as evaluation does."""
    if pixels.shape[:2] == size:
        return pixels
    picture = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)


def padded(pixels: np.ndarray, *, multiple: int) -> np.ndarray:
    """Repeats the edge of uint8 [H,W,3] below and to the right, up to a multiple of the sides."""
    below, right = (-side % multiple for side in pixels.shape[:2])
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
