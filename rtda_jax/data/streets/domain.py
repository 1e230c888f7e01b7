"""What distinguishes one domain of streets from another: layout, palette, textures, optics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rtda_jax.data.streets.dice import Colour, Dice, Range
from rtda_jax.data.streets.patterns import Texture

# Cityscapes label ids of everything that a street scene contains.
LABEL_IDS = {
    "unlabeled": 0, "ego vehicle": 1, "static": 4,
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip

TYRE: Colour = (28, 28, 30)  # the same in both domains

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
      shadow: what a shadow leaves of the ground's brightness.
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
