"""Each data set in its true file layout: it is found, paired, decoded and mapped."""

import zipfile

import data_files
import numpy as np
import pytest

from rtda_jax.data import DataError, decode, labels, layouts, load
from rtda_jax.data.class_sets import CAMVID32
from rtda_jax.data.spec import packaged
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import ConfigError

ANY = {"count": 0}


def check(spec, root, classes, raw, *, keys):
    """The data set has these keys, and its first example these raw ids behind its classes."""
    data = load({**spec, **ANY}, data_dir=root, classes=classes)
    assert data.keys == keys
    _, label = decode.examine(data, 0)
    expected = data.classes.lut(data.labelling)[raw].astype(int)
    np.testing.assert_array_equal(label, np.where(expected == labels.OUTSIDE, 255, expected))
    streamed = next(iter(eval_stream(data)))
    np.testing.assert_array_equal(streamed["label"], label)
    assert (label != 255).any()
    return data


def test_gta5_reads_palette_indices(tmp_path):
    raw = data_files.ids(0, range(35))
    for i in (1, 2):
        data_files.save(tmp_path / f"gta5/images/{i:05d}.png", data_files.picture(i))
        data_files.save_palette(tmp_path / f"gta5/labels/{i:05d}.png", raw)
    check({"name": "gta5", "split": "all"}, tmp_path, "cityscapes19", raw, keys=("00001", "00002"))
    (tmp_path / "gta5" / "train.txt").write_text("00002.png\n")
    check({"name": "gta5", "split": "brunstein_train"}, tmp_path, "iddlite7", raw, keys=("00002",))


def test_gta5_without_the_frames_that_iast_omits(tmp_path):
    for i in (2153, 2154, 9688, 9689):
        data_files.save(tmp_path / f"gta5/images/{i:05d}.png", data_files.picture(i))
        data_files.save_palette(tmp_path / f"gta5/labels/{i:05d}.png", data_files.ids(i, [7]))
    spec = {"name": "gta5", "split": "iast", **ANY}
    assert load(spec, data_dir=tmp_path, classes="cityscapes19").keys == ("02153", "09689")


@pytest.mark.parametrize("channels", [2, 3])
def test_synthia_reads_the_first_of_16_bit_channels(tmp_path, channels):
    raw = data_files.ids(0, range(23))
    wide = np.stack([raw, *[data_files.ids(i, range(200)) for i in range(1, channels)]], axis=-1)
    wide = wide.astype(np.uint16)
    wide[..., 1] += 1000  # instances
    data_files.save(tmp_path / "RAND_CITYSCAPES/RGB/0000000.png", data_files.picture(0))
    data_files.save_16bit(tmp_path / "RAND_CITYSCAPES/GT/LABELS/0000000.png", wide)
    spec = {"name": "synthia", "split": "all"}
    check(spec, tmp_path, "synthia16", raw, keys=("0000000",))
    wide[3, 4, 0] = 300
    data_files.save_16bit(tmp_path / "RAND_CITYSCAPES/GT/LABELS/0000000.png", wide)
    with pytest.raises(DataError, match=r"0000000\.png: 1 label pixels .*'synthia_ids'"):
        check(spec, tmp_path, "synthia16", raw, keys=("0000000",))


def test_synthia_converted_to_8_bits_is_another_name(tmp_path):
    raw = data_files.ids(0, range(23))
    base = tmp_path / "RAND_CITYSCAPES"
    data_files.save(base / "RGB/0000000.png", data_files.picture(0))
    data_files.save(base / "synthia_mapped_to_cityscapes/0000000.png", raw)
    data_files.save(base / "GT/LABELS/0000000.png", raw)
    spec = {"name": "synthia_8bit", "split": "all"}
    check(spec, tmp_path, "synthia13", raw, keys=("0000000",))
    with pytest.raises(DataError, match=r"8-bit label, .*'synthia_ids_8bit'"):
        check({**spec, "name": "synthia"}, tmp_path, "synthia13", raw, keys=("0000000",))


