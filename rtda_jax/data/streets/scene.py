"""One street scene: lays out the street, places objects, and paints from far to near."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np

from rtda_jax.data.streets import traffic
from rtda_jax.data.streets.canvas import FAR, Canvas
from rtda_jax.data.streets.domain import Dice
from rtda_jax.data.streets.roadside import (
    FRONTAGE,
    bin_,
    bush,
    pole,
    traffic_light,
    traffic_sign,
    tree,
)

Queue = list[tuple[float, Callable[[], None]]]
REACH = 95.0


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


def paint_scene(canvas: Canvas, dice: Dice) -> None:
    """Paints a random street of the canvas's domain."""
    canvas.ids[:] = canvas.material("sky", canvas.domain.palette["sky"][0], face="sky")
    street = lay_out(canvas, dice)
    rails = None
    if dice.chance(canvas.domain.layout.train):
        rails = street.centre - street.median - street.lane / 2
    paint_ground(canvas, dice, street, rails=rails)
    _skyline(canvas, dice)
    queue: Queue = []
    taken: list[tuple[float, float, float]] = []  # objects: offset, near and far end
    for side in (-1, 1):
        _line_street(canvas, dice, queue, street, side)
        _furnish(canvas, dice, queue, street, side)
        _park(canvas, dice, queue, street, side)
    _drive(canvas, dice, queue, taken, street, rails)
    _populate(canvas, dice, queue, taken, street)
    queue.sort(key=lambda item: -item[0])
    for _, paint in queue:
        paint()


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


def _skyline(canvas: Canvas, dice: Dice) -> None:
    """Closes the street at its far end with houses and trees."""
    reach = 0.8 * canvas.view.columns / canvas.view.focal * FAR / 15
    z, x = FAR / 15, -reach
    while x < reach:
        width = dice.uniform(8, 22)
        bent = x - canvas.view.bend * z * z
        if dice.chance(0.6):
            colour, surface = dice.pick(canvas.domain.facades)
            house = canvas.material("building", colour, surface=surface)
            canvas.rect(bent, bent + width, 0, dice.uniform(6, 17), z, house)
        else:
            tree(canvas, dice, bent + width / 2, z, size=2.0)
            bush(canvas, dice, bent + width / 2, z)
        x += 0.8 * width


def _line_street(canvas: Canvas, dice: Dice, queue: Queue, street: Street, side: int) -> None:
    base = street.edges[0 if side < 0 else 1]
    z = dice.uniform(1, 6)
    kind = dice.weighted(dict(canvas.domain.layout.frontage))
    while z < REACH + 10:
        if dice.chance(0.45):
            kind = dice.weighted(dict(canvas.domain.layout.frontage))
        end = z + dice.uniform(9, 22)
        if street.junction and z < street.junction[1] + 2 and end > street.junction[0] - 2:
            if street.junction[0] - 2 - z > 5:
                end = street.junction[0] - 2
            else:
                z = street.junction[1] + 2
                continue
        x = base + side * dice.uniform(0.0, 0.8)
        queue.append((end, partial(FRONTAGE[kind], canvas, dice, x, z, end)))
        z = end + (dice.uniform(1, 6) if dice.chance(0.2) else 0.0)


def _clear(street: Street, z: float, margin: float) -> bool:
    """Returns whether depth `z` keeps its distance from the junction."""
    return not street.junction or not (
        street.junction[0] - margin < z < street.junction[1] + margin
    )


def _furnish(canvas: Canvas, dice: Dice, queue: Queue, street: Street, side: int) -> None:
    layout = canvas.domain.layout
    which = 0 if side < 0 else 1
    curb = (street.left, street.right)[which]
    strip = street.strips[which]

    def add(draw: Callable[..., None], out: float, z: float) -> None:
        queue.append((z, partial(draw, canvas, dice, curb + side * out, z)))

    if dice.chance(layout.trees):
        z = dice.uniform(7, 20)
        while z < REACH:
            if _clear(street, z, 2):
                add(tree, (strip / 2 if strip else 1.2) + dice.uniform(0, 0.3), z)
            z += dice.between(layout.tree_gap)
    if strip and dice.chance(0.5):
        z = dice.uniform(8, 30)
        while z < 60:
            if _clear(street, z, 2):
                add(bush, 0.6 * strip, z)
            z += dice.uniform(2, 15)
    z = dice.uniform(8, 24)
    while z < REACH:
        if _clear(street, z, 1):
            add(pole, 0.5, z)
        z += dice.between(layout.pole_gap)
    z = dice.uniform(8, 20)
    while z < 45:
        if dice.chance(layout.sign):
            add(traffic_sign, dice.uniform(0.5, 0.9), z)
        z += dice.uniform(8, 20)
    if street.junction:
        lit = dice.chance(2.2 * layout.light)
        if lit:
            add(traffic_light, 0.6, street.junction[0] - 4.5)
            add(traffic_light, 0.6, street.junction[1] + 1.5)
    elif dice.chance(layout.light):
        add(traffic_light, 0.6, dice.uniform(10, 24))
    if dice.chance(layout.bin):
        add(bin_, dice.uniform(0.7, 1.5), dice.uniform(9, 25))
    for draw, chance in (
        (traffic.bicycle, layout.bicycle),
        (traffic.motorcycle, layout.motorcycle),
    ):
        if dice.chance(chance):
            z, out = dice.uniform(7, 14), strip + dice.uniform(0.5, 1.4)
            for _ in range(1 + int(3 * dice.unit())):
                pose = dice.pick(("side", "side", "end"))
                add(partial(draw, pose=pose), out, z)
                z += dice.uniform(0.7, 2.0)


