"""The ground: lanes, markings, sidewalks, green strips and crossings."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from rtda_jax.data.streets.canvas import Canvas
from rtda_jax.data.streets.dice import Dice


@dataclass(frozen=True)
class Street:
    """The cross-section of a street, as offsets in metres from the camera, and its junction.

    Attributes:
      left, right: edges of the carriageway, parking lanes included.
      lane: width of a lane.
      dividers: between lanes of one direction.
      centre: the divider between the two directions.
      parking: whether there is a parking lane, left and right.
      strips: widths of the green strips, left and right.
      walks: widths of the sidewalks, left and right.
      median: width of the green strip between the directions; 0 for none.
      junction: its near and far depth; None where there is none.
    """

    left: float
    right: float
    lane: float
    dividers: tuple[float, ...]
    centre: float
    parking: tuple[bool, bool]
    strips: tuple[float, float]
    walks: tuple[float, float]
    median: float
    junction: tuple[float, float] | None

    @property
    def edges(self) -> tuple[float, float]:
        """The offsets at which the sidewalks end and the frontage begins."""
        return (
            self.left - self.strips[0] - self.walks[0],
            self.right + self.strips[1] + self.walks[1],
        )


def lay_out(canvas: Canvas, dice: Dice) -> Street:
    """Draws a street; the camera drives in the lane right of the divider between directions."""
    layout = canvas.domain.layout
    lane = dice.between(layout.lane_width)
    ours, theirs = dice.pick(layout.lanes), dice.pick(layout.lanes)
    median = dice.uniform(1.5, 3.0) if dice.chance(layout.median) else 0.0
    at = dice.uniform(-0.5, 0.5)  # where in the lane we drive
    own = int(dice.unit() * ours)
    centre = at - lane / 2 - own * lane
    parking = (dice.chance(layout.parking), dice.chance(layout.parking))
    strips = tuple(dice.uniform(1.2, 3.5) if dice.chance(layout.strip) else 0.0 for _ in range(2))
    walks = (dice.between(layout.sidewalk), dice.between(layout.sidewalk))
    inner_left, inner_right = centre - median, centre
    dividers = tuple(inner_left - k * lane for k in range(1, theirs + parking[0])) + tuple(
        inner_right + k * lane for k in range(1, ours + parking[1])
    )
    near = dice.uniform(16, 60)
    junction = (near, near + dice.uniform(9, 14)) if dice.chance(layout.junction) else None
    return Street(
        left=inner_left - theirs * lane - 2.4 * parking[0],
        right=inner_right + ours * lane + 2.4 * parking[1],
        lane=lane, dividers=dividers, centre=centre, parking=parking,
        strips=(strips[0], strips[1]), walks=walks, median=median, junction=junction,
    )  # fmt: skip


def paint_ground(canvas: Canvas, dice: Dice, street: Street, *, rails: float | None) -> None:
    """Fills every row below the horizon; `rails` is the offset of a tram track, if any."""
    view, palette = canvas.view, canvas.domain.palette

    def flat(label: str, name: str, surface: str) -> int:
        colour = dice.tint(dice.pick(palette[name]), 0.6 * canvas.domain.layout.trim)
        return canvas.material(label, colour, face="ground", surface=surface)

    road = flat("road", "road", "asphalt")
    walk, grass = flat("sidewalk", "sidewalk", "paving"), flat("terrain", "terrain", "grass")
    curb, verge = flat("sidewalk", "curb", ""), flat("terrain", "terrain", "grass")
    paint = canvas.material("road", palette["marking"][0], face="ground", surface="asphalt")
    rail = canvas.material("road", palette["rail"][0], face="ground")

    top = max(int(np.floor(view.horizon)) + 1, 0)
    rows = np.arange(top, view.rows, dtype=np.float32) + np.float32(0.5 - view.horizon)
    z = np.float32(view.focal * view.height) / rows
    np.minimum(z, np.float32(400), out=z)
    offset = canvas.slopes[None, :] * z[:, None] - (np.float32(view.bend) * z * z)[:, None]
    canvas.depth[top:] = z[:, None]

    (strip_l, strip_r), (far_l, far_r) = street.strips, street.edges
    bounds = [
        far_l, street.left - max(strip_l, 0.2), street.left - 0.2, street.left,
        street.centre - street.median, street.centre,
        street.right, street.right + 0.2, street.right + max(strip_r, 0.2), far_r,
    ]  # fmt: skip
    zones = [verge, walk, grass, curb, road, grass, road, curb, grass, walk, verge]
    index = np.zeros(offset.shape, np.uint8)
    for bound in bounds:
        index += offset >= np.float32(bound)
    ids = np.array(zones, np.int16)[index]

    def line(at: float, half: float, rows_on: np.ndarray, material: int) -> None:
        first, last = _reach(canvas, at - half, at + half, z)
        band = offset[:, first:last]
        hit = (np.abs(band - np.float32(at)) < np.float32(half)) & rows_on[:, None]
        np.copyto(ids[:, first:last], material, where=hit)

    dashed = (z / np.float32(8)) % 1 < np.float32(0.5)
    solid = np.ones_like(dashed)
    for divider in street.dividers:
        line(divider, 0.09, dashed, paint)
    if not street.median:
        line(street.centre, 0.1, dashed if dice.chance(0.5) else solid, paint)
    for edge, inward, parking in (
        (street.left, 1, street.parking[0]), (street.right, -1, street.parking[1])
    ):  # fmt: skip
        line(edge + inward * (2.4 if parking else 0.3), 0.07, solid, paint)
    if rails is not None:
        for at in (rails - 0.72, rails + 0.72):
            line(at, 0.06, solid, rail)
    if street.junction:
        near, far = street.junction
        ids[(z >= near) & (z < far)] = road
        stripes = (offset % 1.2 < 0.6) & (offset > street.left) & (offset < street.right)
        for start in (near - 4.0, far + 1.0):
            np.copyto(ids, paint, where=stripes & ((z >= start) & (z < start + 3))[:, None])
    canvas.ids[top:] = ids


def _reach(canvas: Canvas, x0: float, x1: float, z: np.ndarray) -> tuple[int, int]:
    """Returns the columns that the ground between two offsets can touch at any depth `z`."""
    ends = [canvas.view.column(x, float(d)) for x in (x0, x1) for d in (z[0], z[-1])]
    turn = abs(canvas.view.bend)
    if turn > 0:
        ends += [canvas.view.column(x, sqrt(abs(x) / turn) or 1.0) for x in (x0, x1)]
    return max(int(min(ends)) - 1, 0), min(max(int(max(ends)) + 2, 0), canvas.view.columns)
