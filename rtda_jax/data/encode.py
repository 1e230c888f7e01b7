"""Storing examples: decoded, resized once, and encoded again."""

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.lazy_tf import tensorflow
from rtda_jax.data.worker import Example

# An unlabelled example still fills the label feature: one ignored pixel.
NO_LABEL_PIXEL = 255


class Job(NamedTuple):
    """A part of a data set to be stored at a size, empty: as it is, in an image format."""

    dataset: Dataset
    size: tuple[int, ...]
    image_format: str


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H,W] or [H,W,3] as PNG."""
    # Level 6 packs a tenth better and takes four times as long.
    return _encoded(pixels, "PNG", compress_level=3)


def _webp(pixels: np.ndarray) -> bytes:
    # Of a lossless WebP, quality is the effort: none still packs better than PNG, and faster.
    return _encoded(pixels, "WEBP", lossless=True, method=0, quality=0)


def _jpeg(pixels: np.ndarray) -> bytes:
    return _encoded(pixels, "JPEG", quality=95, subsampling=0)


IMAGES = {"png": png, "webp": _webp, "jpeg": _jpeg}


def part(dataset: Dataset, first: int, last: int) -> Dataset:
    """Examples first..last-1 of a data set of files."""
    reader = dataset.reader
    assert isinstance(reader, Files)
    return Dataset(
        dataset.name,
        tuple(dataset.keys[first:last]),
        dataset.classes,
        dataset.labelling,
        Files(reader.images[first:last], reader.labels[first:last]),
        dataset.lenient,
    )


def examples(job: Job) -> Iterator[Example]:
    """The encoded examples of a job; DataError naming the file that can not be stored."""
    tf = tensorflow()
    dataset, size, image_format = job
    for i, key in enumerate(dataset.keys):
        image, raw = decode.examine_known(dataset, i)
        if size:
            image = decode.resized(tf.constant(image), size).numpy()
        if raw is None:
            raw = np.full((1, 1), NO_LABEL_PIXEL, np.uint8)
        elif size:
            raw = decode.resized_label(tf.constant(raw), size).numpy()
        yield Example(key, IMAGES[image_format](image), png(raw))


def digest(dataset: Dataset) -> str:
    """A short digest of a data set's keys, labelling, and sizes and times of its files."""
    reader: Any = dataset.reader
    files = zip(dataset.keys, reader.images, strict=True)
    labels = reader.labels if dataset.labelling else ()
    lines = [repr((dataset.labelling, sorted(dataset.lenient)))]
    lines += [repr((key, *_state(path))) for key, path in files]
    lines += [repr(_state(path)) for path in labels]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:10]


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:  # the worker that reads it says what is wrong with it
        return (-1, -1)
    return found.st_size, found.st_mtime_ns


def _encoded(pixels: np.ndarray, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()