def _park(canvas: Canvas, dice: Dice, queue: Queue, street: Street, side: int) -> None:
    which = 0 if side < 0 else 1
    if not street.parking[which]:
        return
    x = street.left + 1.15 if side < 0 else street.right - 1.15
    z = dice.uniform(5, 11)
    while z < 75:
        kind = dice.weighted({"car": 1.0, "truck": 0.05})
        length = 5.6 if kind == "car" else 11
        if dice.chance(canvas.domain.layout.parked) and all(
            _clear(street, e, 3) for e in (z, z + length)
        ):
            facing = dice.pick(("away", "oncoming")) if side < 0 else "away"
            queue.append((z, partial(traffic.VEHICLES[kind], canvas, dice, x, z, facing)))
        z += length + dice.uniform(0, 1.5)


def _drive(
    canvas: Canvas, dice: Dice, queue: Queue, taken: list, street: Street, rails: float | None
) -> None:
    layout = canvas.domain.layout

    def place(draw: Callable[..., None], x: float, z: float, length: float) -> None:
        if any(abs(x - a) < 2.2 and z < c + 1.5 and z + length > b - 1.5 for a, b, c in taken):
            return
        taken.append((x, z, z + length))
        queue.append((z, partial(draw, x=x, z=z)))

    if rails is not None:
        facing = dice.pick(("oncoming", "away"))
        place(
            partial(traffic.VEHICLES["train"], canvas, dice, facing=facing),
            rails,
            dice.uniform(11, 32),
            34,
        )
    lanes: dict[str, list[float]] = {"oncoming": [], "away": []}
    x = street.centre + street.lane / 2
    while x < street.right - 2.4 * street.parking[1]:
        lanes["away"].append(x)
        x += street.lane
    x = street.centre - street.median - street.lane / 2
    while x > street.left + 2.4 * street.parking[0]:
        lanes["oncoming"].append(x)
        x -= street.lane
    for _ in range(int(dice.uniform(layout.moving[0], layout.moving[1] + 1))):
        kind = dice.weighted(dict(layout.traffic))
        facing = dice.pick(("away", "oncoming"))
        at = dice.pick(lanes[facing]) + dice.uniform(-0.25, 0.25)
        z = 9 + 40 * dice.near()
        length = {"car": 5, "truck": 10, "bus": 12.5}[kind]
        place(partial(traffic.VEHICLES[kind], canvas, dice, facing=facing), at, z, length)
    for draw, chance in (
        (traffic.cyclist, layout.cyclist), (traffic.motorcyclist, layout.motorcyclist)
    ):  # fmt: skip
        if dice.chance(chance):
            at = dice.pick(lanes["away"] + lanes["oncoming"]) + dice.uniform(-0.9, 0.9)
            place(partial(draw, canvas, dice), at, dice.uniform(6.5, 13.5), 2.0)
    if street.junction and dice.chance(0.5):
        kind = dice.weighted({"car": 0.55, "bus": 0.15, "truck": 0.15, "train": 0.15})
        x, z = dice.uniform(-14, 14), dice.uniform(street.junction[0] + 2, street.junction[1] - 2)
        queue.append((z, partial(traffic.crossing, canvas, dice, x, z, kind)))


def _populate(canvas: Canvas, dice: Dice, queue: Queue, taken: list, street: Street) -> None:
    layout = canvas.domain.layout
    for _ in range(int(dice.uniform(layout.people[0], layout.people[1] + 1))):
        side = dice.pick((0, 1))
        edge, walk = street.edges[side], street.walks[side]
        inward = dice.uniform(0.5, max(walk - 0.4, 0.6))
        x = edge + inward if side == 0 else edge - inward
        z = 9 + 28 * dice.near()
        if dice.chance(0.15):
            x = dice.uniform(street.left, street.right)
            if any(abs(x - a) < 1.8 and b - 1 < z < c + 1 for a, b, c in taken):
                continue
        for _ in range(1 + int(2.2 * dice.unit())):
            queue.append((z, partial(traffic.person, canvas, dice, x, z)))
            x, z = x + dice.uniform(0.5, 0.8), z + dice.uniform(-0.2, 0.4)
