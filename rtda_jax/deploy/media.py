"""Finds images and videos to predict, shows their predictions, and writes them.

Inputs are files, folders, cameras and network streams. Every result has the name of its input, in a
folder for each view.
"""

import collections
import contextlib
import functools
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.data import listing, pictures
from rtda_jax.data.listing import LeftOut
from rtda_jax.deploy import video
from rtda_jax.errors import DataError
from rtda_jax.run.workdir import covers, written
from rtda_jax.tools import drawing

VIDEOS = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts",
    ".m2ts", ".wmv",
)  # fmt: skip
RECORD = "predict.json"  # lists the results of an earlier prediction
OPACITY = 0.5  # opacity of the class colours in an overlay


class Input(NamedTuple):
    """An image, a video or a stream to predict.

    Attributes:
      source: the path of a file, or the number of a camera or the URL of a stream as it was given.
      name: the name of its results, a relative path without suffix.
      kind: "image", "video" or "stream".
    """

    source: str
    name: pathlib.PurePath
    kind: str


class Listing(NamedTuple):
    """The inputs to predict, in the order of their names, and the files that were left out."""

    inputs: tuple[Input, ...]
    left_out: tuple[LeftOut, ...] = ()


def find(source: str, *, out: pathlib.Path) -> Listing:
    """Finds the inputs that a command line names.

    Args:
      source: a file; a folder, which is searched at any depth; the number of a camera; or the URL
        of a stream.
      out: the folder of results. It is not entered, and neither are the results of an earlier
        prediction, wherever they are in the folder.

    Raises:
      DataError: nothing was found.
    """
    path = pathlib.Path(source).expanduser()
    if not path.exists() and re.fullmatch(r"\d+", source):
        return Listing((Input(source, pathlib.PurePath(f"camera{source}"), "stream"),))
    if "://" in source:
        address = re.sub(r"^\w+://([^/@]*@)?", "", source)  # without the password
        name = re.sub(r"[^\w.-]+", "_", address).strip("._")[:80] or "stream"
        return Listing((Input(source, pathlib.PurePath(name), "stream"),))
    if path.is_dir():
        return _in_folder(path, out)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    return Listing((Input(str(path), pathlib.PurePath(path.stem), kind_of(path)),))


def _in_folder(folder: pathlib.Path, out: pathlib.Path) -> Listing:
    without = None if out.resolve() == folder.resolve() else out
    extensions = (*pictures.EXTENSIONS, *VIDEOS)
    files, left_out = listing.walk(folder, extensions=extensions, without=without)
    records: dict[pathlib.Path, set[str]] = {}

    def is_result(path: pathlib.Path) -> bool:
        for parent in path.relative_to(folder).parents:
            place = folder / parent
            if place not in records:
                records[place] = written(place / RECORD)
            if covers(records[place], path.relative_to(place).as_posix()):
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
    return Listing(tuple(inputs), left_out)


def kind_of(path: str | pathlib.Path) -> str:
    """Returns "image" or "video" by the suffix of a file."""
    return "video" if pathlib.Path(path).suffix.lower() in VIDEOS else "image"


class Key(NamedTuple):
    """Names of the classes, their colours (R, G, B), and their label ids if a view shows them."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    label_ids: tuple[int, ...] = ()


def train_ids(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Returns the classes themselves, uint8 [H,W]; for the 19 of Cityscapes these are train ids."""
    return classes


