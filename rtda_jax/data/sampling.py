"""What is drawn by the classes of images: rare classes, and candidates of long-tail pasting.

The draws themselves run inside the tf.data graph (`rtda_jax.data.pipeline`).
"""

import dataclasses

import numpy as np

from rtda_jax.data.counts import frequencies
from rtda_jax.errors import DataError


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