def test_camvid32_reads_colours(tmp_path):
    raw = data_files.ids(0, range(32))
    palette = np.array([colour for _, colour in CAMVID32], np.uint8)
    names = ("0001TP_006690", "Seq05VD_f02610")
    for name in names:
        data_files.save(tmp_path / f"camvid/701_StillsRaw_full/{name}.png", data_files.picture(0))
        data_files.save(tmp_path / f"camvid/LabeledApproved_full/{name}_L.png", palette[raw])
    spec = {"name": "camvid32", "split": "all"}
    for classes in ("camvid11", "thukral9"):
        check(spec, tmp_path, classes, raw, keys=names)
    # One file of the real set has other colours at its edges; in any other it is an error.
    broken = palette[raw].copy()
    broken[0, 0] = (1, 2, 3)
    path = tmp_path / "camvid/LabeledApproved_full"
    data_files.save(path / "Seq05VD_f02610_L.png", broken)
    data = load({**spec, **ANY}, data_dir=tmp_path, classes="camvid11")
    assert [int(example["label"][0, 0]) for example in eval_stream(data)][1] == 255
    data_files.save(path / "0001TP_006690_L.png", broken)
    with pytest.raises(
        DataError, match=r"0001TP_006690_L\.png: 1 label pixels of no colour in .*: \[1, 2, 3\]"
    ):
        decode.examine(data, 0)


def test_camvid32_splits_by_the_lists_of_the_package(tmp_path):
    named = [packaged(name)[0] for name in ("camvid_train", "camvid_val")]
    for name in (*named, "Seq05VD_f00000"):
        data_files.save(tmp_path / f"camvid/701_StillsRaw_full/{name}.png", data_files.picture(0))
    with pytest.raises(DataError, match=r"lists '.*', but no image has that name"):
        load({"name": "camvid32", "split": "train", "use": "unlabelled"}, data_dir=tmp_path,
             classes="camvid11")  # fmt: skip
    spec = {"name": "camvid32", "split": "test", "use": "unlabelled", **ANY}
    assert load(spec, data_dir=tmp_path, classes="camvid11").keys == ("Seq05VD_f00000",)


def test_packaged_lists_are_what_the_layouts_say():
    train, val = (set(packaged(f"camvid_{use}")) for use in ("train", "val"))
    counts = {name: split.count for name, split in layouts.LAYOUTS["camvid32"].splits.items()}
    assert (len(train), len(val), not train & val) == (counts["train"], counts["val"], True)
    assert counts["all"] == counts["train"] + counts["val"] + counts["test"]
    omitted = packaged("gta5_iast_omitted")
    gta5 = layouts.LAYOUTS["gta5"].splits
    assert gta5["all"].count - len(set(omitted)) == gta5["iast"].count


def test_camvid11_and_its_void(tmp_path):
    raw = data_files.ids(0, range(12))
    data_files.save(tmp_path / "camvid11/train/0001TP_006690.jpg", data_files.picture(0))
    data_files.save(tmp_path / "camvid11/trainannot/0001TP_006690.png", raw)
    data = check({"name": "camvid11", "split": "train"}, tmp_path, "camvid11", raw,
                 keys=("0001TP_006690",))  # fmt: skip
    assert (decode.examine(data, 0)[1][raw == 11] == 255).all()


def test_idd_lite_pairs_images_and_labels_in_sequences(tmp_path):
    raw = data_files.ids(0, [0, 1, 2, 3, 4, 5, 6, 255])
    for name in ("7/024541", "98/frame0001"):
        base = tmp_path / "idd20k_lite"
        data_files.save(base / f"leftImg8bit/val/{name}_image.jpg", data_files.picture(0))
        data_files.save(base / f"gtFine/val/{name}_label.png", raw)
        data_files.save(base / f"gtFine/val/{name}_inst_label_x.png", raw)  # another product
    check({"name": "idd_lite", "split": "val"}, tmp_path, "iddlite7", raw,
          keys=("7/024541", "98/frame0001"))  # fmt: skip


def cityscapes(root, split, names):
    raw = data_files.ids(0, [*range(34), 255])
    for name in names:
        city = name.split("_")[0]
        image = root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"
        stem = root / f"gtFine/{split}/{city}/{name}_gtFine"
        data_files.save(image, data_files.picture(0))
        data_files.save(stem.with_name(f"{stem.name}_labelIds.png"), raw)
        data_files.save(stem.with_name(f"{stem.name}_color.png"), data_files.picture(1))
        data_files.save_16bit(
            stem.with_name(f"{stem.name}_instanceIds.png"), raw[..., None].astype(np.uint16)
        )
    return raw


