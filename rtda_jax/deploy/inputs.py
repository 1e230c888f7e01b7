"""Finds what to predict: images and videos in files and folders, cameras and network streams."""

import pathlib
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.data import listing, pictures
from rtda_jax.data.listing import LeftOut
from rtda_jax.deploy import outputs
from rtda_jax.errors import DataError

VIDEOS = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts",
    ".m2ts", ".wmv",
)  # fmt: skip
RECORD = "predict.json"  # lists the results of an earlier prediction


class Input(NamedTuple):
    """One thing to predict.

    Attributes:
      source: path of a file; or the number of a camera or the URL of a stream, as it was given.
      name: of its results, a relative path without suffix.
      kind: "image", "video" or "stream".
    """

    source: str
    name: pathlib.PurePath
    kind: str


class Found(NamedTuple):
    """What there is to predict, in the order of names, and what was left out."""

    inputs: tuple[Input, ...]
    left_out: tuple[LeftOut, ...] = ()


def find(source: str, *, out: pathlib.Path) -> Found:
    """Finds what a command line names.

    Args:
      source: a file; a folder, which is searched at any depth; the number of a camera; or the URL
        of a stream.
      out: the folder of results. It is not entered, and neither are the results of an earlier
        prediction, wherever in the folder they lie.

    Raises:
      DataError: nothing is there.
    """
    path = pathlib.Path(source).expanduser()
    if not path.exists() and re.fullmatch(r"\d+", source):
        return Found((Input(source, pathlib.PurePath(f"camera{source}"), "stream"),))
    if "://" in source:
        address = re.sub(r"^\w+://([^/@]*@)?", "", source)  # without the password
        name = re.sub(r"[^\w.-]+", "_", address).strip("._")[:80] or "stream"
        return Found((Input(source, pathlib.PurePath(name), "stream"),))
    if path.is_dir():
        return _in_folder(path, out)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    return Found((Input(str(path), pathlib.PurePath(path.stem), kind_of(path)),))


def _in_folder(folder: pathlib.Path, out: pathlib.Path) -> Found:
    without = None if out.resolve() == folder.resolve() else out
    extensions = (*pictures.EXTENSIONS, *VIDEOS)
    files, left_out = listing.walk(folder, extensions=extensions, without=without)
    records: dict[pathlib.Path, set[str]] = {}

    def is_result(path: pathlib.Path) -> bool:
        for parent in path.relative_to(folder).parents:
            place = folder / parent
            if place not in records:
                records[place] = outputs.written(place / RECORD)
            if outputs.covers(records[place], path.relative_to(place).as_posix()):
                return True
        return False

    inputs, results = [], []
    for path in map(pathlib.Path, files):
        if is_result(path):
            results.append(LeftOut(str(path), "a result of an earlier prediction"))
        else:
            name = path.relative_to(folder).with_suffix("")
            inputs.append(Input(str(path), name, kind_of(path)))
    left_out = (*(item for item in left_out if not is_result(pathlib.Path(item.path))), *results)
    if not inputs:
        why = "; ".join(listing.sentences(left_out)) or "it is empty"
        raise DataError(f"{folder}: holds no image or video ({why})")
    return Found(tuple(inputs), left_out)


def kind_of(path: str | pathlib.Path) -> str:
    """Tells by a file's suffix whether it is an "image" or a "video"."""
    return "video" if pathlib.Path(path).suffix.lower() in VIDEOS else "image"


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
