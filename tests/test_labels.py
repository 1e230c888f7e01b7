"""Every label map equals one that was written down separately; own classes come from JSON."""

import json
import subprocess
import sys

import data_files
import numpy as np
import pytest
from hypothesis import given
from mutilate import fuzz, mutilated

from rtda_jax.data import DataError, decode, labels, load
from rtda_jax.data.class_sets import CAMVID11, CAMVID32
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import ConfigError

TRAIN_ID = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
            25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
# The compact 16-class maps of TUFL.
SYNTHIA16 = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 9, 10: 10, 17: 11, 8: 12,
             19: 13, 12: 14, 11: 15}  # fmt: skip
CITYSCAPES16 = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 23: 9, 24: 10, 25: 11,
                26: 12, 28: 13, 32: 14, 33: 15}  # fmt: skip
CAMVID_OF_CITYSCAPES = {
    "sky": [23], "building": [11, 12, 15, 16], "pole": [17, 18], "road": [7], "pavement": [8],
    "tree": [21, 22], "sign": [19, 20], "fence": [13, 14], "car": [26, 27, 28, 29, 30, 31],
    "pedestrian": [24], "bicyclist": [25, 32, 33],
}  # fmt: skip
IDD_OF_CITYSCAPES = [[7, 9], [8, 10, 22], [24, 25], [26, 27, 28, 29, 30, 31, 32, 33],
                     [4, 12, 13, 14, 17, 18, 19, 20], [11, 15, 16, 21], [23]]  # fmt: skip


def expected(mapping, valid):
    table = np.full(256, labels.OUTSIDE)
    table[list(valid)] = labels.IGNORE
    for raw, number in mapping.items():
        table[raw] = number
    return table


@pytest.mark.parametrize(
    ("classes", "labelling", "mapping", "valid"),
    [
        ("cityscapes19", "cityscapes_ids", TRAIN_ID, [*range(34), 255]),
        ("cityscapes19", "gta5_ids", TRAIN_ID, [*range(35), 255]),
        ("cityscapes19", "train_ids", {i: i for i in range(19)}, [*range(19), 255]),
        ("synthia16", "synthia_ids", SYNTHIA16, range(23)),
        ("synthia16", "cityscapes_ids", CITYSCAPES16, [*range(34), 255]),
        ("camvid11", "camvid11_ids", {i: i for i in range(11)}, range(12)),
        ("iddlite7", "iddlite_ids", {i: i for i in range(7)}, [*range(7), 255]),
        ("iddlite7", "classes", {i: i for i in range(7)}, [*range(7), 255]),
        ("camvid11", "cityscapes_ids",
         {i: n for n, ids in enumerate(CAMVID_OF_CITYSCAPES.values()) for i in ids},
         [*range(34), 255]),
        ("iddlite7", "cityscapes_ids",
         {i: n for n, ids in enumerate(IDD_OF_CITYSCAPES) for i in ids}, [*range(34), 255]),
    ],
)  # fmt: skip
def test_lut_is_the_written_table(classes, labelling, mapping, valid):
    np.testing.assert_array_equal(
        labels.class_set(classes).lut(labelling), expected(mapping, valid)
    )


def test_thirteen_classes_drop_wall_fence_and_pole_of_sixteen():
    sixteen = set(labels.class_set("synthia16").names)
    assert sixteen - set(labels.class_set("synthia13").names) == {"wall", "fence", "pole"}
    assert labels.class_set("synthia13").names == labels.class_set("crosscity13").names


def test_camvid_colours_are_32_and_each_but_void_is_in_one_coarse_class():
    assert len({colour for _, colour in CAMVID32}) == 32
    members = [name for _, group in CAMVID11.values() for name in group]
    assert len(members) == len(set(members)) == 31
    assert {name for name, _ in CAMVID32} - set(members) == {"Void"}


def test_camvid32_in_colours_and_as_positions_mean_the_same():
    for name in ("camvid11", "thukral9"):
        classes = labels.class_set(name)
        np.testing.assert_array_equal(
            classes.lut("camvid32_colours")[:32], classes.lut("camvid32_ids")[:32]
        )
    lut = labels.class_set("thukral9").lut("camvid32_colours")
    order = [name for name, _ in CAMVID32]
    assert lut[order.index("VegetationMisc")] == labels.class_set("thukral9").names.index("terrain")
    assert lut[order.index("Car")] == labels.IGNORE


