"""Moving objects of a street: cars, trucks, buses and trains, people on foot and on two wheels."""

from rtda_jax.data.streets.canvas import Canvas
from rtda_jax.data.streets.domain import TYRE, Colour, Dice, Windows


def _colour(canvas: Canvas, dice: Dice, name: str) -> Colour:
    return dice.tint(dice.pick(canvas.domain.palette[name]), canvas.domain.layout.trim)


def _dark(colour: Colour, gain: float) -> Colour:
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


def _inner(x: float, width: float) -> tuple[float, str]:
    """Returns the offset of a box's side towards the camera, and the way that side faces."""
    return (x + width / 2, "right") if x < 0 else (x - width / 2, "left")


def _lamps(
    canvas: Canvas, label: str, x: float, z: float, width: float, y: float, facing: str
) -> None:
    colour = {"away": (215, 30, 25), "oncoming": (250, 245, 215)}[facing]
    lamp = canvas.material(label, colour)
    for left in (x - 0.48 * width, x + 0.3 * width):
        canvas.rect(left, left + 0.18 * width, y, y + 0.16, z, lamp)


def _axles(
    canvas: Canvas, label: str, inner: float, face: str, depths: list[float], size: float
) -> None:
    tyre = canvas.material(label, TYRE, face=face)
    for z in depths:
        canvas.side(inner, z - size / 2, z + size / 2, 0, 0.9 * size, tyre)


def car(canvas: Canvas, dice: Dice, x: float, z: float, facing: str) -> None:
    """Paints a car with its nearer end at depth `z`; `facing` is "away" or "oncoming"."""
    paint = _colour(canvas, dice, "car")
    glass = canvas.domain.palette["windscreen"][0]
    width, length = dice.uniform(1.75, 1.95), dice.uniform(3.9, 4.8)
    waist, roof = dice.uniform(0.85, 0.98), dice.uniform(1.42, 1.75)
    canvas.shadow(
        x - 0.62 * width, x + 0.62 * width, z - 0.25, z + length, 0.6 * canvas.domain.shadow
    )
    front, pane = canvas.material("car", paint), canvas.material("car", glass)
    if abs(x) > width / 2:
        inner, face = _inner(x, width)
        cabin = inner - 0.12 if x < 0 else inner + 0.12
        flank = canvas.material("car", paint, face=face)
        canvas.side(cabin, z + 0.6, z + length - 1.0, 0.5, roof, flank)
        canvas.side(
            cabin, z + 0.85, z + length - 1.3, waist, roof - 0.12,
            canvas.material("car", glass, face=face),
        )  # fmt: skip
        canvas.side(inner, z, z + length, 0.22, waist, flank)
        _axles(canvas, "car", inner, face, [z + 0.8, z + length - 0.85], 0.62)
    half, top = width / 2 - 0.1, width / 2 - 0.16
    z_cabin = z + 0.6
    lid = canvas.material("car", _dark(paint, 0.9))
    canvas.rect(x - half, x + half, 0.4, waist, z_cabin, lid)
    canvas.polygon(
        [(x - half, waist), (x + half, waist), (x + top, roof), (x - top, roof)], z_cabin, front
    )
    canvas.polygon(
        [(x - half + 0.1, waist), (x + half - 0.1, waist),
         (x + top - 0.06, roof - 0.1), (x - top + 0.06, roof - 0.1)], z_cabin, pane,
    )  # fmt: skip
    tyre = canvas.material("car", TYRE)
    canvas.rect(x - width / 2, x - width / 2 + 0.24, 0, 0.4, z, tyre)
    canvas.rect(x + width / 2 - 0.24, x + width / 2, 0, 0.4, z, tyre)
    canvas.rect(x - width / 2, x + width / 2, 0.26, waist, z, front)
    canvas.rect(
        x - width / 2, x + width / 2, 0.24, 0.42, z, canvas.material("car", _dark(paint, 0.55))
    )
    canvas.rect(x - 0.26, x + 0.26, 0.45, 0.58, z, canvas.material("car", (235, 235, 225)))
    _lamps(canvas, "car", x, z, width, 0.66, facing)


