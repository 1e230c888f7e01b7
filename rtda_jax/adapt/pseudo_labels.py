"""From a network's confidence to labels with ignore: fuse, threshold each class, drop the rest.

The threshold of a class is the `cut` quantile of the confidences of its pixels, at most `cap`: the
surer part of every class is kept, and whatever is surer than `cap` (Li et al. 2019, BDL: cut 0.5;
Yang & Soatto 2020: 0.66; cap 0.9 in both). Over a data set the quantile comes from a histogram, so
that memory does not grow with the set; of one image (S2) it is exact.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import lookup

IGNORE = 255
BINS = 4096


def _mean(maps: jax.Array) -> jax.Array:
    return maps.mean(axis=0)


def _most_confident(maps: jax.Array) -> jax.Array:
    """The map with the highest maximum at each pixel; the first of equals."""
    surest = maps.max(axis=-1).argmax(axis=0)[None, ..., None]
    return jnp.take_along_axis(maps, surest, axis=0)[0]


def _majority(maps: jax.Array) -> jax.Array:
    """Votes for the class with the most maps behind it; the surest voter decides between equals.

    The winner's score is the confidence of its surest voter, all others are 0.
    """
    votes = jax.nn.one_hot(maps.argmax(axis=-1), maps.shape[-1])
    surest = (votes * maps).max(axis=0)
    winner = (votes.sum(axis=0) + 0.5 * surest).argmax(axis=-1)
    return jax.nn.one_hot(winner, maps.shape[-1]) * surest


FUSIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean": _mean,  # FDA's multi-band transfer
    "most_confident": _most_confident,  # what S2 computes and calls majority voting
    "majority": _majority,  # what S2 describes
}


def fuse(maps: jax.Array, *, fusion: str) -> tuple[jax.Array, jax.Array]:
    """Label and confidence of every pixel from several softmax maps of it.

    Args:
      maps: float [M,...,K], of M models or layers.
      fusion: a key of `FUSIONS`; all are the same for M = 1.

    Returns:
      uint8 [...] in 0..K-1 and float32 [...] in [0,1].
    """
    fused = lookup(FUSIONS, fusion, "pseudo.fusion")(maps.astype(jnp.float32))
    return fused.argmax(axis=-1).astype(jnp.uint8), fused.max(axis=-1)


# Which of n sorted confidences the cut falls on: FDA, BDL and S2 round (half to even), S1 floors.
INDICES: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor}


def rank(count: int, *, cut: float, index: str) -> int:
    """The position in 0..count-1 of the threshold among `count` ascending confidences."""
    return min(lookup(INDICES, index, "pseudo.index")(cut * count), count - 1)


def histogram(
    labels: np.ndarray, confidence: np.ndarray, *, num_classes: int, bins: int = BINS
) -> np.ndarray:
    """How many pixels of each class have a confidence in each bin of [0,1], int64 [K,bins].

    Args:
      labels: uint8 [H,W].
      confidence: float [H,W] in [0,1].
      num_classes: K.
      bins: of equal width; 1 falls into the last.
    """
    where = np.minimum((confidence * np.float32(bins)).astype(np.int64), bins - 1)
    flat = labels.astype(np.int64) * bins + where
    return np.bincount(flat.ravel(), minlength=num_classes * bins).reshape(num_classes, bins)


def thresholds(counts: np.ndarray, *, cut: float, cap: float, index: str) -> np.ndarray:
    """The threshold of each class from a histogram, float64 [K]; 0 where a class is absent.

    It is the lower edge of the bin that holds the exact one: less than a bin below it.
    """
    bins = counts.shape[1]
    found = np.zeros(len(counts))
    for k, row in enumerate(counts):
        total = int(row.sum())
        if total:
            position = rank(total, cut=cut, index=index)
            found[k] = min(np.searchsorted(row.cumsum(), position, side="right") / bins, cap)
    return found


def exact_thresholds(
    labels: np.ndarray,
    confidence: np.ndarray,
    *,
    num_classes: int,
    cut: float,
    cap: float,
    index: str,
) -> np.ndarray:
    """The threshold of each class from the pixels of one image themselves, float64 [K]."""
    found = np.zeros(num_classes)
    for k in range(num_classes):
        values = confidence[labels == k]
        if values.size:
            position = rank(values.size, cut=cut, index=index)
            found[k] = min(float(np.partition(values, position)[position]), cap)
    return found


def assign(labels: np.ndarray, confidence: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The labels uint8 [H,W], 255 where a pixel is less confident than its class's limit."""
    return np.where(confidence < limits[labels], np.uint8(IGNORE), labels)


def check(*, fusion: str, cut: float, cap: float, index: str, maps: int) -> None:
    """Raise ValueError for a rule that is unknown or makes no sense."""
    lookup(FUSIONS, fusion, "pseudo.fusion")
    lookup(INDICES, index, "pseudo.index")
    if not 0 <= cut < 1:
        raise ValueError(f"pseudo.cut must lie in [0, 1), got {cut:g}")
    if not 0 < cap <= 1:
        raise ValueError(f"pseudo.cap must lie in (0, 1], got {cap:g}")
    if maps < 3 and fusion == "majority":
        raise ValueError(f"pseudo.fusion='majority' needs at least three votes, got {maps}")
