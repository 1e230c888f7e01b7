"""Draws pictures for people: coloured labels, and grids of images with titles and a legend."""

import functools
import json
import math
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from rtda_jax.losses import IGNORE
from rtda_jax.run.files import replacing

CELLS = "rtda_jax.cells"  # the text chunk of a PNG that describes the cells of a grid
IGNORED = "ignored"  # the name in the legend for pixels without a class
BLACK, INK, PAPER = (0, 0, 0), (30, 30, 30), (255, 255, 255)
MARGIN = 6
SMALLEST_TEXT = 12  # pixels; below it letters run together
WIDEST_CELL = 512

_NO_SIGN = "\uffff"
# Letters that have no accent to leave out.
_PLAIN = {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O",
          "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th",
          "\u0131": "i", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'",
          "\u201c": '"', "\u201d": '"'}  # fmt: skip


def colourise(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paints labels [H,W] in their colours [K,3], ignored pixels black; uint8 [H,W,3]."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = BLACK
    return table[labels]


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Rounds a float image in [0,255], or a little outside, to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    titles: Sequence[str],
    names: Sequence[str],
    colours: np.ndarray,
    width: int | None = None,
    captions: Sequence[Sequence[str]] = (),
    ignored: bool = True,
) -> Image.Image:
    """Returns a titled grid of images with a legend of the classes below.

    A title that is wider than its column continues in a further line.

    Args:
      rows: uint8 images [H,W,3], one per title in every row; labels keep their colours when they
        are scaled.
      titles: the titles of the columns.
      names: the names of the classes.
      colours: the colours of the classes, uint8 [K,3].
      width: the width of a cell in pixels; by default that of the widest image, up to WIDEST_CELL.
      captions: lines below the images, one per image.
      ignored: whether the legend names ignored pixels, which are black.
    """
    images = [image for row in rows for image in row]
    width = width or min(WIDEST_CELL, max(image.shape[1] for image in images))
    height = max(round(width * image.shape[0] / image.shape[1]) for image in images)
    size = max(SMALLEST_TEXT, width // 24)
    line = math.ceil(1.5 * size)
    across, down = width + MARGIN, height + MARGIN + (line if captions else 0)
    wide = len(titles) * across + MARGIN
    table = np.concatenate([np.reshape(colours, (-1, 3)), [BLACK]])
    shown = (*names, IGNORED) if ignored else names
    below = legend(names=shown, colours=table, width=wide) if names else None
    headings = [_wrapped(title, size=size, within=width) for title in titles]
    first = line * max(map(len, headings))
    top = first + len(rows) * down
    sheet = Image.new("RGB", (wide, top + (below.height if below else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, heading in enumerate(headings):
        for k, part in enumerate(heading):
            write(draw, (MARGIN + c * across, k * line), part, size=size, within=width)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            left, upper = MARGIN + c * across, first + r * down
            tall = round(width * image.shape[0] / image.shape[1])
            cell = Image.fromarray(image).resize((width, tall), Image.Resampling.NEAREST)
            sheet.paste(cell, (left, upper))
            if captions:
                write(draw, (left, upper + height), captions[r][c], size=size, within=width)
    if below:
        sheet.paste(below, (0, top))
    layout = {"titles": list(titles), "rows": len(rows), "size": [height, width]}
    sheet.info[CELLS] = json.dumps({**layout, "top": first, "step": [down, across]})
    return sheet


def legend(*, names: Sequence[str], colours: np.ndarray, width: int) -> Image.Image:
    """Draws names with their colours uint8 [K,3] in as many lines as they need.

    The letters grow with the width, so that the legend of a large picture can still be read when
    the picture is reduced.
    """
    size = max(SMALLEST_TEXT, width // 100)
    swatch, gap = 5 * size // 4, size // 2
    names = [drawable(name) for name in names]
    longest = max((font(size).getlength(name) for name in names), default=0)
    step = swatch + math.ceil(longest) + 3 * gap
    per_line = max(1, (width - MARGIN) // step)
    lines, tall = -(-len(names) // per_line), math.ceil(1.7 * size)
    strip = Image.new("RGB", (width, lines * tall + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(strip)
    for k, name in enumerate(names):
        x, y = MARGIN + (k % per_line) * step, MARGIN + (k // per_line) * tall
        colour = tuple(int(value) for value in colours[k])
        draw.rectangle((x, y, x + swatch, y + swatch), fill=colour)
        draw.text((x + swatch + gap, y), name, fill=INK, font=font(size))
    return strip


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the typeface of Pillow, with letters of this size in pixels."""
    typeface = ImageFont.load_default(size)
    if not isinstance(typeface, ImageFont.FreeTypeFont):
        raise RuntimeError("pictures with text need a Pillow that is built with FreeType")
    return typeface


def drawable(text: str) -> str:
    """Returns a text as the typeface can draw it, with spaces that are wide enough to be seen.

    It draws a box for a letter that it lacks, so that "Köln" becomes "Koln" and a Chinese sign its
    number.
    """
    return "".join("  " if sign == " " else _letters(sign) for sign in text)


@functools.lru_cache(maxsize=1024)
def _letters(sign: str) -> str:
    """Returns a sign, or if the typeface lacks it, letters without accents or its number."""
    if _has(sign):
        return sign
    plain = _PLAIN.get(sign) or "".join(
        part for part in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(part)
    )
    if all(map(_has, plain)):  # nothing remains of an accent alone
        return plain
    return sign.encode("ascii", "backslashreplace").decode()


def _has(sign: str) -> bool:
    """Returns whether the typeface has a sign: otherwise it draws what it draws for no sign."""
    letters = font(SMALLEST_TEXT)
    mask, box = letters.getmask(sign), letters.getmask(_NO_SIGN)
    return sign.isspace() or (mask.size, bytes(mask)) != (box.size, bytes(box))


def _wrapped(text: str, *, size: int, within: int) -> list[str]:
    """Returns the lines of a text; only a word that is too wide alone is wider than they may be."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size).getlength(drawable(longer)) > within:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, *, size: int, within: int
) -> None:
    """Writes a line of text and leaves out its middle if it is too wide."""
    letters, text = font(size), drawable(text)
    shown = text
    for length in range(len(text) - 1, 0, -1):
        if letters.getlength(shown) <= within:
            break
        shown = f"{text[: length // 2]}…{text[len(text) - (length + 1) // 2 :]}"
    draw.text((place[0], place[1] + size // 6), shown, fill=INK, font=letters)


def cells(sheet: Image.Image) -> dict[str, list[np.ndarray]] | None:
    """Returns title -> the images uint8 [H,W,3] of its column; None for a picture without cells.

    Raises:
      ValueError: the cells of its description are not inside it.
    """
    claim = sheet.info.get(CELLS)
    if claim is None:
        return None
    layout = json.loads(claim)
    titles, rows, (height, width) = (layout[key] for key in ("titles", "rows", "size"))
    # Sheets of releases up to 0.1 lack the positions and distances of their cells.
    top, (down, across) = layout.get("top", 16), layout.get("step", (height + 6, width + 6))
    numbers = (rows, height, width, top, down, across)
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError(f"{rows} rows of cells of {height} x {width} pixels")
    right = MARGIN + (len(titles) - 1) * across + width
    if right > sheet.width or top + (rows - 1) * down + height > sheet.height:
        raise ValueError(f"{len(titles)} x {rows} cells of {height} x {width} pixels are outside")
    pixels = np.asarray(sheet.convert("RGB"))
    columns: dict[str, list[np.ndarray]] = {}
    for c, title in enumerate(titles):
        left = MARGIN + c * across
        tops = [top + r * down for r in range(rows)]
        columns[str(title)] = [pixels[y : y + height, left : left + width] for y in tops]
    return columns


def save(image: Image.Image, path: pathlib.Path) -> None:
    """Writes a picture as a PNG, with the description of its cells if it is a grid."""
    text = PngImagePlugin.PngInfo()
    if CELLS in image.info:
        text.add_text(CELLS, image.info[CELLS])
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=text)
