"""Tileable 128 x 128 texture patterns in [-1, 1], the same in every process."""

from functools import cache
from typing import NamedTuple

import numpy as np

SIZE = 128
PATTERNS = ("plain", "grain", "leaves", "brick", "plaster", "slats", "panels", "stone")


class Texture(NamedTuple):
    """A place in `PATTERNS`, texels per metre, and how strongly it changes the brightness."""

    pattern: int
    scale: float
    amount: float


PLAIN = Texture(0, 1.0, 0.0)


def texture(pattern: str, *, scale: float, amount: float) -> Texture:
    """Returns a texture by the name of its pattern."""
    return Texture(PATTERNS.index(pattern), scale, amount)


def _noise(generator: np.random.Generator, cell: int) -> np.ndarray:
    """Returns bilinear value noise [SIZE, SIZE] with one random value per `cell` texels."""
    coarse = generator.integers(-128, 128, (SIZE // cell, SIZE // cell)).astype(np.float32) / 128
    position = np.arange(SIZE)
    low, weight = position // cell, ((position % cell) / np.float32(cell)).astype(np.float32)
    high = (low + 1) % (SIZE // cell)
    rows = coarse[low] * (1 - weight[:, None]) + coarse[high] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, high] * weight


@cache
def bank() -> np.ndarray:
    """Returns all patterns, float32 [len(PATTERNS), SIZE, SIZE]."""
    generator = np.random.Generator(np.random.PCG64(20210604))
    fine, mid, wide, broad = (_noise(generator, cell) for cell in (1, 4, 8, 32))
    row, column = np.indices((SIZE, SIZE))
    course = row // 8
    joint = (row % 8 == 0) | ((column + 8 * (course % 2)) % 16 == 0)
    tone = generator.integers(-60, 61, (SIZE // 8, SIZE // 16)).astype(np.float32) / 100
    brick = tone[course, ((column + 8 * (course % 2)) // 16) % (SIZE // 16)]
    block = generator.integers(-80, 81, (SIZE // 16, SIZE // 16)).astype(np.float32) / 100
    seam = (row % 16 == 0) | (column % 16 == 0)
    patterns: dict[str, np.ndarray] = {
        "plain": np.zeros((SIZE, SIZE), np.float32),
        "grain": 0.6 * fine + 0.3 * mid + 0.3 * broad,
        "leaves": 0.4 * fine + 0.6 * mid + 0.5 * wide,
        "brick": np.where(joint, np.float32(0.9), brick + 0.2 * fine),
        "plaster": 0.2 * fine + 0.4 * wide + 0.7 * broad,
        "slats": np.where(column % 8 < 4, np.float32(0.9), np.float32(-0.9)) + 0.2 * fine,
        "panels": np.where(seam, np.float32(-1), 0.25 * broad),
        "stone": np.where(seam, np.float32(-0.9), block[row // 16, column // 16] + 0.3 * fine),
    }
    return np.stack([np.clip(patterns[name], -1, 1).astype(np.float32) for name in PATTERNS])
