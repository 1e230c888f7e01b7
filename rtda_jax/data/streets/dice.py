"""Scalar random draws for scene layout, a pure function of one PCG64 stream."""

from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[float, float, float]
Range = tuple[float, float]


class Dice:
    """Python floats handed out from blocks of one generator: far cheaper than scalar calls."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._block: list[float] = []

    def unit(self) -> float:
        """A float in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(1024).tolist()
        return self._block.pop()

    def near(self) -> float:
        """A float in [0, 1) that prefers small values: u^1.5 of a uniform u."""
        value = self.unit()
        return value * sqrt(value)

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.unit()

    def between(self, bounds: Range) -> float:
        """A float in the half-open range `bounds`."""
        return self.uniform(bounds[0], bounds[1])

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: dict[str, float]) -> str:
        """One key of `weights`, likely in proportion to its value."""
        left = self.unit() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                return name
        return name

    def tint(self, colour: Colour, amount: float) -> Colour:
        """`colour` made brighter or darker by up to the fraction `amount`."""
        gain = self.uniform(1 - amount, 1 + amount)
        return (colour[0] * gain, colour[1] * gain, colour[2] * gain)
