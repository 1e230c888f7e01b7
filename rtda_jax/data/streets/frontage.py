"""What lines a street: buildings, walls, fences and open green."""

from rtda_jax.data.streets.canvas import Canvas
from rtda_jax.data.streets.dice import Dice
from rtda_jax.data.streets.domain import Windows
from rtda_jax.data.streets.furniture import bush, tree


def _face(x: float) -> str:
    return "right" if x < 0 else "left"


def _outward(x: float, distance: float) -> tuple[float, float]:
    """The ordered offsets from `x` to `distance` further away from the street."""
    return (x - distance, x) if x < 0 else (x, x + distance)


def building(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float) -> None:
    """A house whose facade runs along the street at offset `x`, with its gable towards us."""
    palette, layout = canvas.domain.palette, canvas.domain.layout
    colour, surface = dice.pick(canvas.domain.facades)
    colour = dice.tint(colour, layout.trim)
    storey = dice.uniform(2.8, 3.4)
    height = storey * int(dice.uniform(layout.storeys[0], layout.storeys[1] + 1)) + 0.8
    panes = Windows(
        dice.uniform(1.8, 3.0), storey, dice.uniform(0.4, 0.65), dice.uniform(0.45, 0.6),
        dice.tint(dice.pick(palette["glass"]), 0.1),
    )  # fmt: skip
    blind = dice.chance(0.5)
    gable = canvas.material("building", colour, surface=surface, windows=None if blind else panes)
    roof = dice.pick(palette["roof"])
    left, right = _outward(x, 14)
    canvas.side(x, z0, z1, 0, height, canvas.material(
        "building", colour, face=_face(x), surface=surface, windows=panes))  # fmt: skip
    canvas.side(x, z0, z1, height - 0.5, height, canvas.material("building", roof, face=_face(x)))
    base = (0.6 * colour[0], 0.6 * colour[1], 0.6 * colour[2])
    canvas.side(x, z0, z1, 0, 0.6, canvas.material("building", base, face=_face(x)))
    if dice.chance(0.4):
        shop = Windows(3.2, 50.0, 0.8, 1.0, dice.pick(palette["glass"]))
        canvas.side(x, z0 + 0.5, z1 - 0.5, 0.5, 2.6, canvas.material(
            "building", base, face=_face(x), windows=shop))  # fmt: skip
        awning = canvas.material("building", dice.pick(palette["awning"]), face=_face(x))
        canvas.side(x, z0 + 0.5, z1 - 0.5, 2.6, 3.1, awning)
    canvas.rect(left, right, 0, height, z0, gable)
    canvas.rect(left, right, height - 0.4, height, z0, canvas.material("building", roof))


def wall(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float) -> None:
    """A stone or concrete wall with trees behind it."""
    palette = canvas.domain.palette
    colour = dice.tint(dice.pick(palette["wall"]), canvas.domain.layout.trim)
    height = dice.uniform(1.8, 3.2)
    _grove(canvas, dice, x, z0, z1, nearest=3.0)
    left, right = _outward(x, 12)
    stone = canvas.material("wall", colour, face=_face(x), surface="stone")
    canvas.side(x, z0, z1, 0, height, stone)
    cap = (1.15 * colour[0], 1.15 * colour[1], 1.15 * colour[2])
    canvas.side(x, z0, z1, height - 0.2, height, canvas.material("wall", cap, face=_face(x)))
    canvas.rect(left, right, 0, height, z0, canvas.material("wall", colour, surface="stone"))


def fence(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float) -> None:
    """A slatted fence with a garden behind it."""
    colour = dice.tint(dice.pick(canvas.domain.palette["fence"]), canvas.domain.layout.trim)
    height = dice.uniform(1.4, 2.0)
    _grove(canvas, dice, x, z0, z1, nearest=2.5)
    gap = (0.35 * colour[0], 0.35 * colour[1], 0.35 * colour[2])
    slats = Windows(0.8, 50.0, 0.5, 1.0, gap)
    left, right = _outward(x, 12)
    rail = canvas.material("fence", colour, face=_face(x))
    canvas.side(x, z0, z1, 0, height, canvas.material(
        "fence", colour, face=_face(x), surface="slats", windows=slats))  # fmt: skip
    canvas.side(x, z0, z1, height - 0.25, height - 0.05, rail)
    canvas.side(x, z0, z1, 0.25, 0.45, rail)
    canvas.rect(left, right, 0, height, z0, canvas.material(
        "fence", colour, surface="slats", windows=slats))  # fmt: skip
    canvas.rect(left, right, height - 0.25, height - 0.05, z0, canvas.material("fence", colour))


def green(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float) -> None:
    """A meadow with trees and bushes."""
    _grove(canvas, dice, x, z0, z1, nearest=1.5)
    z = z1
    while z > z0:
        bush(canvas, dice, x + (1 if x > 0 else -1) * dice.uniform(0.5, 5), z)
        z -= dice.uniform(2, 6)


def _grove(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float, *, nearest: float) -> None:
    z = z1
    while z > z0:
        out = dice.uniform(nearest, nearest + 7)
        tree(canvas, dice, x + (out if x > 0 else -out), z, size=1.1)
        z -= dice.uniform(3, 7)


FRONTAGE = {"building": building, "wall": wall, "fence": fence, "green": green}
