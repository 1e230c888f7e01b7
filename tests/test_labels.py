"""Every map against a statement of it that was written down separately."""

import subprocess
import sys

import numpy as np
import pytest

from rtda_jax.data import DataError, labels
from rtda_jax.data.class_sets import CAMVID11, CAMVID32
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


def test_the_table_is_importable_without_tensorflow():
    code = "import sys, rtda_jax.data, rtda_jax.data.labels; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
