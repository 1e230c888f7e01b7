"""Procedural street scenes in two domains, "game" and "camera": the built-in benchmark."""

import numpy as np

from rtda_jax.data.streets.canvas import Canvas, View, shade
from rtda_jax.data.streets.domain import Dice
from rtda_jax.data.streets.looks import CAMERA, GAME
from rtda_jax.data.streets.scene import paint_scene
from rtda_jax.errors import lookup

__all__ = ["DOMAINS", "render"]

DOMAINS = {"game": GAME, "camera": CAMERA}


def render(
    domain: str, index: int, *, seed: int = 0, height: int = 96, width: int = 192
) -> tuple[np.ndarray, np.ndarray]:
    """Renders scene `index` of a domain.

    The scene depends only on (seed, domain, index); the size only says how finely it is sampled.
    Any aspect ratio works, but the scenes are composed for 1:2.

    Args:
      domain: a key of `DOMAINS`.
      index: the scene's number, >= 0.
      seed: the data set's number, >= 0.
      height: rows, >= 8.
      width: columns, >= 8.

    Returns:
      The image, uint8 [height, width, 3], and the Cityscapes labelIds, uint8 [height, width].

    Raises:
      ConfigError: an unknown domain.
      ValueError: a negative index or seed, or a size below 8.
    """
    style = lookup(DOMAINS, domain, "streets domain")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must be >= 0, got index {index} and seed {seed}")
    if height < 8 or width < 8:
        raise ValueError(f"height and width must be >= 8, got {height} x {width}")
    layout_seed, sensor_seed = np.random.SeedSequence([seed, style.number, index]).spawn(2)
    dice = Dice(np.random.Generator(np.random.PCG64(layout_seed)))
    layout = style.layout
    # Each pixel has two by two samples: colours are averaged, the label is that of the first one.
    rows, columns = 2 * height, 2 * width
    view = View(
        rows=rows,
        columns=columns,
        focal=dice.between(layout.focal) * columns,
        centre=(0.5 + dice.between(layout.yaw)) * columns,
        horizon=dice.between(layout.horizon) * rows,
        height=dice.between(layout.height),
        bend=dice.between(layout.bend),
    )
    sunny = dice.uniform(-1, 1) * style.sun
    light = {"front": 1.0, "left": 0.9 + sunny, "right": 0.9 - sunny, "ground": 1.0, "sky": 1.0}
    canvas = Canvas(view, style, light)
    paint_scene(canvas, dice)
    _paint_hood(canvas, dice)
    colour, depth, labels = shade(canvas)
    colour = colour[::2] + colour[1::2]
    colour = (colour[:, ::2] + colour[:, 1::2]) / 4
    label = np.ascontiguousarray(labels[::2, ::2])
    sensor = np.random.Generator(np.random.PCG64(sensor_seed))
    return style.finish(colour, depth[::2, ::2], label, dice, sensor), label


def _paint_hood(canvas: Canvas, dice: Dice) -> None:
    """Paints the hood of our own car along the lower edge, a class that no metric counts."""
    if not dice.chance(canvas.domain.hood):
        return
    view = canvas.view
    material = canvas.material("ego vehicle", canvas.domain.palette["hood"][0])
    tall = dice.uniform(0.05, 0.09) * view.rows
    across = (np.arange(view.columns, dtype=np.float32) + np.float32(0.5)) / view.columns * 2 - 1
    edge = view.rows - np.float32(tall) * (1 - across * across * np.float32(0.6))
    mask = np.arange(view.rows, dtype=np.float32)[:, None] >= edge
    np.copyto(canvas.ids, material, where=mask)
    np.copyto(canvas.depth, np.float32(1.0), where=mask)
