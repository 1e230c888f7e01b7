"""Pseudo-labels: a network's predictions for the images of a set, as PNG files with a manifest.

The confidence histograms, from which thresholds over the whole set are computed, are stored here
too.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from rtda_jax.data import pictures
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import IGNORE, class_set
from rtda_jax.errors import ConfigError, DataError
from rtda_jax.run.files import read_bytes, read_npz, write_npz

MANIFEST = "manifest.json"
HISTOGRAM = "histogram.npz"


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """Label files, one for each image of the set for which they were made.

    Attributes:
      folder: the folder of the stage that wrote them.
      keys: the keys of the images.
      sha256: the SHA-256 of each file.
      classes: the number of classes, K.
    """

    folder: str
    keys: tuple[str, ...]
    sha256: tuple[str, ...]
    classes: int

    def decode(self, i: int) -> np.ndarray:
        """Decodes label i to classes, uint8 [H,W]: 0..K-1, and 255 for ignored pixels.

        Raises:
          DataError: names the file that cannot be used.
        """
        path = label_path(self.folder, self.keys[i])
        data = read_bytes(path)
        _size(data, path)
        with pictures.opened(data, path) as image:
            label = np.asarray(image)
        strange = label[(label >= self.classes) & (label != IGNORE)]
        if strange.size:
            raise DataError(
                f"{path}: {strange.size} pixels of class {strange[0]} and others; "
                f"there are 0..{self.classes - 1}, and {IGNORE} for none"
            )
        return label

    def check(self, i: int) -> tuple[int, int]:
        """Returns the (height, width) of label i, from its header.

        Raises:
          DataError: the file is not the one that its stage wrote.
        """
        path = label_path(self.folder, self.keys[i])
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != self.sha256[i]:
            raise DataError(
                f"{path}: changed since it was written, its hash is not the manifest's; "
                f"delete it and {self.folder}/done.json, and repeat the command to write it again"
            )
        return _size(data, path)

    def examine(self, i: int) -> np.ndarray:
        """Decodes label i like `decode`, after comparing its hash with the manifest."""
        self.check(i)
        return self.decode(i)


def _size(data: bytes, path: str) -> tuple[int, int]:
    header = pictures.header(data, path)
    if (header.format, header.channels, header.bits, header.palette) != ("PNG", 1, 8, False):
        raise DataError(f"{path}: not a pseudo-label, which is a greyscale PNG of 8 bits")
    return header.height, header.width


def label_path(folder: str | os.PathLike, key: str) -> str:
    """Returns the path of the label for an image."""
    return os.path.join(folder, "labels", f"{key}.png")


def load_pseudo(folder: str | os.PathLike, *, target: Dataset) -> PseudoLabels:
    """Returns the labels in a finished pseudo_label stage's folder, after checking every file.

    Args:
      folder: the folder with `manifest.json` and `labels/`.
      target: the images that will be trained on.

    Raises:
      DataError: there is no manifest, or it describes other images or classes; a file is missing,
        has been changed, or differs in size from the others.
    """
    path = pathlib.Path(folder) / MANIFEST
    if not path.exists():
        raise DataError(f"{folder}: no finished pseudo-labels ({MANIFEST} is missing)")
    manifest = _manifest(path)
    if class_set(manifest["classes"]).names != target.classes.names:
        raise DataError(
            f"{path}: labels of the classes {manifest['classes']!r}, not {target.classes.name!r}"
        )
    files = manifest["files"]
    keys = tuple(target.keys)
    if tuple(files) != keys:
        strange = sorted(set(files) ^ set(keys)) or ["the order"]
        raise DataError(
            f"{path}: made for {len(files)} images of {manifest['data']!r}, not for the "
            f"{len(keys)} of {target.name!r}; they differ in {strange[0]!r}"
        )
    labels = PseudoLabels(os.fspath(folder), keys, tuple(files.values()), len(target.classes))
    sizes = [labels.check(i) for i in range(len(keys))]
    for key, size in zip(keys, sizes, strict=True):
        if size != sizes[0]:
            here, first = label_path(folder, key), label_path(folder, keys[0])
            raise DataError(
                f"{here}: is {size[1]}x{size[0]}, but {first} is {sizes[0][1]}x{sizes[0][0]}; a "
                "stage writes labels of one size"
            )
    return labels


def _manifest(path: pathlib.Path) -> dict:
    try:
        manifest = json.loads(read_bytes(path))
        if set(manifest) >= {"classes", "data", "files"} and isinstance(manifest["files"], dict):
            class_set(str(manifest["classes"]))
            return manifest
        problem = "classes, data and files are not all in it"
    except (ValueError, TypeError, RecursionError, ConfigError, DataError) as error:
        problem = str(error)
    raise DataError(f"{path}: not what a pseudo_label stage writes: {problem}")


def part_of_histogram(process: int | str) -> str:
    """Returns the name of the file of what a process counts beside the main one; "*" is any."""
    return f"histogram-{process}.npz"


def merge_histograms(
    folder: pathlib.Path, *, images: int, shape: tuple[int, int], say: Callable[[str], object]
) -> None:
    """Adds what the other processes of an earlier job counted to the main one's `HISTOGRAM`.

    Args:
      folder: of the stage.
      images: the number of images of the set.
      shape: that of a histogram, classes by bins.
      say: gets a sentence about a damaged file, which counts as none.
    """

    def read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
        done, counts = read_histogram(path, images=images, shape=shape)
        if path.exists() and not done.any():
            say(f"  {path} is damaged: confidences are counted again")
        return done, counts

    done, counts = read(folder / HISTOGRAM)
    parts = sorted(folder.glob(part_of_histogram("*")))
    for part in parts:
        more_done, more_counts = read(part)
        if not (done & more_done).any():  # otherwise a job was killed after it had added this part
            done, counts = done | more_done, counts + more_counts
    if parts:
        write_npz(folder / HISTOGRAM, done=done, counts=counts)
    for part in parts:
        part.unlink()


def read_histogram(
    path: pathlib.Path, *, images: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which images are counted, bool [images], and their histogram; none if damaged."""
    saved = read_npz(path)
    shapes = {name: array.shape for name, array in saved.items()}
    if shapes == {"done": (images,), "counts": shape}:
        return saved["done"].astype(bool), saved["counts"].astype(np.int64)
    return np.zeros(images, bool), np.zeros(shape, np.int64)
