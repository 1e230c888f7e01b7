"""Contact sheets: examples with their labels and a legend, to be looked at."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import ClassSet

_WIDTH = 320  # of a panel, pixels
_GAP = 4
_LINE = 16  # of text
_ROWS = 6
_MIX = 0.55  # share of the label's colour in the overlay


def contact_sheet(
    dataset: Dataset, path: str | os.PathLike, indices: Sequence[int], *, rows: int = _ROWS
) -> None:
    """Write a PNG of evenly chosen examples: image, label over image, label, and the legend.

    Ignored pixels are black in the label and untouched in the overlay. Unlabelled sets show images.
    """
    places = np.linspace(0, len(indices) - 1, min(rows, len(indices))).round().astype(int)
    strips = [_row(dataset, indices[place]) for place in places]
    legend = _legend(dataset.classes, strips[0].width)
    parts = [*strips, legend] if dataset.labelling is not None else strips
    height = sum(part.height + _GAP for part in parts)
    whole = Image.new("RGB", (strips[0].width, height), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + _GAP
    whole.save(path)


def _row(dataset: Dataset, i: int) -> Image.Image:
    pixels, label = decode.examine(dataset, i)
    panels = [Image.fromarray(pixels)]
    if label is not None:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(dataset.classes)] = dataset.classes.colours
        painted = colours[label]
        mixed = (_MIX * painted + (1 - _MIX) * pixels).astype(np.uint8)
        valid = (label < len(dataset.classes))[..., None]
        panels += [Image.fromarray(np.where(valid, mixed, pixels)), Image.fromarray(painted)]
    height = round(_WIDTH * pixels.shape[0] / pixels.shape[1])
    row = Image.new("RGB", (len(panels) * (_WIDTH + _GAP) - _GAP, height + _LINE), "white")
    for number, panel in enumerate(panels):
        filtered = Image.Resampling.NEAREST if number == 2 else Image.Resampling.BILINEAR
        row.paste(panel.resize((_WIDTH, height), filtered), (number * (_WIDTH + _GAP), _LINE))
    ImageDraw.Draw(row).text((2, 2), f"{dataset.name}  {dataset.keys[i]}", fill="black")
    return row


def _legend(classes: ClassSet, width: int) -> Image.Image:
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
