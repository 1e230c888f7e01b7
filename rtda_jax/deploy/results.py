"""Shows predictions as images and writes them: overlays, colours, train ids."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.deploy import video
from rtda_jax.deploy.inputs import Input
from rtda_jax.errors import DataError
from rtda_jax.tools import drawing

OPACITY = 0.5  # of the class colours in an overlay


class Key(NamedTuple):
    """Names of the classes and their colours (R, G, B)."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


def train_ids(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Returns the classes themselves, uint8 [H,W]; of the 19 of Cityscapes these are train ids."""
    return classes


def colours(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Paints every class in its colour, uint8 [H,W,3]."""
    return drawing.colourise(classes, np.asarray(key.colours, np.uint8))


def overlay(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Lays the colours over the image, half transparent, uint8 [H,W,3]."""
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


VIEWS: dict[str, Callable[[np.ndarray, np.ndarray, Key], np.ndarray]] = {
    "overlay": overlay,
    "side_by_side": side_by_side,
    "colours": colours,
    "train_ids": train_ids,
}


class Picture(NamedTuple):
    """An image or frame: its own pixels, what the network reads, and the size of the answer.

    A file that cannot be read has a problem instead of pixels; `last` marks the end of a file.
    """

    file: Input
    pixels: np.ndarray | None = None
    read: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    frame: video.Frame | None = None
    number: int = 0
    problem: str = ""
    last: bool = False


class Writer:
    """Writes the chosen views of pictures, which come in order from one thread."""

    def __init__(self, out: pathlib.Path, *, views: dict[str, Callable], key: Key) -> None:
        self._out, self._views, self._key = out, views, key
        self._videos: dict[str, video.Writer] = {}

    def write(self, item: tuple[Picture, Any]) -> None:
        """Writes every view of a picture and its classes; raises DataError if the disk refuses."""
        picture, classes = item
        try:
            if picture.pixels is not None:
                height, width = picture.pixels.shape[:2]
                self._write(picture, picture.pixels, np.asarray(classes)[:height, :width])
            if picture.last:
                for writer in self._videos.values():
                    writer.close()
                self._videos.clear()
        except OSError as error:
            raise DataError(f"{error.filename or self._out}: {error.strerror or error}") from None

    def _write(self, picture: Picture, pixels: np.ndarray, classes: np.ndarray) -> None:
        for view, show in self._views.items():
            name = self._out / view / picture.file.name
            image = show(pixels, classes, self._key)
            if picture.frame is None:
                drawing.save(Image.fromarray(image), name.with_name(name.name + ".png"))
            elif image.ndim == 2:  # a lossy video would change classes
                drawing.save(Image.fromarray(image), name / f"{picture.number:06d}.png")
            else:
                if view not in self._videos:
                    self._videos[view] = video.Writer(name.with_name(name.name + ".mp4"))
                self._videos[view].write(image, picture.frame)
