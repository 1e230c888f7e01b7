"""Label files from a stream of predictions, in bounded memory and resumable after a kill.

Thresholds over the whole set need two passes. The first counts confidences in a histogram, which
is saved now and then so that a killed pass can continue; its checksum tells when it is damaged.
The second pass writes the files. It trusts files that are there, because each is a function of its
image and the thresholds, and is moved into place whole.
"""

import hashlib
import io
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from rtda_jax.adapt import pseudo_labels
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.data.pictures import png
from rtda_jax.data.pseudo import label_path
from rtda_jax.data.sampling import read_npz
from rtda_jax.errors import Interrupted
from rtda_jax.run import log
from rtda_jax.run.files import write_bytes
from rtda_jax.run.log import Progress

SAVE_EVERY = 100  # images between two saves of the histogram

# From the index of an image to the labels uint8 [H,W] and confidences float32 [H,W] of the images
# from there on.
Predictions = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]


def generate(
    predictions: Predictions,
    folder: pathlib.Path,
    *,
    keys: Sequence[str],
    options: PseudoLabelOptions,
    num_classes: int,
    interrupted: threading.Event,
    heartbeat: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Writes `labels/KEY.png` for every key, 255 where a pixel is not sure enough.

    Args:
      predictions: of the images in the order of the keys; the same at every call.
      folder: where the files go; it may hold what an earlier, killed call wrote.
      keys: names of the images.
      options: which pixels keep their label.
      num_classes: K.
      interrupted: ends the work between two images.
      heartbeat: called after every image that was predicted or read again.

    Returns:
      thresholds ([K], or None where the scope is an image), coverage (the share of pixels with a
      label), pixels [K] and files {key: sha256}.

    Raises:
      Interrupted: the same call continues.
    """

    def seen(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for prediction in predictions(start):
            heartbeat()
            yield prediction

    folder.mkdir(parents=True, exist_ok=True)
    limits = None
    if options.scope == "dataset":
        limits = _dataset_thresholds(seen, folder, len(keys), options, num_classes, interrupted)
    written = (
        i for i, key in enumerate(keys) if not pathlib.Path(label_path(folder, key)).exists()
    )
    first = next(written, len(keys))
    watched = _watched(seen, first, len(keys), "writing labels", interrupted)
    for i, (labels, confidence) in watched:
        if limits is None:
            image_limits = pseudo_labels.exact_thresholds(
                labels,
                confidence,
                num_classes=num_classes,
                cut=options.cut,
                cap=options.cap,
                index=options.index,
            )
        else:
            image_limits = limits
        path = pathlib.Path(label_path(folder, keys[i]))
        write_bytes(path, png(pseudo_labels.assign(labels, confidence, image_limits)))
    return {
        "thresholds": None if limits is None else limits.tolist(),
        **_survey(folder, keys, num_classes, heartbeat),
    }


def _dataset_thresholds(
    predictions: Predictions,
    folder: pathlib.Path,
    total: int,
    options: PseudoLabelOptions,
    num_classes: int,
    interrupted: threading.Event,
) -> np.ndarray:
    path = folder / "histogram.npz"
    done, counts = 0, np.zeros((num_classes, pseudo_labels.BINS), np.int64)
    saved = read_npz(path)
    fits = saved.keys() == {"done", "counts"} and saved["counts"].shape == counts.shape
    if fits and saved["done"] <= total:
        done, counts = int(saved["done"]), saved["counts"]
    elif path.exists():
        log.say(f"  {path} is damaged: confidences are counted again")

    def save(images: int) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, done=images, counts=counts)
        write_bytes(path, buffer.getvalue())

    watched = _watched(predictions, done, total, "counting confidences", interrupted, save)
    for i, (labels, confidence) in watched:
        counts += pseudo_labels.histogram(labels, confidence, num_classes=num_classes)
        if (i + 1) % SAVE_EVERY == 0 or i + 1 == total:
            save(i + 1)
    return pseudo_labels.thresholds(counts, cut=options.cut, cap=options.cap, index=options.index)


def _watched(
    predictions: Predictions,
    first: int,
    total: int,
    what: str,
    interrupted: threading.Event,
    save: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Yields numbered predictions from an image on, with progress; a signal ends them."""
    if first == total:
        return
    progress = Progress(f"  {what}", total, first)
    for done, prediction in enumerate(predictions(first), start=first + 1):
        yield done - 1, prediction
        progress.add(1)
        if interrupted.is_set():
            save(done)
            progress.end()
            raise Interrupted(f"stopped after image {done}; the same command continues there")
    progress.end()


def _survey(
    folder: pathlib.Path, keys: Sequence[str], num_classes: int, heartbeat: Callable[[], object]
) -> dict[str, Any]:
    """Returns what is on the disk: checksums, and the number of pixels of each class."""
    files, counts = {}, np.zeros(256, np.int64)
    for key in keys:
        data = pathlib.Path(label_path(folder, key)).read_bytes()
        files[key] = hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            counts += np.bincount(np.asarray(image).ravel(), minlength=256)
        heartbeat()
    pixels = counts[:num_classes]
    return {
        "coverage": float(pixels.sum() / counts.sum()),
        "pixels": pixels.tolist(),
        "files": files,
    }
