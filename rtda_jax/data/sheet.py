"""Contact sheets: examples with their labels and a legend, for people to look at."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rtda_jax.data import decode, pictures
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import ClassSet
from rtda_jax.errors import printable
from rtda_jax.run.files import write_bytes

_WIDTH = 320  # pixels of a panel
_TALLEST = 3 * _WIDTH  # a panel that would be taller is squeezed
_GAP = 4
_LINE = 16  # height of a line of text
_ROWS = 6
_MIX = 0.55  # share of the label's colour in the overlay


def contact_sheet(
    dataset: Dataset, path: pathlib.Path, indices: Sequence[int], *, rows: int = _ROWS
) -> None:
    """Writes a PNG of evenly chosen examples: image, label over image, label, and the legend.

    Ignored pixels are black in the label and untouched in the overlay. Unlabelled sets show their
    images only.

    Args:
      dataset: what is shown.
      path: of the file.
      indices: the examples that can be read.
      rows: how many are shown.
    """
    places = np.linspace(0, len(indices) - 1, min(rows, len(indices))).round().astype(int)
    strips = [_row(dataset, indices[place]) for place in places]
    if dataset.labelling is not None:
        strips.append(_legend(dataset.classes, strips[0].width))
    sheet = Image.new("RGB", (strips[0].width, sum(s.height + _GAP for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + _GAP
    write_bytes(path, pictures.png(np.asarray(sheet)))


def _row(dataset: Dataset, i: int) -> Image.Image:
    """Draws the panels of one example under its name."""
    pixels, label = decode.examine(dataset, i)
    panels = [(pixels, Image.Resampling.BILINEAR)]
    if label is not None:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(dataset.classes)] = dataset.classes.colours
        painted = colours[label]
        mixed = (_MIX * painted + (1 - _MIX) * pixels).astype(np.uint8)
        valid = (label < len(dataset.classes))[..., None]
        panels.append((np.where(valid, mixed, pixels), Image.Resampling.BILINEAR))
        panels.append((painted, Image.Resampling.NEAREST))
    height = min(max(round(_WIDTH * pixels.shape[0] / pixels.shape[1]), 1), _TALLEST)
    row = Image.new("RGB", (len(panels) * (_WIDTH + _GAP) - _GAP, height + _LINE), "white")
    for number, (panel, method) in enumerate(panels):
        small = Image.fromarray(panel).resize((_WIDTH, height), method)
        row.paste(small, (number * (_WIDTH + _GAP), _LINE))
    ImageDraw.Draw(row).text((2, 2), printable(f"{dataset.name}  {dataset.keys[i]}"), fill="black")
    return row


def _legend(classes: ClassSet, width: int) -> Image.Image:
    """Draws a swatch and a name for each class, in columns."""
    font = ImageFont.load_default()
    column = 24 + max(int(font.getlength(name)) for name in classes.names) + 12
    across = max(width // column, 1)
    image = Image.new("RGB", (width, -(-len(classes) // across) * _LINE + _GAP), "white")
    draw = ImageDraw.Draw(image)
    for number, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        left, top = number % across * column, number // across * _LINE
        draw.rectangle((left + 2, top + 2, left + 18, top + 13), fill=colour, outline="black")
        draw.text((left + 24, top + 2), name, fill="black", font=font)
    return image
