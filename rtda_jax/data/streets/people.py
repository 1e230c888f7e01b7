"""People on foot, and the two-wheelers they ride or leave standing."""

from rtda_jax.data.streets.canvas import Canvas
from rtda_jax.data.streets.dice import Colour, Dice
from rtda_jax.data.streets.domain import TYRE


def _cloth(canvas: Canvas, dice: Dice) -> Colour:
    return dice.tint(dice.pick(canvas.domain.palette["clothes"]), canvas.domain.layout.trim)


def _head(canvas: Canvas, dice: Dice, label: str, x: float, y: float, z: float) -> None:
    palette = canvas.domain.palette
    skin = dice.tint(dice.pick(palette["skin"]), 0.1)
    canvas.disc(x, y, 0.15, 0.19, z, canvas.material(label, dice.pick(palette["hair"])))
    canvas.disc(x, y - 0.05, 0.11, 0.13, z, canvas.material(label, skin))


def person(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a person who stands or walks at depth `z`."""
    size = dice.uniform(0.88, 1.08)
    top, legs = _cloth(canvas, dice), _cloth(canvas, dice)
    coat, cloth = canvas.material("person", top), canvas.material("person", legs)
    stride = dice.uniform(0.02, 0.22)
    lean = dice.uniform(-0.05, 0.05)
    canvas.shadow(x - 0.3, x + 0.3, z - 0.2, z + 0.3, canvas.domain.shadow)
    for foot, hip in ((-stride, -0.1), (stride, 0.1)):
        canvas.polygon(
            [(x + foot - 0.09, 0), (x + foot + 0.09, 0), (x + hip + 0.11, 0.85 * size),
             (x + hip - 0.11, 0.85 * size)], z, cloth,
        )  # fmt: skip
    sleeve = canvas.material("person", (0.85 * top[0], 0.85 * top[1], 0.85 * top[2]))
    canvas.rect(x - 0.31, x - 0.2, 0.8 * size, 1.42 * size, z, sleeve)
    canvas.rect(x + 0.2, x + 0.31, 0.8 * size, 1.42 * size, z, sleeve)
    canvas.polygon(
        [(x - 0.2, 0.78 * size), (x + 0.2, 0.78 * size), (x + 0.25 + lean, 1.46 * size),
         (x - 0.25 + lean, 1.46 * size)], z, coat,
    )  # fmt: skip
    _head(canvas, dice, "person", x + lean, 1.62 * size, z)


def _wheel(canvas: Canvas, label: str, x: float, z: float, radius: float, hub: Colour) -> None:
    canvas.disc(x, radius, radius, radius, z, canvas.material(label, TYRE))
    canvas.disc(x, radius, 0.72 * radius, 0.72 * radius, z, canvas.material(label, hub))


def _bar(
    canvas: Canvas, x0: float, y0: float, x1: float, y1: float, z: float, half: float, material: int
) -> None:
    """Paints a thick line; its ends are cut level, or upright if the line is nearly level."""
    if abs(y1 - y0) > abs(x1 - x0):
        if y1 < y0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        points = [(x0 - half, y0), (x0 + half, y0), (x1 + half, y1), (x1 - half, y1)]
    else:
        if x1 < x0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        points = [(x0, y0 - half), (x1, y1 - half), (x1, y1 + half), (x0, y0 + half)]
    canvas.polygon(points, z, material)


def bicycle(canvas: Canvas, dice: Dice, x: float, z: float, *, pose: str) -> None:
    """Paints a bicycle seen from the "side" or along the street ("end")."""
    frame = canvas.material(
        "bicycle", dice.tint(dice.pick(canvas.domain.palette["bicycle"]), canvas.domain.layout.trim)
    )
    dark = canvas.material("bicycle", TYRE)
    canvas.shadow(x - 0.5, x + 0.5, z - 0.2, z + 0.3, canvas.domain.shadow)
    if pose == "end":
        canvas.disc(x, 0.36, 0.09, 0.36, z, dark)
        canvas.rect(x - 0.07, x + 0.07, 0.35, 0.95, z, frame)
        canvas.rect(x - 0.32, x + 0.32, 0.93, 1.04, z, dark)
        return
    spokes = canvas.domain.palette["spokes"][0]
    for axle in (x - 0.55, x + 0.55):
        _wheel(canvas, "bicycle", axle, z, 0.37, spokes)
    bars = ((-0.55, 0.37, -0.15, 0.85), (-0.1, 0.35, -0.2, 0.95), (-0.1, 0.35, 0.4, 0.85),
            (-0.2, 0.8, 0.4, 0.85), (0.55, 0.37, 0.38, 1.0))  # fmt: skip
    for x0, y0, x1, y1 in bars:
        _bar(canvas, x + x0, y0, x + x1, y1, z, 0.05, frame)
    canvas.rect(x - 0.35, x - 0.05, 0.94, 1.02, z, dark)
    canvas.rect(x + 0.25, x + 0.52, 1.0, 1.08, z, dark)


def motorcycle(canvas: Canvas, dice: Dice, x: float, z: float, *, pose: str) -> None:
    """Paints a motorcycle or scooter seen from the "side" or along the street ("end")."""
    paint = dice.tint(dice.pick(canvas.domain.palette["motorcycle"]), canvas.domain.layout.trim)
    body, dark = canvas.material("motorcycle", paint), canvas.material("motorcycle", TYRE)
    canvas.shadow(x - 0.9, x + 0.9, z - 0.3, z + 0.4, canvas.domain.shadow)
    if pose == "end":
        canvas.disc(x, 0.33, 0.16, 0.33, z, dark)
        canvas.polygon(
            [(x - 0.2, 0.35), (x + 0.2, 0.35), (x + 0.34, 0.8), (x - 0.34, 0.8)], z, body
        )
        canvas.rect(x - 0.3, x + 0.3, 0.8, 1.05, z, body)
        canvas.rect(x - 0.45, x + 0.45, 1.0, 1.12, z, dark)
        canvas.rect(x - 0.1, x + 0.1, 0.7, 0.85, z, canvas.material("motorcycle", (245, 235, 200)))
        return
    for axle in (x - 0.75, x + 0.75):
        _wheel(canvas, "motorcycle", axle, z, 0.36, (120, 120, 124))
    canvas.polygon([(x - 0.55, 0.4), (x + 0.5, 0.4), (x + 0.6, 0.85), (x - 0.9, 0.85)], z, body)
    canvas.polygon([(x - 0.15, 0.8), (x + 0.6, 0.8), (x + 0.45, 1.1), (x, 1.0)], z, body)
    canvas.rect(x - 0.85, x + 0.0, 0.8, 0.95, z, dark)
    canvas.rect(x - 0.3, x + 0.25, 0.3, 0.55, z, canvas.material("motorcycle", (95, 95, 100)))
    _bar(canvas, x + 0.75, 0.36, x + 0.5, 1.2, z, 0.06, dark)


def _rider(canvas: Canvas, dice: Dice, x: float, z: float, *, pose: str, seat: float) -> None:
    top, legs = dice.pick(canvas.domain.palette["jersey"]), _cloth(canvas, dice)
    coat, cloth = canvas.material("rider", top), canvas.material("rider", legs)
    helmet = canvas.material("rider", dice.pick(canvas.domain.palette["helmet"]))
    if pose == "end":
        for hip in (-0.17, 0.17):
            canvas.rect(x + hip - 0.09, x + hip + 0.09, 0.4, seat + 0.1, z, cloth)
        canvas.polygon(
            [(x - 0.22, seat), (x + 0.22, seat), (x + 0.29, seat + 0.62), (x - 0.29, seat + 0.62)],
            z, coat,
        )  # fmt: skip
        canvas.disc(x, seat + 0.8, 0.17, 0.2, z, helmet)
        canvas.disc(
            x, seat + 0.74, 0.1, 0.1, z, canvas.material("rider", canvas.domain.palette["skin"][0])
        )
        return
    _bar(canvas, x - 0.15, seat, x + 0.12, 0.4, z, 0.1, cloth)
    _bar(canvas, x - 0.1, seat + 0.05, x + 0.2, seat - 0.2, z, 0.1, cloth)
    canvas.polygon(
        [(x - 0.38, seat), (x + 0.02, seat), (x + 0.3, seat + 0.6), (x - 0.02, seat + 0.68)],
        z, coat,
    )  # fmt: skip
    _bar(canvas, x + 0.18, seat + 0.5, x + 0.45, seat + 0.12, z, 0.07, coat)
    canvas.disc(x + 0.2, seat + 0.82, 0.17, 0.2, z, helmet)


def cyclist(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a rider on a bicycle."""
    pose = dice.pick(("side", "end", "end"))
    bicycle(canvas, dice, x, z, pose=pose)
    _rider(canvas, dice, x, z - 0.01, pose=pose, seat=0.95)


def motorcyclist(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a rider on a motorcycle."""
    pose = dice.pick(("side", "end", "end"))
    motorcycle(canvas, dice, x, z, pose=pose)
    _rider(canvas, dice, x, z - 0.01, pose=pose, seat=0.88)
