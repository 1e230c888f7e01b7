"""Pictures people look at instead of reading: a grid of images and coloured labels."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from rtda_jax.losses import IGNORE
from rtda_jax.run.files import replacing

# The text chunk that says what a sheet's cells are.
CELLS = "rtda_jax.cells"

MARGIN, TITLE, INK, PAPER = 6, 16, (30, 30, 30), (255, 255, 255)


def colourise(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Labels [H,W] in their colours [K,3], ignored pixels black; uint8 [H,W,3]."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = 0
    return table[labels]


def as_bytes(image: np.ndarray) -> np.ndarray:
    """A float image in [0,255] (or a little outside) as uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    titles: Sequence[str],
    names: Sequence[str],
    colours: np.ndarray,
    width: int = 320,
) -> Image.Image:
    """A titled grid of images with a class legend below.

    Args:
      rows: uint8 images [H,W,3], one per title in every row.
      titles: of the columns.
      names: of the classes, for the legend.
      colours: uint8 [K,3].
      width: of a cell in pixels.
    """
    height = max(round(width * image.shape[0] / image.shape[1]) for row in rows for image in row)
    across = len(titles) * (width + MARGIN) + MARGIN
    below = legend(names=names, colours=colours, width=across)
    top = TITLE + len(rows) * (height + MARGIN)
    sheet = Image.new("RGB", (across, top + below.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles):
        draw.text((MARGIN + c * (width + MARGIN), 3), title, fill=INK)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            cell = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(cell, (MARGIN + c * (width + MARGIN), TITLE + r * (height + MARGIN)))
    sheet.paste(below, (0, top))
    sheet.info[CELLS] = json.dumps(
        {"titles": list(titles), "rows": len(rows), "size": [height, width]}
    )
    return sheet


def legend(*, names: Sequence[str], colours: np.ndarray, width: int) -> Image.Image:
    """The names of the classes with their colours uint8 [K,3], in as many lines as it takes."""
    longest = max((len(name) for name in names), default=0)
    per_line = max(1, (width - MARGIN) // (longest * 7 + 26))
    lines = -(-len(names) // per_line)
    strip = Image.new("RGB", (width, lines * (TITLE + 2) + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(strip)
    step = (width - MARGIN) // per_line
    for k, name in enumerate(names):
        x, y = MARGIN + (k % per_line) * step, MARGIN + (k // per_line) * (TITLE + 2)
        draw.rectangle((x, y, x + 14, y + 12), fill=tuple(int(v) for v in colours[k]))
        draw.text((x + 19, y), name, fill=INK)
    return strip


def cells(path: pathlib.Path) -> dict[str, list[np.ndarray]] | None:
    """Title -> the images of its column, of a sheet `save` wrote; None of any other picture."""
    with Image.open(path) as image:
        said = image.info.get(CELLS)
        sheet = np.asarray(image.convert("RGB"))
    if said is None:
        return None
    titles, count, (height, width) = (json.loads(said)[key] for key in ("titles", "rows", "size"))
    if len(titles) * count > sheet.size:
        raise ValueError(f"it says to have {count} rows")
    columns: dict[str, list[np.ndarray]] = {}
    for c, title in enumerate(titles):
        left = MARGIN + c * (width + MARGIN)
        tops = [TITLE + r * (height + MARGIN) for r in range(count)]
        columns[title] = [sheet[top : top + height, left : left + width] for top in tops]
    return columns


def save(image: Image.Image, path: pathlib.Path) -> None:
    """Writes a picture as a PNG, with the description of its cells if it is a grid."""
    text = PngImagePlugin.PngInfo()
    if CELLS in image.info:
        text.add_text(CELLS, image.info[CELLS])
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=text)