def truck(canvas: Canvas, dice: Dice, x: float, z: float, facing: str) -> None:
    """Paints a lorry: a tall plain cargo box on a dark chassis, and a coloured cab."""
    cargo, cab = _colour(canvas, dice, "cargo"), _colour(canvas, dice, "cab")
    glass = canvas.domain.palette["windscreen"][0]
    width, length, height = 2.45, dice.uniform(5.0, 8.0), dice.uniform(3.0, 3.7)
    cab_near = facing == "oncoming"
    z_box = z + 2.1 if cab_near else z
    z_cab = z if cab_near else z + length
    canvas.shadow(x - 1.5, x + 1.5, z - 0.3, z + length + 2, 0.6 * canvas.domain.shadow)
    inner, face = _inner(x, width)
    seen = abs(x) > width / 2

    def cab_side() -> None:
        if seen:
            canvas.side(inner, z_cab, z_cab + 2, 0.5, 2.6, canvas.material("truck", cab, face=face))
            canvas.side(
                inner, z_cab + 0.6, z_cab + 1.6, 1.5, 2.3,
                canvas.material("truck", glass, face=face),
            )  # fmt: skip

    if not cab_near:
        cab_side()
    if seen:
        canvas.side(
            inner, z_box, z_box + length, 0.45, 0.95, canvas.material("truck", (50, 50, 54))
        )
        _axles(canvas, "truck", inner, face, [z_box + 1.1, z_box + 2.2, z_box + length - 0.8], 0.95)
        flank = canvas.material("truck", cargo, face=face, surface="panels")
        canvas.side(inner, z_box, z_box + length, 0.95, height, flank)
    left, right = x - width / 2, x + width / 2
    canvas.rect(left, right, 0.9, height, z_box, canvas.material("truck", cargo, surface="panels"))
    if cab_near:
        cab_side()
        canvas.rect(left + 0.05, right - 0.05, 0.45, 2.65, z, canvas.material("truck", cab))
        canvas.rect(left + 0.2, right - 0.2, 1.5, 2.35, z, canvas.material("truck", glass))
        canvas.rect(left + 0.5, right - 0.5, 0.7, 1.15, z, canvas.material("truck", (60, 60, 64)))
    else:
        canvas.rect(left, right, 0.5, 0.95, z, canvas.material("truck", (48, 48, 52)))
        canvas.rect(x - 0.05, x + 0.05, 1.0, height, z, canvas.material("truck", _dark(cargo, 0.6)))
        canvas.rect(left, right, 0.95, 1.1, z, canvas.material("truck", _dark(cargo, 0.65)))
    tyre = canvas.material("truck", TYRE)
    canvas.rect(left + 0.1, left + 0.55, 0, 0.6, z, tyre)
    canvas.rect(right - 0.55, right - 0.1, 0, 0.6, z, tyre)
    _lamps(canvas, "truck", x, z, width, 0.62, facing)


def bus(canvas: Canvas, dice: Dice, x: float, z: float, facing: str) -> None:
    """Paints a city bus: one tall box with a long band of windows."""
    paint = _colour(canvas, dice, "bus")
    glass = canvas.domain.palette["windscreen"][0]
    width, length, height = 2.5, dice.uniform(9.5, 12.5), 3.1
    canvas.shadow(x - 1.5, x + 1.5, z - 0.3, z + length, 0.6 * canvas.domain.shadow)
    if abs(x) > width / 2:
        inner, face = _inner(x, width)
        canvas.side(inner, z, z + length, 0.3, height, canvas.material("bus", paint, face=face))
        band = Windows(1.5, 40.0, 0.85, 1.0, glass)
        canvas.side(
            inner, z + 0.3, z + length - 0.3, 1.35, 2.5,
            canvas.material("bus", paint, face=face, windows=band),
        )  # fmt: skip
        _axles(canvas, "bus", inner, face, [z + 2.4, z + length - 2.2], 0.95)
    left, right = x - width / 2, x + width / 2
    canvas.rect(left, right, 0.3, height, z, canvas.material("bus", paint))
    low = 1.15 if facing == "oncoming" else 1.5
    canvas.rect(left + 0.15, right - 0.15, low, 2.45, z, canvas.material("bus", glass))
    board = canvas.material("bus", (30, 28, 26))
    canvas.rect(left + 0.4, right - 0.4, 2.58, 2.95, z, board)
    canvas.rect(left + 0.6, right - 0.6, 2.66, 2.88, z, canvas.material("bus", (245, 165, 40)))
    tyre = canvas.material("bus", TYRE)
    canvas.rect(left + 0.1, left + 0.5, 0, 0.45, z, tyre)
    canvas.rect(right - 0.5, right - 0.1, 0, 0.45, z, tyre)
    _lamps(canvas, "bus", x, z, width, 0.7, facing)