@pytest.mark.parametrize("name", labels.CLASS_SETS)
def test_every_map_stays_within_its_classes(name):
    classes = labels.class_set(name)
    assert len(classes.names) == len(set(classes.names)) == len(classes.colours)
    for labelling in classes.labellings:
        lut = classes.lut(labelling)
        assert set(lut.tolist()) <= {*range(len(classes)), labels.IGNORE, labels.OUTSIDE}
        assert (lut == labels.OUTSIDE).sum() > 200
    assert set(classes.lut("classes").tolist()) >= set(range(len(classes)))


def test_rows_find_the_reported_classes_in_the_head():
    head, reported = labels.class_set("cityscapes19"), labels.class_set("synthia13")
    assert head.rows(reported) == (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    with pytest.raises(DataError, match="lack wall, fence, pole"):
        reported.rows(labels.class_set("synthia16"))


def test_unknown_names_list_the_known():
    with pytest.raises(ConfigError, match="cityscapes19"):
        labels.class_set("cityscapes20")
    with pytest.raises(DataError, match=r"iddlite_ids.*camvid11_ids"):
        labels.class_set("camvid11").lut("iddlite_ids")


@pytest.mark.parametrize(
    "module",
    ["data", "data.labels", "errors", "data.check", "data.batches", "data.stream", "models",
     "losses", "train", "adapt.build", "deploy.media"],
)  # fmt: skip
def test_modules_do_not_import_tensorflow(module):
    code = f"import sys, rtda_jax.{module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- for benchmark servers ------------------------------------------------------------------------


def test_label_ids_are_those_of_the_benchmarks():
    city = labels.class_set("cityscapes19").label_ids()
    assert city.tolist() == sorted(TRAIN_ID, key=TRAIN_ID.get)
    sixteen = sorted(CITYSCAPES16, key=CITYSCAPES16.get)
    assert labels.class_set("synthia16").label_ids().tolist() == sixteen
    assert labels.class_set("camvid11").label_ids().tolist() == list(range(11))
    assert labels.class_set("iddlite7").label_ids().tolist() == list(range(7))
    assert labels.class_set("cityscapes19").label_ids("classes_from_1")[0] == 1


@pytest.mark.parametrize("name", labels.CLASS_SETS)
def test_label_ids_map_back_to_their_classes(name):
    classes = labels.class_set(name)
    ids = classes.label_ids()
    np.testing.assert_array_equal(classes.lut(classes.official)[ids], np.arange(len(classes)))


def test_classes_without_one_id_of_their_own_are_no_label_ids():
    with pytest.raises(DataError, match=r"class 'drivable' of 'iddlite7' has 2 ids .*\[7, 9\]"):
        labels.class_set("iddlite7").label_ids("cityscapes_ids")
    with pytest.raises(DataError, match="are colours, not label ids"):
        labels.class_set("camvid11").label_ids("camvid32_colours")


# --- own classes ----------------------------------------------------------------------------------

YARD = {
    "classes": [
        {"name": "road", "colour": [1, 2, 3], "ids": [4, 9]},
        {"name": "rail", "ids": [0]},
        {"name": "car", "colour": [7, 8, 9], "ids": [200]},
    ],
    "ignore": [1, 77],
}


def test_numbers_from_1_with_0_ignored():
    lut = labels.class_set("iddlite7").lut("classes_from_1")
    np.testing.assert_array_equal(lut, expected({i + 1: i for i in range(7)}, [0, 255]))


def test_a_definition_is_its_table():
    classes, raw = labels.parse(json.dumps(YARD), "x.json")
    assert classes.names == ("road", "rail", "car") and len(classes) == 3
    assert classes.colours[0] == (1, 2, 3) and len(set(classes.colours)) == 3
    table = expected({4: 0, 9: 0, 0: 1, 200: 2}, [1, 77, 255])
    np.testing.assert_array_equal(classes.lut(raw), table)
    assert classes.label_ids().tolist() == [4, 0, 200]
    # Road and car are Cityscapes classes, so that Cityscapes or GTA5 can be the source.
    city = classes.lut("cityscapes_ids")
    assert (city[7], city[26], city[11]) == (0, 2, 255)


def test_a_run_that_records_the_name_needs_no_file(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(YARD))
    classes = labels.class_set(str(path))
    path.unlink()
    again = labels.class_set(classes.name)
    assert again.name == classes.name and again.names == classes.names
    np.testing.assert_array_equal(
        again.lut(labels.labelling(classes.name)),
        expected({4: 0, 9: 0, 0: 1, 200: 2}, [1, 77, 255]),
    )


def test_classes_of_a_config_file_are_text():
    text = labels.define(["road", {"name": "rail", "colour": (9, 9, 9)}], ignore=(7,))
    classes = labels.class_set(text)
    assert classes.names == ("road", "rail") and classes.colours[1] == (9, 9, 9)
    np.testing.assert_array_equal(
        classes.lut(labels.labelling(text)), expected({0: 0, 1: 1}, [7, 255])
    )


def colourful(count):
    """The definition of two classes with as many colours, of which class `b` has all but one."""
    colours = [[n, n, 7] for n in range(count)]
    rows = [
        {"name": "a", "label_colours": colours[:1]},
        {"name": "b", "label_colours": colours[1:]},
    ]
    return {"classes": rows, "ignore": [], "encoding": "rgb"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [{"name": "a"}]}, "2 to 250 classes, got 1"),
        ({"classes": [{"name": f"{i}"} for i in range(256)]}, "2 to 250 classes, got 256"),
        ({"classes": [{"name": "a"}, {"name": "a"}]}, "'a' is listed twice"),
        ({"classes": [{"name": "a"}, {}]}, "every class needs a name"),
        ({"classes": [{"name": "a", "color": 3}]}, "unknown field color; known: .*colour"),
        ({"classes": {"a": 1}}, "a list 'classes'"),
        ({"ignored": [3]}, "unknown field ignored; known: .*ignore"),
        ({"ignore": [4]}, "4 is listed twice"),
        ({"ignore": 4}, "ignore must be a list"),
        ({"ignore": [65536]}, "a number from 0 to 65535, got 65536"),
        ({"ignore": [256], "encoding": "red"}, "a number from 0 to 255, got 256"),
        ({"ignore": [*range(300, 600)]}, "with one above 255 there may be 254"),
        ({"ignore": [True]}, "a number from 0 to 65535, got True"),
        (colourful(255), "255 label colours; there may be 254"),
        ({**colourful(253), "ignore": [[9, 9, 9], [8, 8, 8]]}, "255 label colours; there may be"),
        ({"encoding": "hex"}, "encoding must be index, red or rgb, got 'hex'"),
        ({"encoding": "rgb"}, "'label_colours', not 'ids'"),
        ({"classes": [{"name": "a", "ids": [3]}, {"name": "b"}]}, "no ids or label colours for b"),
        ({"classes": [{"name": "a", "colour": [1, 2]}, {"name": "b"}]}, "a colour is"),
    ],
)  # fmt: skip
def test_mistakes_in_a_definition_are_named(change, message):
    with pytest.raises(DataError, match=rf"x\.json: .*{message}"):
        labels.parse(json.dumps({**YARD, **change}), "x.json")


