"""What the two domains look like.

The source is a clean, saturated, flat-shaded game under a clear sky; the target is a dull,
textured, hazy street behind a cheap automotive camera.
"""

import numpy as np

from rtda_jax.data.streets.domain import LABEL_IDS, Dice, Domain, Layout, texture


def _render_engine(
    colour: np.ndarray,
    depth: np.ndarray,
    labels: np.ndarray,
    dice: Dice,
    generator: np.random.Generator,
) -> np.ndarray:
    """Applies a nearly fixed exposure and a trace of dither: no blur, no haze."""
    dither = generator.integers(-3, 4, colour.shape, dtype=np.int8)
    image = colour * np.float32(dice.uniform(0.9, 1.06)) + dither
    return (np.clip(image, 0, 255) + np.float32(0.5)).astype(np.uint8)


GAME = Domain(
    number=0,
    layout=Layout(
        focal=(0.66, 0.78), horizon=(0.44, 0.48), yaw=(-0.03, 0.03), height=(1.5, 2.0),
        bend=(-0.0004, 0.0004), lanes=(1, 2, 2), lane_width=(3.3, 3.8), sidewalk=(2.5, 5.0),
        frontage={"building": 0.6, "green": 0.18, "wall": 0.11, "fence": 0.11},
        storeys=(2, 6), strip=0.3, median=0.15, junction=0.4, parking=0.35, parked=0.5,
        tree_gap=(10, 22), trees=0.35, pole_gap=(16, 30), light=0.2, sign=0.35,
        traffic={"car": 0.74, "truck": 0.14, "bus": 0.12}, moving=(2, 6), people=(0, 4),
        train=0.12, cyclist=0.2, motorcyclist=0.2, bicycle=0.1, motorcycle=0.1, bin=0.15,
        ragged=0.0, trim=0.06,
    ),
    palette={
        "sky": ((120, 178, 246), (206, 226, 246)), "road": ((104, 104, 110), (96, 98, 106)),
        "marking": ((240, 240, 236),), "rail": ((70, 70, 76),),
        "sidewalk": ((196, 180, 158), (186, 176, 164)), "curb": ((220, 212, 200),),
        "terrain": ((142, 188, 74), (160, 184, 84)),
        "glass": ((70, 110, 160), (60, 90, 130)), "roof": ((160, 70, 50), (110, 80, 70)),
        "awning": ((220, 60, 60), (60, 150, 90), (240, 200, 80)),
        "wall": ((176, 166, 150), (190, 150, 120)), "fence": ((150, 100, 60), (120, 130, 90)),
        "pole": ((120, 124, 130),), "light": ((40, 42, 40),),
        "sign": ((214, 36, 36), (30, 90, 210), (250, 210, 50), (246, 246, 246), (90, 94, 100)),
        "bin": ((60, 100, 70), (80, 80, 84)),
        "leaves": ((56, 150, 44), (76, 164, 50), (40, 128, 52)), "bark": ((112, 78, 48),),
        "skin": ((232, 184, 150), (176, 120, 84), (120, 80, 56)),
        "hair": ((50, 36, 26), (110, 76, 40), (30, 30, 30)),
        "clothes": ((220, 60, 60), (50, 90, 200), (240, 200, 60), (60, 60, 70), (240, 240, 240),
                    (120, 60, 150)),
        "jersey": ((190, 240, 40), (250, 130, 30)),
        "helmet": ((240, 240, 240), (220, 40, 40), (40, 40, 44)),
        "windscreen": ((44, 60, 84),),
        "car": ((214, 34, 34), (36, 84, 204), (245, 200, 40), (240, 240, 240), (40, 160, 90),
                (30, 30, 36), (240, 120, 30), (168, 172, 180), (84, 88, 98)),
        "cargo": ((236, 236, 230), (240, 150, 50), (80, 140, 200)),
        "cab": ((200, 40, 40), (40, 80, 180), (240, 240, 240)),
        "bus": ((245, 205, 40), (220, 60, 50), (60, 170, 200)),
        "train": ((40, 150, 90), (240, 236, 210)),
        "motorcycle": ((200, 30, 30), (30, 30, 34), (240, 140, 30)),
        "bicycle": ((220, 50, 50), (40, 120, 210), (50, 160, 80)), "spokes": ((150, 150, 150),),
        "hood": ((60, 60, 66),),
    },
    facades=(
        ((206, 118, 86), ""), ((226, 204, 148), ""), ((190, 172, 206), ""),
        ((170, 190, 206), ""), ((214, 168, 120), ""), ((232, 226, 212), ""),
    ),
    textures={},
    sun=0.28, shadow=0.55, hood=0.0, finish=_render_engine,
)  # fmt: skip


