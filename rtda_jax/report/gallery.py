"""Cuts the same images out of the predictions.png of every method, and puts them side by side."""

import io
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.report.compare import Board
from rtda_jax.report.page import Gallery
from rtda_jax.report.records import read
from rtda_jax.tools import drawing

TARGET, TRUTH, PREDICTION = "target", "truth", "prediction"  # titles of a sheet's columns
MOST_BYTES = 32 << 20  # of a picture
MOST_PIXELS = 1 << 24  # of a picture: a hundred rows of what a run writes
SHOWN = 6  # images of each method
LARGEST = 1024  # pixels of an image's side

Cells = Mapping[str, Sequence[np.ndarray]]


def galleries(board: Board) -> tuple[Gallery | None, Gallery | None]:
    """Returns target, truth and each row's prediction, of its first seed that has a picture.

    The second gallery has the sheets that are left whole.

    A sheet stays whole if it does not say what its cells are (an older run's), or if it shows other
    images than the first.
    """
    columns: list[tuple[str, Sequence[np.ndarray]]] = []
    sheets: list[tuple[str, Sequence[np.ndarray]]] = []
    truth: Sequence[np.ndarray] | None = None
    for row in board.rows:
        path = next((e.picture for e in row.evaluations.values() if e.picture), None)
        if path is None:
            continue
        sheet = open_sheet(path)
        cells = read_cells(sheet, path)
        if cells is None or not _comparable(cells, truth):
            sheets.append((row.label, [_small(np.asarray(sheet.convert("RGB")))]))
            continue
        if truth is None:
            truth = cells[TRUTH]
            columns = [(f"({name})", [_small(c) for c in cells[name]]) for name in (TARGET, TRUTH)]
        columns.append((row.label, [_small(cell) for cell in cells[PREDICTION]]))
    known = class_set(board.protocol["head_classes"])
    gallery = Gallery(columns, known.names, known.colours) if columns else None
    return gallery, Gallery(sheets) if sheets else None


def open_sheet(path: pathlib.Path) -> Image.Image:
    """Opens a run's predictions.png; a ConfigError names one that is not or is too large."""
    data = read(path, inside=path.parent.parent, most=MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data or b""), formats=["PNG"])
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels; expected at most {MOST_PIXELS}")
        image.load()
    except Exception as error:  # what Pillow raises for damaged files has no common class
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from None
    return image


def read_cells(sheet: Image.Image, path: pathlib.Path) -> Cells | None:
    """Returns the first images of each of a sheet's columns by title; None of any other picture.

    Raises:
      ConfigError: it says to have cells that it does not have, naming the path.
    """
    try:
        cells = drawing.cells(sheet)
    # It says so in JSON, whose shape can be anything.
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from None
    return None if cells is None else {title: column[:SHOWN] for title, column in cells.items()}


def _comparable(cells: Cells, truth: Sequence[np.ndarray] | None) -> bool:
    if not {TARGET, TRUTH, PREDICTION} <= cells.keys():
        return False
    return truth is None or (
        len(cells[TRUTH]) == len(truth)
        and all(np.array_equal(a, b) for a, b in zip(cells[TRUTH], truth, strict=True))
    )


def _small(image: np.ndarray) -> np.ndarray:
    """Returns a copy of an image, reduced where a side is longer than `LARGEST`."""
    step = -(-max(image.shape[:2]) // LARGEST)
    return image[::step, ::step].copy()
