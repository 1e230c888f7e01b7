"""What is found to predict, how predictions are shown, and under which names they are written."""

import pathlib

import numpy as np
import pytest
from predictions import KEY, noise

from rtda_jax.deploy import media
from rtda_jax.errors import DataError


def test_views_of_a_prediction():
    image, classes = noise(24, 40), np.arange(24 * 40).reshape(24, 40) % 19
    classes = classes.astype(np.uint8)
    colours = np.array(KEY.colours)[classes]
    np.testing.assert_array_equal(media.colours(image, classes, KEY), colours)
    mixed = np.rint(0.5 * colours + 0.5 * image)
    np.testing.assert_array_equal(media.overlay(image, classes, KEY), mixed)
    both = media.side_by_side(image, classes, KEY)
    np.testing.assert_array_equal(both[:24, :40], image)
    np.testing.assert_array_equal(both[:24, 40:], colours)
    legend = both[24:].reshape(-1, 3)
    for colour in KEY.colours:
        assert (legend == colour).all(1).any()


def results_of(names, shown=("overlay", "train_ids")):
    """The results of files of these names, by the file."""
    items = [
        media.Input(name, pathlib.PurePath(name).with_suffix(""), media.kind_of(name))
        for name in names
    ]
    distinct = media.distinct(items, shown)
    return {item.source: media.files_of(item, shown) for item in distinct}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b/a.png"], ["a.png", "b/a.png"]),
        (["a.png", "a.jpg", "b.png"], ["a.png.png", "a.jpg.png", "b.png"]),
        (["a.png", "a.jpg", "a.png.png"], ["a.png.png", "a.jpg.png", "a.png.png.png"]),
        (["A.png", "a.jpg"], ["A.png.png", "a.jpg.png"]),
        (["e\u0301.png", "\u00e9.jpg"], ["e\u0301.png.png", "\u00e9.jpg.png"]),
        (["a.mp4", "a.png"], ["a.mp4", "a.png"]),
        (["a.mp4", "a/000000.png"], ["a.mp4.mp4", "a/000000.png.png"]),
        (["a.mp4", "a.mov"], ["a.mp4.mp4", "a.mov.mp4"]),
        (["a.jpg", "a.png/b.png"], ["a.jpg.png", "a.png/b.png.png"]),
    ],
)
def test_no_result_replaces_another(names, expected):
    named = results_of(names)
    assert [named[name][0] for name in names] == [f"overlay/{name}" for name in expected]
    every = [file for files in named.values() for file in files]
    places = [file.rstrip("/") for file in every]
    assert len(set(places)) == len(places)
    assert not any(a.startswith(f"{b}/") for a in places for b in places)


def test_results_that_cannot_be_told_apart_are_refused():
    with pytest.raises(DataError, match="would have the same name"):
        results_of(["a.png", "A.PNG"])


def test_no_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        media.find(str(tmp_path / "nothing"), out=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"holds no image or video \(1 left out, \.txt is not read"):
        media.find(str(tmp_path), out=tmp_path / "out")
