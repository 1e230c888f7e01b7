"""Scalar random draws for scene layout, a pure function of one PCG64 stream."""

from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[float, float, float]
Range = tuple[float, float]


class Dice:
    """Hands out Python floats from blocks of one generator, far cheaper than single draws."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._block: list[float] = []

    def unit(self) -> float:
        """Returns a float in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(1024).tolist()
        return self._block.pop()

    def near(self) -> float:
        """Returns a float in [0, 1) that prefers small values: u^1.5 of a uniform u."""
        value = self.unit()
        return value * sqrt(value)

    def uniform(self, low: float, high: float) -> float:
        """Returns a float in [low, high)."""
        return low + (high - low) * self.unit()

    def between(self, bounds: Range) -> float:
        """Returns a float in the half-open range `bounds`."""
        return self.uniform(bounds[0], bounds[1])

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of `items`, all equally likely."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: dict[str, float]) -> str:
        """Returns one key of `weights`, with a probability in proportion to its value."""
        left = self.unit() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                return name
        return name

    def tint(self, colour: Colour, amount: float) -> Colour:
        """Returns a colour made brighter or darker by up to the fraction `amount`."""
        gain = self.uniform(1 - amount, 1 + amount)
        return (colour[0] * gain, colour[1] * gain, colour[2] * gain)