def _optics_and_sensor(
    colour: np.ndarray,
    depth: np.ndarray,
    labels: np.ndarray,
    dice: Dice,
    generator: np.random.Generator,
) -> np.ndarray:
    """Applies haze, lens, glare, sensor noise and chroma subsampling, in the order of the light."""
    height, width = depth.shape
    # depth / (depth + reach) replaces 1 - exp(-depth / reach), because it is exact on every
    # machine.
    haze = depth / (depth + np.float32(dice.uniform(160, 320)))
    haze[labels == LABEL_IDS["sky"]] = 0
    veil = np.array((190, 202, 216), np.float32)
    image = colour + haze[:, :, None] * (veil - colour)
    image = _blur(image, dice.uniform(0.05, 0.2))
    down = (np.arange(height, dtype=np.float32) + np.float32(0.5)) / height * 2 - 1
    across = (np.arange(width, dtype=np.float32) + np.float32(0.5)) / width * 2 - 1
    exposure = dice.uniform(0.68, 0.9)
    vignette = 1 - np.float32(dice.uniform(0.05, 0.2)) * (
        (down * down)[:, None] + (across * across)[None, :]
    ) / 2  # fmt: skip
    # Veiling glare: stray light that lifts the shadows, tinted and uneven over the frame.
    lift = dice.uniform(2, 22)
    cast = lift + dice.uniform(-6, 9), lift + dice.uniform(-2, 9), lift + dice.uniform(-18, 2)
    uneven = (
        np.float32(dice.uniform(-18, 8)) * down[:, None]
        + np.float32(dice.uniform(-10, 10)) * across[None, :]
    )
    image = image * (vignette * np.float32(exposure))[:, :, None] + uneven[:, :, None]
    image += np.array(cast, np.float32)
    noise = generator.integers(-128, 128, (2, height, width, 3), dtype=np.int8)
    strength = np.float32(dice.uniform(0.01, 0.03))
    image += strength * (noise[0].astype(np.float32) + noise[1])
    image = _soften_chroma(image)
    return (np.clip(image, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _blur(image: np.ndarray, weight: float) -> np.ndarray:
    """Blurs with a separable three-tap filter, with `weight` on each neighbour."""
    side, middle = np.float32(weight), np.float32(1 - 2 * weight)
    padded = np.concatenate((image[:1], image, image[-1:]))
    image = middle * image + side * (padded[:-2] + padded[2:])
    padded = np.concatenate((image[:, :1], image, image[:, -1:]), axis=1)
    return middle * image + side * (padded[:, :-2] + padded[:, 2:])


def _soften_chroma(image: np.ndarray) -> np.ndarray:
    """Keeps brightness and averages colour over 2 x 2 blocks, as 4:2:0 JPEG does."""
    height, width = image.shape[:2]
    luma = (image[:, :, :1] + 2 * image[:, :, 1:2] + image[:, :, 2:]) / 4
    chroma = image - luma
    even = chroma[: height // 2 * 2, : width // 2 * 2]
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    for row in (0, 1):
        for column in (0, 1):
            even[row::2, column::2] = mean
    return luma + chroma


CAMERA = Domain(
    number=1,
    layout=Layout(
        focal=(0.78, 0.92), horizon=(0.40, 0.50), yaw=(-0.08, 0.08), height=(1.15, 1.45),
        bend=(-0.0006, 0.0006), lanes=(1, 1, 2), lane_width=(2.9, 3.3), sidewalk=(1.6, 4.0),
        frontage={"building": 0.72, "green": 0.12, "wall": 0.09, "fence": 0.11},
        storeys=(3, 7), strip=0.25, median=0.08, junction=0.35, parking=0.65, parked=0.75,
        tree_gap=(6, 13), trees=0.55, pole_gap=(12, 26), light=0.2, sign=0.42,
        traffic={"car": 0.79, "truck": 0.12, "bus": 0.09}, moving=(1, 5), people=(1, 6),
        train=0.11, cyclist=0.24, motorcyclist=0.13, bicycle=0.2, motorcycle=0.07, bin=0.2,
        ragged=0.55, trim=0.18,
    ),
    palette={
        "sky": ((196, 224, 266), (234, 244, 258)),
        "road": ((98, 98, 104), (90, 92, 96), (108, 104, 104)),
        "marking": ((186, 186, 182),), "rail": ((56, 54, 54),),
        "sidewalk": ((160, 148, 138), (150, 146, 142), (168, 150, 134)),
        "curb": ((176, 170, 164),), "terrain": ((124, 146, 70), (134, 134, 78), (108, 134, 68)),
        "glass": ((66, 86, 110), (54, 64, 82), (106, 118, 130)),
        "roof": ((96, 66, 58), (74, 72, 76)),
        "awning": ((120, 56, 52), (60, 70, 66), (140, 132, 110)),
        "wall": ((150, 142, 130), (140, 120, 104)), "fence": ((116, 86, 62), (92, 98, 80)),
        "pole": ((88, 92, 92), (70, 74, 70)), "light": ((30, 34, 32),),
        "sign": ((176, 44, 46), (44, 76, 150), (206, 176, 70), (214, 214, 210), (92, 94, 96)),
        "bin": ((70, 78, 74), (58, 58, 62)),
        "leaves": ((58, 108, 44), (74, 116, 50), (50, 92, 48), (92, 114, 50)),
        "bark": ((66, 56, 48), (82, 74, 64)),
        "skin": ((206, 166, 140), (160, 116, 90), (104, 76, 60)),
        "hair": ((44, 36, 30), (86, 66, 48), (112, 108, 104)),
        "clothes": ((50, 52, 70), (38, 38, 42), (64, 80, 130), (150, 64, 60), (176, 172, 166),
                    (110, 104, 74)),
        "jersey": ((196, 206, 60), (206, 112, 48)),
        "helmet": ((190, 190, 190), (130, 44, 44), (36, 36, 40)),
        "windscreen": ((44, 50, 54),),
        "car": ((34, 34, 38), (124, 126, 132), (176, 178, 180), (216, 216, 214), (46, 68, 128),
                (150, 40, 42), (70, 76, 84)),
        "cargo": ((206, 206, 200), (186, 146, 90), (98, 126, 156)),
        "cab": ((150, 60, 56), (60, 76, 110), (180, 180, 176)),
        "bus": ((206, 172, 54), (176, 64, 56), (190, 192, 186)),
        "train": ((70, 124, 92), (210, 204, 184)),
        "motorcycle": ((46, 46, 52), (140, 44, 44), (84, 96, 130)),
        "bicycle": ((60, 62, 66), (110, 52, 50), (70, 90, 110)), "spokes": ((112, 112, 110),),
        "hood": ((44, 46, 50),),
    },
    facades=(
        ((158, 98, 78), "brick"), ((140, 92, 78), "brick"), ((190, 174, 140), "plaster"),
        ((154, 150, 154), "plaster"), ((200, 192, 172), "plaster"), ((138, 146, 154), "panels"),
        ((174, 142, 108), "plaster"),
    ),
    textures={
        "brick": texture("brick", scale=20, amount=0.3),
        "plaster": texture("plaster", scale=10, amount=0.22),
        "panels": texture("panels", scale=9, amount=0.25),
        "stone": texture("stone", scale=22, amount=0.3),
        "slats": texture("slats", scale=16, amount=0.2),
        "leaves": texture("leaves", scale=9, amount=0.6),
        "bark": texture("grain", scale=20, amount=0.3),
        "asphalt": texture("grain", scale=11, amount=0.22),
        "paving": texture("stone", scale=20, amount=0.22),
        "grass": texture("leaves", scale=10, amount=0.4),
    },
    sun=0.06, shadow=0.8, hood=0.9, finish=_optics_and_sensor,
)  # fmt: skip