TWICE = '{"classes": [{"name": "a"}, {"name": "b", "name": "c"}]}'


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "3", "{}", "x" * 1_000_001, TWICE])
def test_what_is_no_definition_is_refused(text):
    with pytest.raises(DataError, match=r"x\.json: "):
        labels.parse(text, "x.json")


def yard(root, *, encoding, labelled_as):
    """Writes two images whose labels are stored as `labelled_as` says."""
    numbers = data_files.ids(3, range(3))
    for i in range(2):
        data_files.save(root / "images" / f"{i}.png", data_files.picture(i))
        data_files.save(root / "labels" / f"{i}.png", labelled_as(numbers))
    fields = {"index": "ids", "red": "ids", "rgb": "label_colours"}[encoding]
    values = {
        "ids": [[4], [0], [200]],
        "label_colours": [[[255, 0, 0]], [[0, 255, 0]], [[1, 1, 1]]],
    }
    rows = [
        {"name": name, fields: value}
        for name, value in zip(("road", "rail", "car"), values[fields], strict=True)
    ]
    (root / "labels.json").write_text(json.dumps({"classes": rows, "encoding": encoding}))
    return numbers


IDS = np.array([4, 0, 200], np.uint8)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [1, 1, 1]], np.uint8)
STORAGE = {
    "index": lambda k: IDS[k],
    "red": lambda k: np.stack([IDS[k], k * 50, k * 7], -1).astype(np.uint8),
    "rgb": lambda k: COLOURS[k],
}


