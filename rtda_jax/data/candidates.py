"""Crops that show a class: what long-tail class pasting takes its objects from (TUFL, S4).

A candidate of a position of the stream is drawn from (seed, position) alone: a class, uniformly, an
example that contains it, uniformly, and a crop of it, uniformly among the crops that show the
class. The original tries images and crops until the class is visible, at most 1000 times; here the
visible crops are counted, so that one look is enough. Which candidates are pasted is decided on
the device (`rtda_jax.augment.mixing`).
"""

import dataclasses
from typing import Any

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE
from rtda_jax.data.lazy_tf import tensorflow

Tensor = Any
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """How many candidates an example gets and what they show.

    Attributes:
      counts: pixels of each class in each example, int [N,K] (statistics.class_counts without its
        last column).
      slots: candidates per example, S.
      probability: that an example gets any.
      classes: those drawn from; empty: all that some example contains.
      min_pixels: an example contains a class from so many pixels on.
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
        """The classes drawn from that some example contains."""
        present = np.flatnonzero((self.counts >= self.min_pixels).any(axis=0))
        return np.intersect1d(present, self.classes) if self.classes else present

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Is there any (bool); classes and examples, int64 [S]; numbers in [0,1), [S]."""
        tf = tensorflow()
        numbers = tf.random.stateless_uniform(
            [3 * self.slots + 1], seed=key, dtype=tf.float64, alg="philox"
        )
        classes, examples = self._index()
        by_slot = tf.reshape(numbers[1:], [self.slots, 3])
        kind = _place(by_slot[:, 0], tf.constant(len(classes), tf.int64))
        sizes = tf.constant([len(e) for e in examples], tf.int64)
        first = tf.constant(np.cumsum([0, *(len(e) for e in examples[:-1])]), tf.int64)
        size = tf.gather(sizes, kind)
        at = tf.gather(first, kind) + _place(by_slot[:, 1], size)
        index = tf.gather(tf.constant(np.concatenate(examples), tf.int64), at)
        chosen = tf.gather(tf.constant(classes, tf.int64), kind)
        return numbers[0] < self.probability, chosen, index, by_slot[:, 2]

    def _index(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The classes, and the examples that contain each."""
        classes = self.drawn
        contains = self.counts >= self.min_pixels
        return classes, [np.flatnonzero(contains[:, c]) for c in classes]


def check_sizes(size: Size | None, crop: Size | None) -> tuple[Size, Size]:
    """Both sizes; DataError where one is missing or the crop is larger."""
    if size is None or crop is None or np.any(np.less(size, crop)):
        raise DataError("candidates need a size and a crop within it")
    return size, crop


def stacked(
    candidates: Candidates, key: Tensor, *, size: Size, crop: Size, decoded: Any
) -> dict[str, Tensor]:
    """The candidates of one example, as tensors.

    Args:
      candidates: what is drawn.
      key: stateless seed [2].
      size: images are resized to.
      crop: of the batch, at most `size`.
      decoded: a function from an example's index to its image and label.

    Returns:
      candidate_images uint8 [S,h,w,3], candidate_labels uint8 [S,h,w] and candidate_classes
      uint8 [S]; labels and classes are 255 where there is none.
    """
    tf = tensorflow()
    present, classes, indices, numbers = candidates.draw(key)

    def one(slot: int) -> tuple[Tensor, Tensor]:
        image, label = decoded(indices[slot])
        image, label = decode.resized(image, size), decode.resized_label(label, size)
        shown = tf.equal(tf.cast(label, tf.int64), classes[slot])
        y, x = visible(shown, crop=crop, number=numbers[slot])
        rows, columns = slice(y, y + crop[0]), slice(x, x + crop[1])
        return image[rows, columns], label[rows, columns]

    def found() -> tuple[Tensor, Tensor, Tensor]:
        pairs = [one(slot) for slot in range(candidates.slots)]
        images, labels = (tf.stack(list(x)) for x in zip(*pairs, strict=True))
        return images, labels, tf.cast(classes, tf.uint8)

    def none() -> tuple[Tensor, Tensor, Tensor]:
        ignored = tf.constant(IGNORE, tf.uint8)
        return (
            tf.zeros([candidates.slots, *crop, 3], tf.uint8),
            tf.fill([candidates.slots, *crop], ignored),
            tf.fill([candidates.slots], ignored),
        )

    images, labels, kinds = tf.cond(present, found, none)
    return {
        "candidate_images": tf.ensure_shape(images, [candidates.slots, *crop, 3]),
        "candidate_labels": tf.ensure_shape(labels, [candidates.slots, *crop]),
        "candidate_classes": tf.ensure_shape(kinds, [candidates.slots]),
    }


def visible(shown: Tensor, *, crop: Size, number: Tensor) -> tuple[Tensor, Tensor]:
    """A corner (y, x), int32, of a crop with a pixel that is shown; any crop if there is none.

    Args:
      shown: bool [H,W], at least as large as the crop.
      crop: (h, w).
      number: float64 in [0,1), which of the crops.
    """
    tf = tensorflow()
    summed = tf.pad(tf.cast(shown, tf.int32), [[1, 0], [1, 0]])
    summed = tf.cumsum(tf.cumsum(summed, axis=0), axis=1)
    h, w = crop
    height, width = tf.shape(shown)[0] - h + 1, tf.shape(shown)[1] - w + 1
    inside = summed[h:, w:] - summed[:height, w:] - summed[h:, :width] + summed[:height, :width]
    places = tf.cond(
        tf.reduce_any(inside > 0),
        lambda: tf.where(inside > 0),
        lambda: tf.where(tf.equal(inside, inside)),
    )
    picked = tf.gather(places, _place(number, tf.shape(places, out_type=tf.int64)[0]))
    y, x = tf.unstack(tf.cast(picked, tf.int32))
    return y, x


def _place(number: Tensor, count: Tensor) -> Tensor:
    """A place in 0..count-1 from a number in [0,1)."""
    tf = tensorflow()
    return tf.minimum(tf.cast(number * tf.cast(count, tf.float64), tf.int64), count - 1)
