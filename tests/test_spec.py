"""Specifications of data sets: their fields, their lists, and what a wrong one says."""

import json

import data_files
import pytest

from rtda_jax.data import DataError, load
from rtda_jax.errors import ConfigError

CLASSES = "cityscapes19"


def test_globs_choose_among_files(tmp_path):
    for name in ("a_1", "a_2", "b_1"):
        data_files.save(tmp_path / "x" / f"{name}.png", data_files.picture(0))
    data = load({"name": "folders", "images": "x/a_*.png"}, data_dir=tmp_path, classes=CLASSES)
    assert data.keys == ("a_1", "a_2") and data.labelling is None


def test_a_pattern_of_labels_finds_the_definition_that_their_folder_finds(tmp_path):
    data_files.save(tmp_path / "images" / "city" / "a.png", data_files.picture(0))
    data_files.save(tmp_path / "all" / "gt" / "city" / "a_gt.png", data_files.ids(0, [7, 11]))
    rows = [{"name": "sky", "ids": [7]}, {"name": "car", "ids": [11]}]
    spec = {"name": "folders", "images": "images", "label_suffix": "_gt"}
    for place in ("all/gt", "all"):  # the folder of the labels, and the one above
        file = tmp_path / place / "labels.json"
        file.write_text(json.dumps({"classes": rows}))
        for labels in ("all/gt", "all/gt/*/*_gt.png", "all/gt/**/*.png", "all/gt/c*/a_gt.png"):
            data = load({**spec, "labels": labels}, data_dir=tmp_path, classes=CLASSES)
            assert data.labelling.name == str(file), labels
        file.unlink()


def test_lists_and_quarantines_choose_examples(tmp_path):
    spec = data_files.folders(tmp_path, count=5)
    (tmp_path / "list.txt").write_text("000.png\nimages/002.png labels/002.png\n# no\n\n004\n")
    spec["list"] = "list.txt"
    data = load(spec, data_dir=tmp_path, classes=CLASSES)
    assert data.keys == ("000", "002", "004")
    (tmp_path / "bad.txt").write_text("# why\n002\tbroken for some reason\n")
    data = load({**spec, "quarantine": "bad.txt"}, data_dir=tmp_path, classes=CLASSES)
    assert data.keys == ("000", "004")
    with pytest.raises(DataError, match=r"list\.txt: SHA-256 is .* expected 00"):
        load({**spec, "list_sha256": "00"}, data_dir=tmp_path, classes=CLASSES)
    (tmp_path / "list.txt").write_text("000\n777\n")
    with pytest.raises(DataError, match=r"list\.txt: lists '777', but no image"):
        load(spec, data_dir=tmp_path, classes=CLASSES)
    with pytest.raises(DataError, match=r"5 images .*, expected 6"):
        load({**spec, "list": "", "count": 6}, data_dir=tmp_path, classes=CLASSES)


def test_a_quarantine_that_leaves_nothing_is_refused(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    (tmp_path / "bad.txt").write_text("000\n001\n")
    with pytest.raises(DataError, match=r"bad\.txt: leaves out all 2 images"):
        load({**spec, "quarantine": "bad.txt"}, data_dir=tmp_path, classes=CLASSES)


def test_missing_pairs_are_named(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    (tmp_path / "labels" / "001.png").unlink()
    with pytest.raises(DataError, match=r"images.001\.png: 1 of 3 images have no label"):
        load(spec, data_dir=tmp_path, classes=CLASSES)


def test_missing_folders_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder .*starts at .* \(--data_dir\)$"):
        load({"name": "folders", "images": "nowhere/im"}, data_dir=tmp_path, classes=CLASSES)
    with pytest.raises(DataError, match=r"no such folder \(looking for '/no/im'\)$"):
        load({"name": "folders", "images": "/no/im"}, data_dir=tmp_path, classes=CLASSES)
    with pytest.raises(DataError, match=r"gta5: no such folder.*visinf.*benchmark 'streets' needs"):
        load({"name": "gta5", "split": "all"}, data_dir=tmp_path, classes=CLASSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no \.png, \.jpg"):
        load({"name": "folders", "images": "empty"}, data_dir=tmp_path, classes=CLASSES)
    with pytest.raises(ConfigError, match="no images given"):
        load({"name": "folders"}, data_dir=tmp_path, classes=CLASSES)


@pytest.mark.parametrize("field", ["images", "labels", "list", "quarantine", "labelling"])
def test_a_relative_path_that_lies_in_the_current_folder_is_recognised(
    tmp_path, monkeypatch, field
):
    """Relative paths start at data_dir, and not where the user's shell is."""
    spec = data_files.folders(tmp_path / "data", count=2)
    here, name = tmp_path / "here", "there.json" if field == "labelling" else "there"
    here.mkdir()
    (here / name).touch()
    monkeypatch.chdir(here)
    message = rf"{tmp_path}/data/{name}: no such (file|folder).*; a relative path starts at "
    message += rf"{tmp_path}/data \(--data_dir\); did you mean {here}/{name}\?$"
    with pytest.raises(DataError, match=message):
        load({**spec, field: name}, data_dir=tmp_path / "data", classes=CLASSES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"\(--data_dir\)$"):
        load({**spec, field: name}, data_dir=tmp_path / "data", classes=CLASSES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "foldres"}, "unknown data set 'foldres'; known: .*folders"),
        ({"name": "folders", "image": "x"}, "unknown field of .* 'image'; known: .*images"),
        ({"name": "folders", "images": "x", "use": "maybe"}, "unknown use .maybe.; known: label"),
        ({"name": "folders", "images": "x", "store": "tape"}, "unknown store 'tape'; known: files"),
        ({"name": "folders", "images": "x", "resize": "cubic"}, "unknown resize 'cubic'; known"),
        ({"name": "folders", "images": 3}, "field images .* must be like '', got 3"),
        ({"name": "folders", "images": "x", "count": "6"}, "field count .* like -1, got '6'"),
        ({"name": "folders", "images": "x", "size": 64}, r"field size .* like \(\), got 64"),
        ({"name": "folders", "images": "x", "size": (64,)}, r"field size .* \(height, width\)"),
        ({"name": "folders", "images": "x", "size": (64, -1)}, r"field size .* \(height, width\)"),
        ({"name": "camvid11", "split": "tset"}, "unknown split .* 'tset'; known: test, train, val"),
        ({"name": "streets", "split": "train"}, "unknown split .* 'train'; known: .*game_train"),
        ({"name": "folders", "images": "i", "labels": "l", "labelling": "kitti_ids"},
         "unknown labelling .*'kitti_ids'; known: .*cityscapes_ids"),
    ],
)  # fmt: skip
def test_wrong_fields_say_what_is_right(tmp_path, spec, message):
    data_files.save(tmp_path / "i" / "a.png", data_files.picture(0))
    with pytest.raises(ConfigError, match=message):
        load(spec, data_dir=tmp_path, classes="camvid11")