def test_cityscapes_from_folders_and_the_cities_of_a_subset(tmp_path):
    names = ("aachen_000000_000019", "ulm_000000_000019", "zurich_000001_000019")
    raw = cityscapes(tmp_path / "cityscapes", "train", names)
    keys = tuple(f"{name.split('_')[0]}/{name}" for name in names)
    spec = {"name": "cityscapes", "split": "train"}
    check(spec, tmp_path, "cityscapes19", raw, keys=keys)
    check({**spec, "split": "nikiforos_train"}, tmp_path, "cityscapes19", raw, keys=keys[1:])
    with pytest.raises(DataError, match=r"3 images for cityscapes/train, expected 2975"):
        load(spec, data_dir=tmp_path, classes="cityscapes19")


def test_cityscapes_subsets_as_their_authors_had_them(tmp_path):
    raw = data_files.ids(0, [*range(19), 255])
    base = tmp_path / "Cityspaces"
    name = "ulm/ulm_000000_000019"
    data_files.save(base / f"images/train/{name}_leftImg8bit.png", data_files.picture(0))
    data_files.save(base / f"gtFine/train/{name}_gtFine_labelTrainIds.png", raw)
    check(
        {"name": "cityscapes_nikiforos", "split": "train"},
        tmp_path,
        "cityscapes19",
        raw,
        keys=(name,),
    )
    raw = data_files.ids(0, range(34))
    base = tmp_path / "Cityscapes"
    for i in range(3):
        stem = f"ulm_00000{i}_000019"
        data_files.save(base / f"images/{stem}_leftImg8bit.png", data_files.picture(i))
        data_files.save(base / f"labels/{stem}_gtFine_labelIds.png", raw)
    listed = "images/ulm_000002_000019_leftImg8bit.png\nulm/ulm_000000_000019_leftImg8bit.png\n"
    (base / "train.txt").write_text(listed)
    check({"name": "cityscapes_brunstein", "split": "train"}, tmp_path, "cityscapes19", raw,
          keys=("ulm_000000_000019", "ulm_000002_000019"))  # fmt: skip


def test_crosscity_trains_unlabelled_and_tests_13_classes(tmp_path):
    raw = data_files.ids(0, range(34))
    base = tmp_path / "NTHU" / "Rio"
    data_files.save(base / "Images/Train/pano_00002_0_180.jpg", data_files.picture(0))
    data_files.save(base / "Images/Test/pano_00003_1_90.png", data_files.picture(1))
    data_files.save(base / "Labels/Test/pano_00003_1_90_eval.png", raw)
    check({"name": "crosscity", "split": "rio_test"}, tmp_path, "crosscity13", raw,
          keys=("pano_00003_1_90",))  # fmt: skip
    spec = {"name": "crosscity", "split": "rio_train", **ANY}
    with pytest.raises(ConfigError, match="rio_train has no labels"):
        load(spec, data_dir=tmp_path, classes="crosscity13")
    data = load({**spec, "use": "unlabelled"}, data_dir=tmp_path, classes="crosscity13")
    assert data.keys == ("pano_00002_0_180",) and data.labelling is None


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_missing_data_say_where_to_get_them(tmp_path, name):
    layout = layouts.LAYOUTS[name]
    spec = {"name": name, "split": next(iter(layout.splits)), "use": "unlabelled"}
    with pytest.raises(DataError) as caught:
        load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert str(tmp_path / layout.folder) in str(caught.value)
    assert layout.how_to_get in str(caught.value) and "'streets' needs no data" in str(caught.value)


def test_cityscapes_through_tfds_reads_the_archives(tmp_path):
    with pytest.raises(DataError, match=r"leftImg8bit_trainvaltest\.zip, .*gtFine_trainvaltest"):
        load({"name": "cityscapes_tfds", "split": "train"}, data_dir=tmp_path,
             classes="cityscapes19")  # fmt: skip
    unpacked, manual = tmp_path / "unpacked", tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    raw = cityscapes(unpacked, "train", ["ulm_000000_000019", "ulm_000001_000019"])
    for split in ("val", "test"):
        cityscapes(unpacked, split, ["lindau_000000_000019"])
    for part in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(manual / f"{part}_trainvaltest.zip", "w") as archive:
            for path in sorted((unpacked / part).rglob("*.png")):
                archive.write(path, path.relative_to(unpacked))
    spec = {"name": "cityscapes_tfds", "split": "train"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert sorted(data.keys) == ["ulm_000000_000019", "ulm_000001_000019"]
    _, label = decode.examine(data, 0)
    np.testing.assert_array_equal(label, data.classes.lut("cityscapes_ids")[raw])
    with pytest.raises(DataError, match=r"no split 'all'; known: test, train, validation"):
        load({**spec, "split": "all"}, data_dir=tmp_path, classes="cityscapes19")
