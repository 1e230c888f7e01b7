"""What predictions leave on the disk."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.data.errors import DataError
from rtda_jax.deploy import video
from rtda_jax.deploy.inputs import Input
from rtda_jax.deploy.views import Key
from rtda_jax.tools import pictures


class Picture(NamedTuple):
    """One image or frame: its own pixels, what the network reads, the size of its answer.

    A file that can not be read has a problem instead of pixels; `last` marks a file's end.
    """

    file: Input
    pixels: np.ndarray | None = None
    read: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    frame: video.Frame | None = None
    number: int = 0
    problem: str = ""
    last: bool = False


class Results:
    """Files of the views of pictures, written by one thread in the order of the pictures."""

    def __init__(self, out: pathlib.Path, views: dict[str, Callable], key: Key) -> None:
        self._out, self._views, self._key = out, views, key
        self._videos: dict[str, video.Writer] = {}

    def write(self, item: tuple[Picture, Any]) -> None:
        """Every view of a picture and its classes; DataError where the disk refuses."""
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
            shown = show(pixels, classes, self._key)
            if picture.frame is None:
                pictures.save(Image.fromarray(shown), name.with_name(name.name + ".png"))
            elif shown.ndim == 2:  # a lossy video would change classes
                pictures.save(Image.fromarray(shown), name / f"{picture.number:06d}.png")
            else:
                if view not in self._videos:
                    self._videos[view] = video.Writer(name.with_name(name.name + ".mp4"))
                self._videos[view].write(shown, picture.frame)
