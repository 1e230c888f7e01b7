"""The same images through every method, cut out of the runs' predictions.png."""

import io
import pathlib

import numpy as np

from rtda_jax.data import headers
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.report.document import Gallery, Picture
from rtda_jax.report.figures import slug
from rtda_jax.report.groups import Board
from rtda_jax.tools import pictures

TRUTH, SHOWN = "truth", "prediction"


def gallery(board: Board) -> tuple[list[Gallery], list[Picture]]:
    """Target, truth and the prediction of each row's first seed; and the sheets left whole.

    A sheet stays whole if it does not say what its cells are (an older run's), or if it shows other
    images than the first.
    """
    columns: dict[str, list[np.ndarray]] = {}
    sheets: list[Picture] = []
    for row in board.rows:
        result = next(iter(row.results.values()))
        if result.picture is None:
            continue
        cells = read_cells(result.picture)
        if cells is None or not _same(cells, columns):
            png = result.picture.read_bytes()
            sheets.append(Picture(f"sheet-{slug(row.label)}", png, row.label))
            continue
        if not columns:
            columns |= {"target": cells["target"], TRUTH: cells[TRUTH]}
        columns[row.label] = cells[SHOWN]
    if not columns:
        return [], sheets
    known = class_set(board.protocol["head_classes"])
    rows = [list(images) for images in zip(*columns.values(), strict=True)]
    name = f"gallery-{slug(board.benchmark)}"
    return [Gallery(name, list(columns), rows, known.names, known.colours)], sheets


def read_cells(path: pathlib.Path) -> dict[str, list[np.ndarray]] | None:
    """Those of pictures.cells; ConfigError naming a file that is no picture of a run."""
    try:
        headers.probe(path.read_bytes(), str(path))
        return pictures.cells(path)
    except Exception as error:  # a damaged picture can raise anything
        raise ConfigError(f"{path}: not a picture that a run writes: {error}") from None


def _same(cells: dict[str, list[np.ndarray]], columns: dict[str, list[np.ndarray]]) -> bool:
    if not {"target", TRUTH, SHOWN} <= cells.keys():
        return False
    if not columns:
        return True
    mine, first = cells[TRUTH], columns[TRUTH]
    return len(mine) == len(first) and all(
        np.array_equal(a, b) for a, b in zip(mine, first, strict=True)
    )


def png(image: np.ndarray) -> bytes:
    """An image uint8 [H,W,3] as the bytes of a PNG."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(image).save(held, format="PNG", optimize=True)
    return held.getvalue()
