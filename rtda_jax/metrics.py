"""Scores from one confusion matrix over a whole set; ignored pixels count nowhere."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.losses import IGNORE


def confusion_matrix(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Pixel counts int32 [K,K], rows the truth and columns the prediction.

    Args:
      labels: integer, any shape, 0..K-1 or 255 where the pixel is ignored.
      predictions: integer 0..K-1, the shape of labels.
      num_classes: K.

    Returns:
      Counts of the given pixels; sum them over batches on the host in int64.
    """
    labels = jnp.asarray(labels).reshape(-1).astype(jnp.int32)
    predictions = jnp.asarray(predictions).reshape(-1).astype(jnp.int32)
    bins = num_classes * num_classes
    cell = jnp.where(labels == IGNORE, bins, labels * num_classes + predictions)
    counts = jnp.bincount(cell, length=bins + 1)[:bins]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union float64 [K]; nan where a class is neither true nor predicted."""
    confusion = np.asarray(confusion, np.int64)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    with np.errstate(invalid="ignore"):
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray, rows: Sequence[int] | None = None) -> float:
    """Mean IoU of the classes `rows` (default all) that occur; nan if none does.

    What is predicted as one of the other classes still counts against the reported ones.
    """
    iou = iou_per_class(confusion)[_of(confusion, rows)]
    return float(iou[~np.isnan(iou)].mean()) if (~np.isnan(iou)).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray, rows: Sequence[int] | None = None) -> float:
    """Share of the pixels of the classes `rows` (default all) that are right; nan without any."""
    confusion, chosen = np.asarray(confusion, np.int64), _of(confusion, rows)
    total = confusion[chosen].sum()
    return float(confusion[chosen, chosen].sum() / total) if total else float("nan")


def _of(confusion: np.ndarray, rows: Sequence[int] | None) -> list[int]:
    return list(range(len(confusion)) if rows is None else rows)