@pytest.mark.parametrize("store", ["files", "shards"])
@pytest.mark.parametrize("encoding", STORAGE)
def test_labels_beside_the_data_are_read_as_the_definition_says(tmp_path, encoding, store):
    numbers = yard(tmp_path, encoding=encoding, labelled_as=STORAGE[encoding])
    spec = {"name": "folders", "images": "images", "labels": "labels", "store": store}
    data = load(spec, data_dir=tmp_path, classes=str(tmp_path / "labels.json"))
    np.testing.assert_array_equal(decode.examine(data, 0)[1], numbers)
    np.testing.assert_array_equal(next(eval_stream(data))["label"], numbers)


def test_as_many_colours_as_there_may_be_are_told_apart_and_from_others(tmp_path):
    for name, blue in (("listed", 7), ("other", 8)):
        numbers = np.arange(254, dtype=np.uint8).reshape(2, 127)
        pixels = np.stack([numbers, numbers, np.full_like(numbers, blue)], -1)
        data_files.save(tmp_path / "images" / f"{name}.png", data_files.picture(0, (2, 127)))
        data_files.save(tmp_path / "labels" / f"{name}.png", pixels)
    (tmp_path / "labels.json").write_text(json.dumps(colourful(254)))
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=tmp_path, classes=str(tmp_path / "labels.json"))
    np.testing.assert_array_equal(decode.examine(data, 0)[1], numbers > 0)
    with pytest.raises(
        DataError, match=r"other\.png: 254 label pixels of no colour in .*, near a \[0, 0, 7\]"
    ):
        decode.examine(data, 1)


def test_a_labelling_by_name_maps_to_other_classes(tmp_path):
    """The same files serve a head with more classes, in another order."""
    numbers = yard(tmp_path, encoding="index", labelled_as=STORAGE["index"])
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    head = labels.define(["sky", "car", "rail", "road"])
    data = load(spec, data_dir=tmp_path, classes=head)
    np.testing.assert_array_equal(decode.examine(data, 0)[1], np.array([3, 2, 1])[numbers])
    with pytest.raises(
        DataError,
        match=r"labels\.json: 'cityscapes19' lacks its classes rail \(and has without a pair: "
        r"sidewalk, .*\); .* one name in both files, list its ids under 'ignore' or .*classes",
    ):
        load(spec, data_dir=tmp_path, classes="cityscapes19")
    # A labelling that is given is not replaced by the file beside the data.
    named = load({**spec, "labelling": "classes"}, data_dir=tmp_path, classes=head)
    assert named.labelling.name == "classes"


def test_ids_outside_of_a_definition_are_an_error_that_names_the_file(tmp_path):
    yard(tmp_path, encoding="index", labelled_as=lambda k: IDS[k] + 1)
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    data = load(spec, data_dir=tmp_path, classes=str(tmp_path / "labels.json"))
    with pytest.raises(DataError, match=r"0\.png: \d+ label pixels \(ids 1, 5, 201\) outside"):
        decode.examine(data, 0)


@fuzz
@given(
    mutilated([json.dumps(YARD).encode(), b'{"classes":[{"name":"a","label_colours":[[1,2,3]]}]}'])
)
def test_a_damaged_definition_is_an_error_or_a_table(text):
    try:
        classes, raw = labels.parse(text, "x.json")
    except DataError as error:
        assert str(error).startswith("x.json: ")
    else:
        assert set(classes.lut(raw).tolist()) <= {*range(len(classes)), 254, 255}
        again = labels.class_set(classes.name)
        assert (again.name, again.names, again.colours) == (
            classes.name,
            classes.names,
            classes.colours,
        )
