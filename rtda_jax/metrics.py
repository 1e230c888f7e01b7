"""Scores of a segmentation, all computed from one confusion matrix over a whole data set."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import lookup
from rtda_jax.losses import IGNORE


def confusion_matrix(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Counts the pixels of each pair of classes, int32 [K,K]; rows are truth, columns predictions.

    Args:
      labels: integer, of any shape, 0..K-1 or 255 where the pixel is ignored.
      predictions: integer 0..K-1, of the shape of labels.
      num_classes: K.

    Returns:
      The counts of the given pixels; add them up over batches on the host, in int64.

    Raises:
      ValueError: a label or the prediction of a labelled pixel is no class. In a compiled function,
        which cannot raise, such pixels are not counted.
    """
    labels = jnp.asarray(labels).reshape(-1).astype(jnp.int32)
    predictions = jnp.asarray(predictions).reshape(-1).astype(jnp.int32)
    bins = num_classes * num_classes
    strange = (labels != IGNORE) & ~(_among(labels, num_classes) & _among(predictions, num_classes))
    if not isinstance(strange, jax.core.Tracer) and strange.any():
        label, prediction = int(labels[strange][0]), int(predictions[strange][0])
        raise ValueError(
            f"labels must be 0..{num_classes - 1} or {IGNORE}, and predictions 0.."
            f"{num_classes - 1}; a pixel of label {label} is predicted as {prediction}"
        )
    cell = jnp.where((labels == IGNORE) | strange, bins, labels * num_classes + predictions)
    counts = jnp.bincount(cell, length=bins + 1)[:bins]
    return counts.reshape(num_classes, num_classes).astype(jnp.int32)


def _among(classes: jax.Array, num_classes: int) -> jax.Array:
    return (classes >= 0) & (classes < num_classes)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Computes intersection over union, float64 [K]; nan if a class is neither true nor predicted.

    Args:
      confusion: counts [K,K], rows the truth.
    """
    confusion = np.asarray(confusion, np.int64)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    with np.errstate(invalid="ignore"):
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def _left_out(iou: np.ndarray) -> np.ndarray:
    return iou[~np.isnan(iou)]


# How a class that is neither true nor predicted enters the mean: functions of the IoU [R], with nan
# for such a class, which return the values to average.
ABSENT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "left_out": _left_out,  # the benchmark of Cityscapes, AdaptSegNet and its successors
    "zero": np.nan_to_num,  # taveraantonio/BiseNetv1 and its forks: Brunstein, Bartoletti
}


def mean_iou(
    confusion: np.ndarray, rows: Sequence[int] | None = None, *, absent: str = "left_out"
) -> float:
    """Computes the mean IoU, by default over the classes that occur; nan if there are none.

    Args:
      confusion: counts [K,K], rows the truth.
      rows: the classes to average, all by default. Pixels of other classes that are predicted as
        one of these still count as errors.
      absent: what an absent class adds, a key of `ABSENT`.
    """
    iou = iou_per_class(confusion)[_classes(confusion, rows)]
    values = lookup(ABSENT, absent, "eval.absent")(iou)
    return float("nan") if np.isnan(iou).all() else float(values.mean())


def pixel_accuracy(confusion: np.ndarray, rows: Sequence[int] | None = None) -> float:
    """Computes the share of pixels that are classified correctly; nan if there are no pixels.

    Args:
      confusion: counts [K,K], rows the truth.
      rows: the classes whose true pixels count, all by default.
    """
    confusion, chosen = np.asarray(confusion, np.int64), _classes(confusion, rows)
    total = confusion[chosen].sum()
    return float(confusion[chosen, chosen].sum() / total) if total else float("nan")


def _classes(confusion: np.ndarray, rows: Sequence[int] | None) -> list[int]:
    return list(range(len(confusion)) if rows is None else rows)
