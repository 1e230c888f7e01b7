"""Draws pictures for people: coloured labels, and a grid of images with a legend of the classes."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from rtda_jax.losses import IGNORE
from rtda_jax.run.files import replacing

# The text chunk of a PNG that describes the cells of a grid.
CELLS = "rtda_jax.cells"

MARGIN, TITLE, TEXT = 6, 16, 12  # pixels: between cells, of the line of titles, of its letters
INK, PAPER, IGNORED = (30, 30, 30), (255, 255, 255), (0, 0, 0)


def colourise(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns labels [H,W] in their colours [K,3], with ignored pixels black; uint8 [H,W,3]."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = IGNORED
    return table[labels]


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Returns a float image in [0,255], or a little outside, rounded and clipped to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    titles: Sequence[str],
    names: Sequence[str],
    colours: np.ndarray,
    width: int = 320,
) -> Image.Image:
    """Returns a titled grid of images with a legend of the classes below.

    Args:
      rows: uint8 images [H,W,3], in every row one for each title.
      titles: the titles of the columns.
      names: the names of the classes.
      colours: the colours of the classes, uint8 [K,3].
      width: the width of a cell in pixels; heights follow the images.
    """
    height = max(round(width * image.shape[0] / image.shape[1]) for row in rows for image in row)
    across = len(titles) * (width + MARGIN) + MARGIN
    if names:
        names, colours = [*names, "ignored"], np.vstack([colours, [IGNORED]])
    below = legend(names=names, colours=colours, width=across)
    top = TITLE + len(rows) * (height + MARGIN)
    sheet = Image.new("RGB", (across, top + below.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles):
        draw.text((MARGIN + c * (width + MARGIN), 1), title, fill=INK, font=_font(TEXT))
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
    """Returns the names of the classes beside their colours, in as many lines as they need.

    Args:
      names: the names of the classes.
      colours: the colours of the classes, uint8 [K,3].
      width: the width of the legend in pixels; a wide one has larger letters.
    """
    text = max(TEXT, width // 100)
    font, line, swatch = _font(text), text * 3 // 2, text * 5 // 4
    longest = max((int(font.getlength(name)) for name in names), default=0)
    step = min(longest + swatch + 2 * text, width - 2 * MARGIN)
    per_line = (width - 2 * MARGIN) // step if step > 0 else 1
    height = -(-len(names) // per_line) * line + 2 * MARGIN
    strip = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(strip)
    for k, name in enumerate(names):
        x, y = MARGIN + (k % per_line) * step, MARGIN + (k // per_line) * line
        colour = tuple(int(v) for v in colours[k])
        draw.rectangle((x, y, x + swatch, y + text), fill=colour)
        draw.text((x + swatch + text // 2, y + text // 2), name, fill=INK, font=font, anchor="lm")
    return strip


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font that comes with Pillow, in a size of pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("pictures with text need a Pillow that is built with FreeType")
    return font


def cells(sheet: Image.Image) -> dict[str, list[np.ndarray]] | None:
    """Returns title -> the images uint8 [H,W,3] of its column; None of a picture without cells.

    Raises:
      ValueError: the cells that it claims to have are not inside it.
    """
    claim = sheet.info.get(CELLS)
    if claim is None:
        return None
    titles, rows, (height, width) = (json.loads(claim)[key] for key in ("titles", "rows", "size"))
    if not all(type(number) is int and number > 0 for number in (rows, height, width)):
        raise ValueError(f"{rows} rows of cells of {height} x {width} pixels")
    across, down = width + MARGIN, height + MARGIN
    if len(titles) * across > sheet.width or TITLE + rows * down > sheet.height:
        raise ValueError(f"{len(titles)} x {rows} cells of {height} x {width} pixels are outside")
    pixels = np.asarray(sheet.convert("RGB"))
    columns: dict[str, list[np.ndarray]] = {}
    for c, title in enumerate(titles):
        left = MARGIN + c * across
        tops = [TITLE + r * down for r in range(rows)]
        columns[str(title)] = [pixels[top : top + height, left : left + width] for top in tops]
    return columns


def save(image: Image.Image, path: pathlib.Path) -> None:
    """Writes a picture as a PNG, with the description of its cells if it is a grid."""
    text = PngImagePlugin.PngInfo()
    if CELLS in image.info:
        text.add_text(CELLS, image.info[CELLS])
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=text)
