"""Drawing training examples by the classes they contain."""

import dataclasses
from typing import Any

import numpy as np

from rtda_jax.data.errors import DataError
from rtda_jax.data.lazy_tf import tensorflow
from rtda_jax.data.statistics import frequencies


@dataclasses.dataclass(frozen=True, eq=False)
class RareClass:
    """Draw a class, rare ones more often, then one of the examples that contain it.

    P(c) is proportional to exp((1 - f_c) / temperature), f_c the share of c in the valid pixels
    (Hoyer et al., DAFormer, 2022, eq. 9).

    Attributes:
      counts: pixels of each class in each example, int [N,K] (statistics.class_counts without its
        last column).
      temperature: towards 0 only the rarest class is drawn, towards infinity all equally.
      min_pixels: an example contains a class from so many pixels on.
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
        """P(c), float64 [K]; 0 for classes that no example contains."""
        present = (self.counts >= self.min_pixels).any(axis=0)
        logits = np.where(present, (1 - frequencies(self.counts)) / self.temperature, -np.inf)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def draw(self, key: Any) -> Any:
        """An example's index, int64 tensor, from a stateless seed [2]."""
        tf = tensorflow()
        contains = self.counts >= self.min_pixels
        members = np.concatenate([np.flatnonzero(column) for column in contains.T])
        sizes = contains.sum(axis=0)
        first = np.cumsum(sizes) - sizes
        bounds = np.cumsum(self.probabilities())
        numbers = tf.random.stateless_uniform([2], seed=key, dtype=tf.float64, alg="philox")
        # Rounding may leave the last bound below 1: the last class that occurs takes the rest.
        last = int(np.flatnonzero(sizes)[-1])
        number = tf.searchsorted(tf.constant(bounds), numbers[:1] * bounds[-1], side="right")[0]
        number = tf.minimum(number, last)
        size = tf.gather(tf.constant(sizes, tf.int64), number)
        place = tf.cast(numbers[1] * tf.cast(size, tf.float64), tf.int64)
        place = tf.minimum(place, size - 1) + tf.gather(tf.constant(first, tf.int64), number)
        return tf.gather(tf.constant(members, tf.int64), place)
