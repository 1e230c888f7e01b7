"""One street scene: decides what stands where and paints it from far to near."""

from collections.abc import Callable
from functools import partial

from rtda_jax.data.streets import people
from rtda_jax.data.streets.canvas import FAR, Canvas
from rtda_jax.data.streets.dice import Dice
from rtda_jax.data.streets.ground import Street, lay_out, paint_ground
from rtda_jax.data.streets.roadside import (
    FRONTAGE,
    bin_,
    bush,
    pole,
    traffic_light,
    traffic_sign,
    tree,
)
from rtda_jax.data.streets.vehicles import VEHICLES, crossing

Queue = list[tuple[float, Callable[[], None]]]
REACH = 95.0


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
    taken: list[tuple[float, float, float]] = []  # offset, near and far end of what is on the road
    for side in (-1, 1):
        _line_street(canvas, dice, queue, street, side)
        _furnish(canvas, dice, queue, street, side)
        _park(canvas, dice, queue, street, side)
    _drive(canvas, dice, queue, taken, street, rails)
    _populate(canvas, dice, queue, taken, street)
    queue.sort(key=lambda item: -item[0])
    for _, paint in queue:
        paint()


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
    for draw, chance in ((people.bicycle, layout.bicycle), (people.motorcycle, layout.motorcycle)):
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
            queue.append((z, partial(VEHICLES[kind], canvas, dice, x, z, facing)))
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
            partial(VEHICLES["train"], canvas, dice, facing=facing), rails, dice.uniform(11, 32), 34
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
        place(partial(VEHICLES[kind], canvas, dice, facing=facing), at, z, length)
    for draw, chance in (
        (people.cyclist, layout.cyclist), (people.motorcyclist, layout.motorcyclist)
    ):  # fmt: skip
        if dice.chance(chance):
            at = dice.pick(lanes["away"] + lanes["oncoming"]) + dice.uniform(-0.9, 0.9)
            place(partial(draw, canvas, dice), at, dice.uniform(6.5, 13.5), 2.0)
    if street.junction and dice.chance(0.5):
        kind = dice.weighted({"car": 0.55, "bus": 0.15, "truck": 0.15, "train": 0.15})
        x, z = dice.uniform(-14, 14), dice.uniform(street.junction[0] + 2, street.junction[1] - 2)
        queue.append((z, partial(crossing, canvas, dice, x, z, kind)))


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
            queue.append((z, partial(people.person, canvas, dice, x, z)))
            x, z = x + dice.uniform(0.5, 0.8), z + dice.uniform(-0.2, 0.4)
