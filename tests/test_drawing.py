"""Colours, grids and legends that people look at."""

import json

import numpy as np
import pytest
from PIL import Image

from rtda_jax.data.labels import class_set
from rtda_jax.tools import drawing

CLASSES = class_set("cityscapes19")
COLOURS = np.asarray(CLASSES.colours, np.uint8)
TWO = np.array([[9, 8, 7], [70, 80, 90]], np.uint8)


def test_colours_of_labels_and_ignored_pixels():
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    painted = drawing.colourise(np.array([[0, 1, 255]], np.uint8), colours)
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]])


def test_bytes_are_rounded_and_clipped():
    np.testing.assert_array_equal(drawing.as_bytes(np.array([-3.0, 1.6, 300.0])), [0, 2, 255])


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


def cell(*colour, height=8, width=16):
    return np.full((height, width, 3), colour, np.uint8)


def grid(rows, **options):
    titles = [f"title {k}" for k in range(len(rows[0]))]
    options = {"titles": titles, "names": ["road", "traffic sign"], "colours": TWO, **options}
    return drawing.grid(rows, **options)


def count(sheet, colour):
    return int((np.asarray(sheet) == np.array(colour)).all(-1).sum())


def test_a_grid_holds_every_cell_and_a_legend_with_the_ignored_pixels():
    sheet = grid([[cell(200, 200, 200), cell(1, 2, 3)]], width=320)
    assert count(sheet, (200, 200, 200)) == count(sheet, (1, 2, 3)) == 320 * 160
    for colour in (*TWO, drawing.BLACK):
        assert count(sheet, colour) > 100


def test_without_names_there_is_no_legend():
    sheet = grid([[cell(200, 200, 200)]], names=(), width=64)
    assert count(sheet, drawing.BLACK) == 0
    assert sheet.height < 64


def test_a_cell_has_the_images_own_size_unless_that_is_large():
    assert count(grid([[cell(5, 5, 5, height=30, width=40)]]), (5, 5, 5)) == 30 * 40
    assert count(grid([[cell(5, 5, 5, height=600, width=2048)]]), (5, 5, 5)) == 150 * 512


def test_images_of_another_shape_keep_it():
    sheet = grid([[cell(5, 5, 5, height=20, width=40), cell(6, 6, 6, height=40, width=40)]])
    assert count(sheet, (5, 5, 5)) == 20 * 40
    assert count(sheet, (6, 6, 6)) == 40 * 40


def test_the_letters_of_a_legend_grow_with_its_width():
    small, large = (
        drawing.legend(names=["road", "traffic sign"], colours=TWO, width=width)
        for width in (700, 2800)
    )
    assert count(large, TWO[0]) > 4 * count(small, TWO[0])
    assert large.height > 1.7 * small.height


def test_every_name_of_a_legend_is_inside_it():
    names = [f"a class with a long name {k}" for k in range(30)]
    colours = np.arange(90, dtype=np.uint8).reshape(30, 3)
    for width in (400, 640, 2048):
        drawn = drawing.legend(names=names, colours=colours, width=width)
        assert drawn.width == width
        assert all(count(drawn, colour) > 50 for colour in colours)
        assert (np.asarray(drawn)[:, -1] == drawing.PAPER).all()


def test_the_cells_of_a_saved_grid_are_found_again(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 16, 3), np.uint8) for _ in range(3)] for _ in range(2)]
    captions = [[f"{r} {c}" for c in range(3)] for r in range(2)]
    for options, times in (({}, 1), ({"captions": captions}, 1), ({"width": 48}, 3)):
        drawing.save(grid(rows, **options), tmp_path / "new" / "sheet.png")
        with Image.open(tmp_path / "new" / "sheet.png") as sheet:
            columns = drawing.cells(sheet)
        assert list(columns) == ["title 0", "title 1", "title 2"]
        for c, column in enumerate(columns.values()):
            for image, found in zip([row[c] for row in rows], column, strict=True):
                np.testing.assert_array_equal(found, image.repeat(times, 0).repeat(times, 1))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_a_grid_of_an_older_release_is_read():
    sheet = Image.new("RGB", (6 + 2 * (16 + 6), 16 + 8 + 6))
    sheet.paste((1, 2, 3), (28, 16, 44, 24))
    sheet.info[drawing.CELLS] = json.dumps({"titles": ["a", "b"], "rows": 1, "size": [8, 16]})
    np.testing.assert_array_equal(drawing.cells(sheet)["b"], cell(1, 2, 3)[None])
    assert drawing.cells(Image.new("RGB", (8, 8))) is None


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"rows": 30},
        {"size": [8, 0]},
        {"size": [800, 16]},
        {"rows": 2, "step": [100, 22]},
        {"step": [14, 0]},
        {"top": -1},
        {"titles": ["a"] * 9},
    ],
)
def test_cells_outside_of_the_sheet_are_refused(change):
    sheet = grid([[cell(1, 1, 1), cell(2, 2, 2)]])
    sheet.info[drawing.CELLS] = json.dumps({**json.loads(sheet.info[drawing.CELLS]), **change})
    with pytest.raises(ValueError, match="cells of"):
        drawing.cells(sheet)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a-Z 9_.", "a-Z  9_."),
        ("Köln", "Koln"),
        ("Straße", "Strasse"),
        ("véhicule à Łódź", "vehicule  a  Lodz"),
        ("smørrebrød, piñata, façade", "smorrebrod,  pinata,  facade"),
        ("o\u0308", "o"),
        ("道路", "\\u9053\\u8def"),
        ("a…b", "a…b"),
    ],
)
def test_letters_that_the_typeface_lacks_are_no_boxes(text, drawn):
    assert drawing.drawable(text) == drawn
    sheets = [drawing.legend(names=[name], colours=TWO, width=400) for name in (text, drawn)]
    plain = drawing.legend(names=[drawn.replace("  ", " ")], colours=TWO, width=400)
    np.testing.assert_array_equal(sheets[0], plain)


def test_a_title_that_is_wider_than_its_column_continues_below():
    """Nothing of it is cut, and the cells are found below all of its lines."""
    title = "source as target (FDA 0.01)"
    cells = [[cell(9, 9, 9, height=64, width=96), cell(8, 8, 8, height=64, width=96)]]
    sheet = drawing.grid(cells, titles=[title, "b"], names=(), colours=TWO)
    lower = np.asarray(sheet)[18:36, :100]  # the second line of text
    assert (lower < 128).all(-1).any()
    assert (lower[:, drawing.MARGIN :] == drawing.PAPER).all(-1).mean() > 0.5  # not the image
    assert count(sheet, (9, 9, 9)) == count(sheet, (8, 8, 8)) == 64 * 96
    np.testing.assert_array_equal(drawing.cells(sheet)[title], [cells[0][0]])


def test_a_legend_names_ignored_pixels_only_where_there_are_some():
    row = [[cell(200, 200, 200)]]
    assert count(grid(row, width=320, ignored=False), drawing.BLACK) == 0
    assert count(grid(row, width=320), drawing.BLACK) > 100
