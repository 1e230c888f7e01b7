import numpy as np

from rtda_jax.tools import pictures


def test_colours_of_labels_and_ignored_pixels():
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    painted = pictures.colourise(np.array([[0, 1, 255]], np.uint8), colours)
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]])


def test_grid_holds_every_cell_and_a_legend():
    cell = np.full((8, 16, 3), 200, np.uint8)
    other = np.full((8, 16, 3), (1, 2, 3), np.uint8)
    colours = np.array([[9, 8, 7]], np.uint8)
    sheet = np.asarray(
        pictures.grid([[cell, other]], titles=["a", "b"], names=["road"], colours=colours, width=32)
    )
    for colour, least in (((200, 200, 200), 500), ((1, 2, 3), 500), ((9, 8, 7), 100)):
        assert (sheet == colour).all(-1).sum() >= least


def test_bytes_are_rounded_and_clipped():
    np.testing.assert_array_equal(pictures.as_bytes(np.array([-3.0, 1.6, 300.0])), [0, 2, 255])
