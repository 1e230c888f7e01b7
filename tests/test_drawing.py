"""Colours, grids and legends that people look at."""

import numpy as np
import pytest
from PIL import Image

from rtda_jax.data.labels import class_set
from rtda_jax.tools import drawing

CLASSES = class_set("cityscapes19")
COLOURS = np.asarray(CLASSES.colours, np.uint8)


def test_colours_of_labels_and_ignored_pixels():
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    painted = drawing.colourise(np.array([[0, 1, 255]], np.uint8), colours)
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]])


def test_bytes_are_rounded_and_clipped():
    np.testing.assert_array_equal(drawing.as_bytes(np.array([-3.0, 1.6, 300.0])), [0, 2, 255])


def test_a_grid_holds_every_cell_and_a_legend_with_what_is_ignored():
    cell = np.full((8, 16, 3), 200, np.uint8)
    other = np.full((8, 16, 3), (1, 2, 3), np.uint8)
    colours = np.array([[9, 8, 7]], np.uint8)
    sheet = np.asarray(
        drawing.grid([[cell, other]], titles=["a", "b"], names=["road"], colours=colours, width=100)
    )
    for colour, least in (
        ((200, 200, 200), 5000), ((1, 2, 3), 5000), ((9, 8, 7), 150), ((0, 0, 0), 150)
    ):  # fmt: skip
        assert (sheet == colour).all(-1).sum() >= least


def test_the_cells_of_a_grid_are_found_again(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 100, 3), np.uint8) for _ in range(4)]
    rows = [images[:2], images[2:]]
    options = {"names": CLASSES.names, "colours": COLOURS, "width": 100}
    drawing.save(drawing.grid(rows, titles=["a", "b"], **options), tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as sheet:
        cells = drawing.cells(sheet)
    assert list(cells) == ["a", "b"]
    np.testing.assert_array_equal(cells["b"][1], images[3])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]


@pytest.mark.parametrize("width", [20, 200, 640, 1300, 4096])
def test_a_legend_has_room_for_every_name_and_grows_with_the_picture(width):
    strip = np.asarray(drawing.legend(names=CLASSES.names, colours=COLOURS, width=width))
    assert strip.shape[1] == width
    for colour in COLOURS:
        assert (strip == colour).all(-1).sum() >= 100
    inside = strip[:, -drawing.MARGIN // 2 :]
    assert width < 200 or (inside == drawing.PAPER).all()  # no name is cut
    text = max(12, width // 100)
    swatch = (strip == COLOURS[0]).all(-1).any(0).sum()
    assert swatch == pytest.approx(text * 1.25, abs=1.1) or width == 20


def test_a_name_of_two_words_stays_two_words():
    """The space is wide enough to be seen: no column of letters for a third of an em."""
    strip = np.asarray(
        drawing.legend(names=["traffic sign"], colours=np.array([[255, 255, 255]]), width=300)
    )
    inked = (strip.min(-1) < 128).any(0)
    columns = np.flatnonzero(inked)
    assert np.diff(columns).max() >= 4


def test_a_legend_of_nothing_is_paper():
    strip = np.asarray(drawing.legend(names=(), colours=np.zeros((0, 3), np.uint8), width=100))
    assert (strip == drawing.PAPER).all()