def label_ids(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Returns the ids in which the server of a benchmark reads results, uint8 [H,W]."""
    return np.asarray(key.label_ids, np.uint8)[classes]


def colours(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Paints every class in its colour, uint8 [H,W,3]."""
    return drawing.colourise(classes, np.asarray(key.colours, np.uint8))


def overlay(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Blends the colours over the image, half transparent, uint8 [H,W,3]."""
    blend = OPACITY * colours(image, classes, key) + (1 - OPACITY) * image
    return drawing.as_bytes(blend)


def side_by_side(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Puts the image beside the colours, with the legend below, uint8 [h,2W,3]."""
    pair = np.concatenate([image, colours(image, classes, key)], axis=1)
    return np.concatenate([pair, legend(key, pair.shape[1])], axis=0)


@functools.lru_cache(maxsize=8)
def legend(key: Key, width: int) -> np.ndarray:
    """Draws names and colours of the classes, uint8 [h,width,3]."""
    table = np.asarray(key.colours, np.uint8)
    return np.asarray(drawing.legend(names=key.names, colours=table, width=width))


View = Callable[[np.ndarray, np.ndarray, Key], np.ndarray]
VIEWS: dict[str, View] = {
    "overlay": overlay,
    "side_by_side": side_by_side,
    "colours": colours,
    "train_ids": train_ids,
    "label_ids": label_ids,
}


FOLDERS = ("train_ids", "label_ids")  # a video's results as PNGs: compression would change classes


def files_of(item: Input, views: Iterable[str]) -> list[str]:
    """Returns the results of an input, relative to the output folder; a folder ends in a slash."""
    names = []
    for view in views:
        name = (pathlib.PurePath(view) / item.name).as_posix()
        suffix = ".png" if item.kind == "image" else "/" if view in FOLDERS else ".mp4"
        names.append(name + suffix)
    return names


def unrecorded(item: Input, *, out: pathlib.Path) -> Input:
    """Returns a stream with a name that no result in the folder has: NAME, or NAME-2, NAME-3, ...

    The same camera can be recorded again, but no recording can be made again.
    """
    name, number = item.name, 2
    while any((out / file).exists() for file in files_of(item, VIEWS)):
        item, number = item._replace(name=name.with_name(f"{name.name}-{number}")), number + 1
    return item


def distinct(items: Sequence[Input], views: Iterable[str]) -> list[Input]:
    """Returns the inputs with names for which no result equals or contains another one.

    a.png and a.jpg, or clip.mp4 and a folder clip of frames, keep their suffixes in the names of
    their results. Names that some file systems do not distinguish count as equal.

    Raises:
      DataError: two inputs have results that cannot be distinguished.
    """
    views, items = tuple(views), list(items)
    suffixed: set[int] = set()
    while True:
        owners = collections.defaultdict(set)
        for number, item in enumerate(items):
            for name in files_of(item, views):
                owners[_folded(name)].add(number)
        clashes = set()
        for name, numbers in list(owners.items()):
            above = (str(parent) for parent in pathlib.PurePosixPath(name).parents)
            together = numbers.union(*(owners[p] for p in above if p in owners))
            if len(together) > 1:
                clashes |= together
        if not clashes:
            return items
        if clashes <= suffixed:
            first, second, *_ = (items[number].source for number in sorted(clashes))
            raise DataError(f"the results of {first} and {second} would have the same name")
        for number in clashes - suffixed:
            item = items[number]
            whole = item.name.with_name(pathlib.PurePath(item.source).name)
            items[number] = item._replace(name=whole)
        suffixed |= clashes


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.rstrip("/")).casefold()


class Picture(NamedTuple):
    """An image or frame: its own pixels, the network's input, and the size of the answer.

    A file that cannot be read has a problem instead of pixels. `last` marks the end of a file.
    """

    item: Input
    pixels: np.ndarray | None = None
    read: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    frame: video.Frame | None = None
    number: int = 0
    problem: str = ""
    last: bool = False


class Writer:
    """Writes the chosen views of pictures, which arrive in order from one thread.

    Use it as a context. A video that is incomplete at the end of the context leaves no file.
    """

    def __init__(self, out: pathlib.Path, *, views: Mapping[str, View], key: Key) -> None:
        self._out, self._views, self._key = out, views, key
        self._videos: dict[str, Callable[[np.ndarray, video.Frame], None]] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, prediction: tuple[Picture, Any]) -> None:
        """Writes every view of a picture and its classes; raises DataError if that fails."""
        picture, classes = prediction
        try:
            if picture.pixels is not None:
                height, width = picture.pixels.shape[:2]
                self._write(picture, picture.pixels, np.asarray(classes)[:height, :width])
            if picture.last:
                self._videos.clear()
                self._open.close()
        except OSError as error:
            raise DataError(f"{error.filename or self._out}: {error.strerror or error}") from None

    def _write(self, picture: Picture, pixels: np.ndarray, classes: np.ndarray) -> None:
        files = files_of(picture.item, self._views)
        for (view, show), file in zip(self._views.items(), files, strict=True):
            image, path = show(pixels, classes, self._key), self._out / file
            if picture.frame is None:
                drawing.save(Image.fromarray(image), path)
            elif view in FOLDERS:
                if not picture.number:
                    _remove_frames(path)
                drawing.save(Image.fromarray(image), path / f"{picture.number:06d}.png")
            else:
                if view not in self._videos:
                    self._videos[view] = self._open.enter_context(
                        video.writing(
                            path,
                            like=picture.frame,
                            size=image.shape[:2],
                            live=picture.item.kind == "stream",
                        )
                    )
                self._videos[view](image, picture.frame)


def _remove_frames(folder: pathlib.Path) -> None:
    """Removes the frames of an earlier prediction, of which a longer video had more."""
    for path in folder.glob("*.png"):
        if re.fullmatch(r"\d{6,}", path.stem):
            path.unlink()
