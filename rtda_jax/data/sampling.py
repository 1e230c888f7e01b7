"""Class counts of a labelled set, and what is computed and drawn from them.

The draws themselves run inside the tf.data graph (`rtda_jax.data.pipeline`).
"""

import dataclasses
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE
from rtda_jax.run.files import replacing


def class_counts(dataset: Dataset, *, threads: int | None = None) -> np.ndarray:
    """Counts the pixels of each class in each example.

    Only one label per thread is in memory at a time.

    Returns:
      int64 [N,K+1]; the last column counts the ignored pixels.

    Raises:
      DataError: the set has no labels, or a file cannot be read.
    """
    if dataset.labelling is None:
        raise DataError(f"{dataset.name}: has no labels to count")
    classes = len(dataset.classes)
    counts = np.zeros((len(dataset), classes + 1), np.int64)

    def count(i: int) -> None:
        histogram = np.bincount(decode.label(dataset, i).ravel(), minlength=IGNORE + 1)
        counts[i, :classes] = histogram[:classes]
        counts[i, classes] = histogram[IGNORE]

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for _ in pool.map(count, range(len(dataset))):
            pass
    return counts


def counted(dataset: Dataset, path: pathlib.Path, *, threads: int | None = None) -> np.ndarray:
    """Returns `class_counts` without the ignored column, cached in a file.

    The labels are counted anew if the file is damaged or describes other examples, other classes
    or label files that have changed since.

    Args:
      dataset: a labelled set.
      path: the cache, `.npz`.
      threads: of decoding; default one per core.

    Returns:
      int64 [N,K].
    """
    about = {
        "name": np.array(dataset.name),
        "keys": np.array([json.dumps(key) for key in dataset.keys]),  # any name as ASCII
        "classes": np.array(dataset.classes.names),
        "labels": np.array([repr(dataset.labelling), dataset.reader.fingerprint(labels=True)]),
    }
    cached = read_npz(path)
    same = all(name in cached and np.array_equal(cached[name], v) for name, v in about.items())
    shape = (len(dataset), len(dataset.classes))
    if same and "counts" in cached and cached["counts"].shape == shape:
        return cached["counts"]
    counts = class_counts(dataset, threads=threads)[:, :-1]
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, counts=counts, **about)
    return counts


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; none if the file is missing or damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # a damaged archive can raise anything
        return {}


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Returns the share of each class in the valid pixels, float64 [K].

    Args:
      counts: pixels of each class, [K] or [N,K].
    """
    total = counts.reshape(-1, counts.shape[-1]).sum(axis=0).astype(np.float64)
    return total / max(total.sum(), 1.0)


def enet_weights(frequency: np.ndarray, *, c: float = 1.02) -> np.ndarray:
    """Returns ENet's class weights 1 / ln(c + f), float64 [K] (Paszke et al. 2016)."""
    return 1.0 / np.log(c + np.asarray(frequency, np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class RareClass:
    """Draws source images by class: a class, rare ones more often, then an image that shows it.

    P(c) is proportional to exp((1 - f_c) / temperature), where f_c is the share of class c in the
    valid pixels (Hoyer et al., DAFormer, 2022, eq. 9).

    Attributes:
      counts: pixels of each class in each example, int [N,K] (`class_counts` without its last
        column).
      temperature: above 0. Towards 0 only the rarest class is drawn, towards infinity all classes
        equally often.
      min_pixels: an example shows a class if it has at least so many pixels of it.
    """

    counts: np.ndarray
    temperature: float = 0.01
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if not (self.counts >= self.min_pixels).any():
            raise DataError(f"no example has {self.min_pixels} pixels of any class")
        if self.temperature <= 0:
            raise DataError(f"temperature must be above 0, got {self.temperature}")

    def probabilities(self) -> np.ndarray:
        """Returns P(c), float64 [K]; 0 for classes that no example shows."""
        present = (self.counts >= self.min_pixels).any(axis=0)
        logits = np.where(present, (1 - frequencies(self.counts)) / self.temperature, -np.inf)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Source crops offered for long-tail class pasting (Zheng et al., TUFL).

    Each candidate is drawn from (seed, position in the stream) alone: a class, uniformly; an
    example that shows it, uniformly; and a crop of that example, uniformly among the crops that
    show the class. The original code draws images and crops until the class is visible, at most
    1000 times; counting the visible crops needs one draw. Which candidates are pasted is decided
    on the device (`rtda_jax.augment`).

    Attributes:
      counts: pixels of each class in each example, int [N,K] (`class_counts` without its last
        column).
      slots: candidates per example, S.
      probability: of an example being offered any.
      classes: the classes drawn from; empty for all that some example shows.
      min_pixels: an example shows a class if it has at least so many pixels of it.
    """

    counts: np.ndarray
    slots: int
    probability: float = 0.3
    classes: tuple[int, ...] = ()
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise DataError(f"candidates need at least one slot, got {self.slots}")
        if not 0 <= self.probability <= 1:
            raise DataError(f"candidates need a probability, got {self.probability:g}")
        wrong = [c for c in self.classes if not 0 <= c < self.counts.shape[1]]
        if wrong:
            raise DataError(f"classes {wrong} are not among the {self.counts.shape[1]} classes")
        if not len(self.drawn):
            raise DataError(
                f"no example has {self.min_pixels} pixels of any class that could be pasted"
            )

    @property
    def drawn(self) -> np.ndarray:
        """The classes that are drawn from: those asked for that some example shows."""
        present = np.flatnonzero((self.counts >= self.min_pixels).any(axis=0))
        return np.intersect1d(present, self.classes) if self.classes else present
