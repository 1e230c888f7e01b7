"""Finds images and videos to predict, and brings images to the sizes that networks read."""

import collections
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.data import listing
from rtda_jax.data.pictures import EXTENSIONS, MAX_PIXELS
from rtda_jax.data.pictures import read as read_image
from rtda_jax.errors import DataError

__all__ = ["Input", "Inputs", "check_size", "find", "padded", "read_image", "resized"]

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")


class Input(NamedTuple):
    """A file to predict, and the relative path without suffix that its results get."""

    path: pathlib.Path
    name: pathlib.PurePath

    @property
    def is_video(self) -> bool:
        """Tells by the suffix whether the file has frames."""
        return self.path.suffix.lower() in VIDEOS


class Inputs(NamedTuple):
    """The files to predict, in the order of their names, and sentences about what is left out."""

    files: list[Input]
    left_out: tuple[str, ...] = ()


def find(path: pathlib.Path, *, without: pathlib.Path | None = None) -> Inputs:
    """Finds a file, or the images and videos at any depth of a folder (see `listing.walk`).

    Args:
      path: a file or a folder.
      without: a folder that is not entered (where results go).

    Raises:
      DataError: nothing is there.
    """
    if path.is_file():
        return Inputs([Input(path, pathlib.PurePath(path.stem))])
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    walk = listing.walk(path, extensions=EXTENSIONS + VIDEOS, without=without)
    left_out = listing.sentences(walk.left_out)
    if not walk.files:
        raise DataError(
            f"{path}: holds no image or video ({', '.join(EXTENSIONS + VIDEOS)})"
            + "".join(f"; {sentence}" for sentence in left_out)
        )
    files = [pathlib.Path(file) for file in walk.files]
    stems = [file.relative_to(path).with_suffix("") for file in files]
    times = collections.Counter(stems)
    named = [
        # Both a.jpg and a.png keep their whole names: neither result replaces the other.
        Input(file, stem if times[stem] == 1 else file.relative_to(path))
        for file, stem in zip(files, stems, strict=True)
    ]
    return Inputs(named, left_out)


def check_size(path: pathlib.Path, height: int, width: int) -> None:
    """Raises DataError for a picture that is too large to decode."""
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width}x{height} is larger than {MAX_PIXELS:,} pixels")


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
