"""The components of a domain of streets: random draws, textures, layout, palette and optics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[float, float, float]
Range = tuple[float, float]

# Cityscapes label ids of everything that a street scene contains.
LABEL_IDS = {
    "unlabeled": 0, "ego vehicle": 1, "static": 4,
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip

TYRE: Colour = (28, 28, 30)  # the same in both domains

# Textures are tileable patterns of SIZE x SIZE texels in [-1, 1], the same in every process.
SIZE = 128
PATTERNS = ("plain", "grain", "leaves", "brick", "plaster", "slats", "panels", "stone")


class Dice:
    """Draws scalars for the layout of a scene, a pure function of one PCG64 stream.

    They are Python floats from blocks of the generator, far cheaper than single draws.
    """

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


Finish = Callable[[np.ndarray, np.ndarray, np.ndarray, Dice, np.random.Generator], np.ndarray]


class Windows(NamedTuple):
    """Window panes on a wall.

    Attributes:
      pitch_u, pitch_v: metres from pane to pane, along the wall and up it.
      open_u, open_v: share of the pitch that is glass.
      glass: colour.
    """

    pitch_u: float
    pitch_v: float
    open_u: float
    open_v: float
    glass: Colour


@dataclass(frozen=True)
class Layout:
    """How often things occur and how large they are.

    Lengths are in metres, ranges are uniform, and single numbers are probabilities unless their
    comment says otherwise.
    """

    focal: Range  # of the image width
    horizon: Range  # of the image height
    yaw: Range  # of the image width
    height: Range
    bend: Range
    lanes: tuple[int, ...]
    lane_width: Range
    sidewalk: Range
    frontage: Mapping[str, float]
    storeys: tuple[int, int]
    strip: float  # probability of a green strip between road and sidewalk, each side
    median: float
    junction: float
    parking: float  # probability of a parking lane, each side
    parked: float  # probability that one of its places is taken
    tree_gap: Range
    trees: float  # probability of a row of trees, each side
    pole_gap: Range
    light: float
    sign: float
    traffic: Mapping[str, float]  # share of vehicle kinds among moving traffic
    moving: tuple[int, int]
    people: tuple[int, int]
    train: float
    cyclist: float
    motorcyclist: float
    bicycle: float
    motorcycle: float
    bin: float
    ragged: float  # how torn the rims of trees are
    trim: float  # how much the colours of one kind of thing vary in brightness


@dataclass(frozen=True)
class Domain:
    """A domain of street scenes.

    Attributes:
      number: its own, part of the seed of its scenes.
      layout: how often things occur and how large they are.
      palette: the colours that each kind of thing may have.
      facades: colour and surface of buildings.
      textures: surface -> texture.
      sun: how much brighter the sunny sides are.
      shadow: the factor of the ground's brightness in a shadow.
      hood: probability that the hood of our own car is in view.
      finish: (colour, depth, labels, dice, generator) -> image: the camera that turns linear
        colour [H, W, 3] in 0 to 255 into uint8 [H, W, 3].
    """

    number: int
    layout: Layout
    palette: Mapping[str, tuple[Colour, ...]]
    facades: tuple[tuple[Colour, str], ...]
    textures: Mapping[str, Texture]
    sun: float
    shadow: float
    hood: float
    finish: Finish
