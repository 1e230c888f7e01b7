"""What tells one domain of streets from another: statistics, palette, textures and optics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rtda_jax.data.streets.dice import Colour, Dice, Range
from rtda_jax.data.streets.patterns import Texture

Finish = Callable[[np.ndarray, np.ndarray, np.ndarray, Dice, np.random.Generator], np.ndarray]


class Windows(NamedTuple):
    """Panes on a wall: pitch in metres and open fraction along it and up it, and the glass."""

    pitch_u: float
    pitch_v: float
    open_u: float
    open_v: float
    glass: Colour


@dataclass(frozen=True)
class Layout:
    """How often things occur and how large they are; lengths in metres, ranges uniform."""

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
    strip: float  # chance of a green strip between road and sidewalk, each side
    median: float
    junction: float
    parking: float  # chance of a parking lane, each side
    parked: float  # chance that one of its places is taken
    tree_gap: Range
    trees: float  # chance of a row of trees, each side
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
    """A layout with its palette (lists of colours), textures, sun, and the path to the sensor.

    `finish(colour, depth, labels, dice, generator)` turns linear colour [H, W, 3], 0 to 255, into
    the image uint8 [H, W, 3].
    """

    number: int
    layout: Layout
    palette: Mapping[str, tuple[Colour, ...]]
    facades: tuple[tuple[Colour, str], ...]
    textures: Mapping[str, Texture]
    sun: float  # how much brighter the sunny sides are
    shadow: float  # what a shadow leaves of the ground's brightness
    hood: float  # chance that the hood of our own car is in view
    finish: Finish