def train(canvas: Canvas, dice: Dice, x: float, z: float, facing: str) -> None:
    """Paints a tram: very long, two-tone, with a rounded nose and a pantograph."""
    lower, upper = canvas.domain.palette["train"][:2]
    lower = dice.tint(lower, canvas.domain.layout.trim)
    glass = canvas.domain.palette["windscreen"][0]
    width, length, height = 2.6, dice.uniform(18, 34), 3.5
    canvas.shadow(x - 1.5, x + 1.5, z - 0.3, z + length, 0.6 * canvas.domain.shadow)
    if abs(x) > width / 2:
        inner, face = _inner(x, width)
        under = canvas.material("train", (45, 45, 48), face=face)
        canvas.side(inner, z + 0.4, z + length, 0.1, 0.5, under)
        canvas.side(inner, z, z + length, 0.4, 1.5, canvas.material("train", lower, face=face))
        canvas.side(inner, z, z + length, 1.5, height, canvas.material("train", upper, face=face))
        band = Windows(2.2, 60.0, 0.8, 1.0, glass)
        canvas.side(
            inner, z + 0.8, z + length - 0.5, 1.6, 2.75,
            canvas.material("train", upper, face=face, windows=band),
        )  # fmt: skip
        for joint in (z + length / 3, z + 2 * length / 3):
            canvas.side(inner, joint, joint + 0.5, 0.4, height, under)
    nose, roof = canvas.material("train", lower), canvas.material("train", upper)
    half = width / 2
    canvas.rect(
        x - 0.6, x + 0.6, height, height + 0.5, z + 4, canvas.material("train", (60, 60, 64))
    )
    canvas.rect(x - half, x + half, 0.25, 1.5, z, nose)
    canvas.polygon(
        [(x - half, 1.5), (x + half, 1.5), (x + half - 0.2, height), (x - half + 0.2, height)],
        z, roof,
    )  # fmt: skip
    canvas.rect(x - half + 0.2, x + half - 0.2, 1.35, 2.75, z, canvas.material("train", glass))
    canvas.rect(x - 0.5, x + 0.5, 2.9, 3.2, z, canvas.material("train", (240, 170, 50)))
    canvas.rect(
        x - half + 0.1, x + half - 0.1, 0.1, 0.35, z, canvas.material("train", (40, 40, 42))
    )
    _lamps(canvas, "train", x, z, width, 0.75, facing)


def crossing(canvas: Canvas, dice: Dice, x: float, z: float, kind: str) -> None:
    """Paints a vehicle that crosses the street at depth `z`; `kind` is its label."""
    name = {"car": "car", "truck": "cargo", "bus": "bus", "train": "train"}[kind]
    length = {"car": 4.4, "truck": 7.5, "bus": 11.5, "train": 26.0}[kind]
    paint = _colour(canvas, dice, name)
    glass = canvas.domain.palette["windscreen"][0]
    body, dark = canvas.material(kind, paint), canvas.material(kind, (45, 45, 48))
    left, right = x - length / 2, x + length / 2
    canvas.shadow(left, right, z - 0.5, z + 1, 0.6 * canvas.domain.shadow)
    pane = canvas.material(kind, glass)
    if kind == "car":
        canvas.polygon(
            [(x - 1.6, 0.85), (x + 1.2, 0.85), (x + 0.7, 1.45), (x - 1.1, 1.45)], z, body
        )
        canvas.polygon([(x - 1.4, 0.9), (x + 1.0, 0.9), (x + 0.65, 1.35), (x - 1.0, 1.35)], z, pane)
        canvas.rect(left, right, 0.3, 0.9, z, body)
    elif kind == "truck":
        canvas.rect(left, right - 2.0, 0.95, 3.4, z, body)
        canvas.rect(left, right, 0.5, 0.95, z, dark)
        canvas.rect(
            right - 1.9, right, 0.5, 2.6, z, canvas.material(kind, _colour(canvas, dice, "cab"))
        )
        canvas.rect(right - 1.3, right - 0.2, 1.5, 2.3, z, pane)
    else:
        top = 3.1 if kind == "bus" else 3.5
        band = Windows(1.6, 60.0, 0.82, 1.0, glass)
        roof = paint if kind == "bus" else canvas.domain.palette["train"][1]
        canvas.rect(left, right, 0.3, 1.5, z, body)
        canvas.rect(left, right, 1.4, top, z, canvas.material(kind, roof))
        canvas.rect(left + 0.3, right - 0.3, 1.5, 2.6, z, canvas.material(kind, roof, windows=band))
    size = 0.33 if kind == "car" else 0.48
    tyre = canvas.material(kind, TYRE)
    if kind != "train":
        for axle in (left + 0.2 * length, right - 0.2 * length):
            canvas.disc(axle, size, size, size, z, tyre)
    else:
        canvas.rect(left + 0.5, right - 0.5, 0.05, 0.4, z, dark)


VEHICLES = {"car": car, "truck": truck, "bus": bus, "train": train}


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
