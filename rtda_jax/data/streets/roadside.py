"""Objects along a street: buildings, walls, fences, green, trees, poles, signs and bins."""

from rtda_jax.data.streets.canvas import Canvas
from rtda_jax.data.streets.domain import PATTERNS, Dice, Windows, bank


def _blob(
    canvas: Canvas, x: float, y: float, rx: float, ry: float, z: float, material: int
) -> None:
    canvas.disc(
        x, y, rx, ry, z, material,
        ragged=canvas.domain.layout.ragged, rough=bank()[PATTERNS.index("leaves")],
    )  # fmt: skip


def tree(canvas: Canvas, dice: Dice, x: float, z: float, *, size: float = 1.0) -> None:
    """Paints a tree: a trunk, and a crown of lit and shaded blobs."""
    palette, trim = canvas.domain.palette, canvas.domain.layout.trim
    bark = canvas.material("vegetation", dice.pick(palette["bark"]), surface="bark")
    leaf = dice.tint(dice.pick(palette["leaves"]), trim)
    dark = canvas.material(
        "vegetation", (0.72 * leaf[0], 0.72 * leaf[1], 0.72 * leaf[2]), surface="leaves"
    )
    lit = canvas.material("vegetation", leaf, surface="leaves")
    height = size * dice.uniform(5.0, 8.5)
    radius = size * dice.uniform(1.5, 2.6)
    base = size * dice.uniform(1.7, 2.8)
    trunk = size * dice.uniform(0.14, 0.24)
    canvas.shadow(x - 0.6 * radius, x + 1.2 * radius, z - 1, z + 1, canvas.domain.shadow)
    canvas.rect(x - trunk, x + trunk, 0, base + 0.4 * radius, z, bark)
    middle, tall = (base + height) / 2, (height - base) / 2
    _blob(canvas, x, middle, radius, tall, z, dark)
    for _ in range(4 if z < 35 else 2):
        side, up = dice.uniform(-0.6, 0.6), dice.uniform(-0.5, 0.6)
        _blob(canvas, x + side * radius, middle + up * tall, 0.55 * radius, 0.45 * tall, z, lit)


def bush(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a bush that stands on the ground."""
    leaf = dice.tint(dice.pick(canvas.domain.palette["leaves"]), canvas.domain.layout.trim)
    radius = dice.uniform(0.5, 1.3)
    _blob(
        canvas, x, 0.6 * radius, radius, 0.8 * radius, z,
        canvas.material("vegetation", leaf, surface="leaves"),
    )  # fmt: skip


def pole(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a lamp post whose arm reaches over the road."""
    steel = canvas.material("pole", dice.pick(canvas.domain.palette["pole"]))
    half, height = dice.uniform(0.11, 0.17), dice.uniform(5.5, 8.0)
    canvas.shadow(x - 0.2, x + 2.5, z - 0.12, z + 0.12, canvas.domain.shadow)
    canvas.rect(x - half, x + half, 0, height, z, steel)
    canvas.rect(x - 1.3 * half, x + 1.3 * half, 0, 0.9, z, steel)
    reach = 1.8 if x < 0 else -1.8
    canvas.rect(min(x, x + reach), max(x, x + reach), height - 0.12, height, z, steel)


def traffic_light(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a traffic light on its pole, sometimes with a second head on an arm."""
    palette = canvas.domain.palette
    steel = canvas.material("pole", dice.pick(palette["pole"]))
    box = canvas.material("traffic light", palette["light"][0])
    lit = dice.pick((0, 2))
    glow = ((240, 50, 40), (250, 190, 40), (50, 230, 110))[lit]
    heads = [(x, 2.5)]
    canvas.rect(x - 0.1, x + 0.1, 0, 3.6, z, steel)
    if dice.chance(0.45):
        reach = 3.2 if x < 0 else -3.2
        canvas.rect(x - 0.1, x + 0.1, 3.6, 5.6, z, steel)
        canvas.rect(min(x, x + reach), max(x, x + reach), 5.4, 5.6, z, steel)
        heads.append((x + reach, 4.6))
    for centre, low in heads:
        canvas.rect(centre - 0.32, centre + 0.32, low, low + 1.3, z, box)
        for lamp in range(3):
            colour = glow if lamp == 2 - lit else (70, 66, 60)
            canvas.disc(
                centre, low + 0.22 + 0.4 * lamp, 0.16, 0.16, z,
                canvas.material("traffic light", colour),
            )  # fmt: skip


def traffic_sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a round, triangular, square or large direction sign on its pole."""
    palette = canvas.domain.palette
    steel = canvas.material("pole", dice.pick(palette["pole"]))
    red, blue, yellow, white, back = (canvas.material("traffic sign", c) for c in palette["sign"])
    shape = dice.pick(("stop", "triangle", "square", "board", "back"))
    y = dice.uniform(2.2, 2.9)
    canvas.rect(x - 0.08, x + 0.08, 0, y + 0.3, z, steel)
    if shape in ("stop", "back"):
        canvas.disc(x, y, 0.45, 0.45, z, red if shape == "stop" else back)
        if shape == "stop":
            canvas.disc(x, y, 0.28, 0.28, z, white)
    elif shape == "triangle":
        canvas.polygon([(x - 0.52, y - 0.4), (x + 0.52, y - 0.4), (x, y + 0.5)], z, red)
        canvas.polygon([(x - 0.28, y - 0.27), (x + 0.28, y - 0.27), (x, y + 0.22)], z, white)
    elif shape == "square":
        canvas.rect(x - 0.42, x + 0.42, y - 0.42, y + 0.42, z, blue)
        canvas.rect(x - 0.2, x + 0.2, y - 0.25, y + 0.25, z, white)
    else:
        canvas.rect(x - 0.9, x + 0.9, y, y + 1.0, z, yellow)
        canvas.rect(x - 0.7, x + 0.6, y + 0.55, y + 0.7, z, back)
        canvas.rect(x - 0.7, x + 0.2, y + 0.25, y + 0.4, z, back)


def bin_(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Paints a rubbish bin, which has no class."""
    colour = dice.pick(canvas.domain.palette["bin"])
    canvas.rect(x - 0.35, x + 0.35, 0, 1.0, z, canvas.material("static", colour))
    lid = (0.6 * colour[0], 0.6 * colour[1], 0.6 * colour[2])
    canvas.rect(x - 0.4, x + 0.4, 0.95, 1.1, z, canvas.material("static", lid))


def _face(x: float) -> str:
    return "right" if x < 0 else "left"


def _outward(x: float, distance: float) -> tuple[float, float]:
    """Returns the ordered offsets from `x` to `distance` further away from the street."""
    return (x - distance, x) if x < 0 else (x, x + distance)


def building(canvas: Canvas, dice: Dice, x: float, z0: float, z1: float) -> None:
    """Paints a house with its facade along the street at offset `x` and its gable towards us."""
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
    """Paints a stone or concrete wall with trees behind it."""
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
    """Paints a slatted fence with a garden behind it."""
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
    """Paints a meadow with trees and bushes."""
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
