"""The source domain: a clean, saturated, flat-shaded game under a clear sky."""

import numpy as np

from rtda_jax.data.streets.domain import Dice, Domain, Layout


def _finish(
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
    sun=0.28, shadow=0.55, hood=0.0, finish=_finish,
)  # fmt: skip
