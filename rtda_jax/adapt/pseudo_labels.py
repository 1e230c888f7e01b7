"""Pseudo-labels: fuse predictions, choose a threshold for each class, ignore pixels below it.

The threshold of a class is the `cut` quantile of the confidences of its pixels, but at most `cap`.
The more confident pixels of every class therefore keep their labels, and so does every pixel above
`cap` (Li et al. 2019, BDL: cut 0.5; Yang and Soatto 2020, FDA: 0.66; cap 0.9 in both). Over a data
set the quantile comes from a histogram, so that memory does not grow with the set. For a single
image (Bartoletti) it is exact.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import lookup, one_of, require
from rtda_jax.losses import IGNORE

BINS = 4096


def _mean(maps: jax.Array) -> jax.Array:
    return maps.mean(axis=0)


def _most_confident(maps: jax.Array) -> jax.Array:
    """Returns the map with the highest maximum at each pixel, the first one among equals."""
    surest = maps.max(axis=-1).argmax(axis=0)[None, ..., None]
    return jnp.take_along_axis(maps, surest, axis=0)[0]


def _majority(maps: jax.Array) -> jax.Array:
    """Returns a score for the class that most maps vote for; the most confident map breaks ties.

    The winner's score is the confidence of its most confident map; all other scores are 0.
    """
    votes = jax.nn.one_hot(maps.argmax(axis=-1), maps.shape[-1])
    surest = (votes * maps).max(axis=0)
    winner = (votes.sum(axis=0) + 0.5 * surest).argmax(axis=-1)
    return jax.nn.one_hot(winner, maps.shape[-1]) * surest


FUSIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean": _mean,  # FDA's multi-band transfer
    "most_confident": _most_confident,  # Bartoletti's code, which calls it majority voting
    "majority": _majority,  # Bartoletti's text
}


def fuse(maps: jax.Array, *, fusion: str) -> tuple[jax.Array, jax.Array]:
    """Returns the label and the confidence of every pixel from several softmax maps of it.

    Args:
      maps: float [M,...,K], of M models or layers.
      fusion: a key of `FUSIONS`; all agree for M = 1.

    Returns:
      uint8 [...] in 0..K-1 and float32 [...] in [0,1].
    """
    fused = lookup(FUSIONS, fusion, "pseudo.fusion")(maps.astype(jnp.float32))
    return fused.argmax(axis=-1).astype(jnp.uint8), fused.max(axis=-1)


# The position of the cut among n sorted confidences. FDA, BDL and Bartoletti round (half to even),
# Nikiforos rounds down.
INDICES: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor}


SCOPES = ("dataset", "image")
SPLITS = ("target", "eval")


@dataclasses.dataclass(frozen=True)
class PseudoLabelOptions:
    """The section `pseudo` of a configuration: how a pseudo_label stage labels the target.

    Attributes:
      heads: the outputs of every model whose softmax is fused.
      fusion: a key of `FUSIONS`.
      scope: whether the thresholds per class are for the whole "dataset" or for each "image".
      cut: the quantile of a class's confidences that is its threshold, in [0, 1).
      cap: the highest threshold, in (0, 1].
      index: how the quantile is rounded to a position, a key of `INDICES`.
      split: the images of the benchmark that are labelled: "target", or "eval", on which scores are
        measured.
    """

    heads: tuple[str, ...] = ("logits",)
    fusion: str = "mean"
    scope: str = "dataset"
    cut: float = 0.5
    cap: float = 0.9
    index: str = "round"
    split: str = "target"

    def __post_init__(self) -> None:
        require(self.heads, "pseudo.heads must name at least one output")
        one_of(self.fusion, FUSIONS, "pseudo.fusion")
        one_of(self.scope, SCOPES, "pseudo.scope")
        require(0 <= self.cut < 1, f"pseudo.cut must lie in [0, 1), got {self.cut:g}")
        require(0 < self.cap <= 1, f"pseudo.cap must lie in (0, 1], got {self.cap:g}")
        one_of(self.index, INDICES, "pseudo.index")
        one_of(self.split, SPLITS, "pseudo.split")

    def check_votes(self, models: int) -> None:
        """Refuses a majority of fewer than three votes.

        Args:
          models: how many networks label the images.

        Raises:
          ConfigError: names the number of votes.
        """
        votes = models * len(self.heads)
        require(
            votes >= 3 or self.fusion != "majority",
            f"pseudo.fusion='majority' needs at least three votes, got {votes}",
        )


def rank(count: int, *, cut: float, index: str) -> int:
    """Returns the position in 0..count-1 of the threshold among `count` ascending confidences."""
    return min(lookup(INDICES, index, "pseudo.index")(cut * count), count - 1)


def histogram(
    labels: np.ndarray, confidence: np.ndarray, *, num_classes: int, bins: int = BINS
) -> np.ndarray:
    """Counts the pixels of each class in each bin of confidence over [0,1], int64 [K,bins].

    Args:
      labels: uint8 [H,W].
      confidence: float [H,W] in [0,1].
      num_classes: K.
      bins: the number of bins of equal width; the confidence 1 falls into the last one.
    """
    where = np.minimum((confidence * np.float32(bins)).astype(np.int64), bins - 1)
    flat = labels.astype(np.int64) * bins + where
    return np.bincount(flat.ravel(), minlength=num_classes * bins).reshape(num_classes, bins)


def thresholds(counts: np.ndarray, *, cut: float, cap: float, index: str) -> np.ndarray:
    """Returns the threshold of each class from a histogram, float64 [K]; 0 for an absent class.

    It is the lower edge of the bin that contains the exact threshold, so it is too low by less than
    a bin.
    """
    bins = counts.shape[1]
    limits = np.zeros(len(counts))
    for k, row in enumerate(counts):
        total = int(row.sum())
        if total:
            position = rank(total, cut=cut, index=index)
            limits[k] = min(np.searchsorted(row.cumsum(), position, side="right") / bins, cap)
    return limits


def exact_thresholds(
    labels: np.ndarray,
    confidence: np.ndarray,
    *,
    num_classes: int,
    cut: float,
    cap: float,
    index: str,
) -> np.ndarray:
    """Returns the exact threshold of each class from the pixels of one image, float64 [K]."""
    limits = np.zeros(num_classes)
    for k in range(num_classes):
        values = confidence[labels == k]
        if values.size:
            position = rank(values.size, cut=cut, index=index)
            limits[k] = min(float(np.partition(values, position)[position]), cap)
    return limits


def assign(labels: np.ndarray, confidence: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the labels uint8 [H,W], 255 where the confidence is below the class's threshold."""
    return np.where(confidence < limits[labels], np.uint8(IGNORE), labels)
