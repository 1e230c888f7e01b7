"""Prepared data sets, the built-in pair and shards, are made once, and completely or not at all."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import data_files
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from rtda_jax.data import (
    DataError,
    builders,
    decode,
    default_dir,
    labels,
    layouts,
    load,
    parts,
    sampling,
    shards,
    spec,
)
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.streets import render
from rtda_jax.errors import ConfigError
from rtda_jax.tools import environment

COUNTS = np.zeros((2, 3), np.int64)  # of two classes and of ignored pixels, in two labels
SMALL = {"game_train": 3, "game_val": 2, "camera_train": 3, "camera_val": 1}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(builders, "STREETS_SPLITS", SMALL)


def streets(root, split="game_train", **spec):
    spec = {"name": "streets", "split": split, **spec}
    return load(spec, data_dir=root, classes="cityscapes19")


def test_streets_are_the_renderer_s_pictures(tmp_path, small):
    height, width = builders.STREETS_SIZE
    for split, domain, seed in (("game_train", "game", 0), ("camera_val", "camera", 1)):
        data = streets(tmp_path, split)
        assert len(data) == SMALL[split]
        assert data.keys[0] == f"{split}_00000"
        image, raw = render(domain, 0, seed=seed, height=height, width=width)
        pixels, label = decode.examine(data, 0)
        np.testing.assert_array_equal(pixels, image)
        np.testing.assert_array_equal(label, data.classes.lut("cityscapes_ids")[raw])
    assert streets(tmp_path, use="unlabelled").labelling is None


def test_streets_are_prepared_once_and_readable_by_tfds(tmp_path, small, monkeypatch):
    first = streets(tmp_path)
    monkeypatch.setattr(builders, "rendered", None)  # rendering a second time would fail
    assert streets(tmp_path).keys == first.keys
    folder = next(tmp_path.glob("streets/*/1.0.0"))
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == ["1.0.0"]
    example = tfds.builder_from_directory(str(folder)).as_data_source("camera_val")[0]
    assert example["image"].shape == (*builders.STREETS_SIZE, 3)


def test_an_interrupted_preparation_is_continued_and_never_taken_for_whole(
    tmp_path, small, monkeypatch
):
    made = []
    rendered = builders.rendered

    def failing(argument):
        made.append(argument[0])
        if argument[0] == "camera_train" and made.count("camera_train") == 1:
            raise KeyboardInterrupt
        return rendered(argument)

    monkeypatch.setattr(builders, "rendered", failing)
    with pytest.raises(KeyboardInterrupt):
        streets(tmp_path)
    (folder,) = tmp_path.glob("streets/[0-9]*")
    assert not (folder / "1.0.0").exists()
    (folder / "incomplete.ABCDEF_1.0.0").mkdir()  # left behind by a kill
    assert streets(tmp_path).keys == ("game_train_00000", "game_train_00001", "game_train_00002")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.0.0"]
    assert made == ["game_train", "game_val", "camera_train", "camera_train", "camera_val"]


@pytest.mark.slow
def test_processes_that_prepare_at_once_share_the_work(tmp_path):
    spec = data_files.folders(tmp_path, count=4)
    code = (
        "import sys; from rtda_jax.data import load; "
        f"d = load({ {**spec, 'store': 'shards'}!r}, data_dir={str(tmp_path)!r}, "
        "classes='cityscapes19'); print(*d.keys)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    outputs = [process.communicate()[0].decode().split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs == [["000", "001", "002", "003"]] * 2
    assert len(list(tmp_path.glob("prepared/folders/*/*/dataset_info.json"))) == 1


def test_a_set_larger_than_memory_is_sorted_piece_by_piece(tmp_path, monkeypatch):
    spec = {**data_files.folders(tmp_path, count=12), "store": "shards"}

    def prepared(store_dir):
        data = load({**spec, "store_dir": store_dir}, data_dir=tmp_path, classes="cityscapes19")
        (records,) = (tmp_path / store_dir).rglob("*.array_record*")
        return data.keys, records.read_bytes()

    in_memory = prepared("in_memory")
    sorted_at_once = []
    of_bucket = shuffle._Bucket.read_values

    def read_values(bucket):
        sorted_at_once.append(len(bucket))
        return of_bucket(bucket)

    monkeypatch.setattr(shuffle._Bucket, "read_values", read_values)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    assert prepared("in_files") == in_memory
    assert sum(sorted_at_once) == 12 and max(sorted_at_once) == 1


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_shards_give_the_batches_that_files_give(tmp_path, image_format, resize):
    spec = data_files.folders(tmp_path, count=6, size=(40, 60))
    store = {"store": "shards", "size": (20, 30), "format": image_format}
    load({**spec, **store, "resize": "bilinear"}, data_dir=tmp_path, classes="cityscapes19")
    store["resize"] = resize  # shards of another resizing must not be used
    sets = [load(s, data_dir=tmp_path, classes="cityscapes19") for s in (spec, {**spec, **store})]
    options = {"seed": 1, "batch_size": 4, "size": (20, 30), "crop": (16, 16), "flip": True}
    options["resize"] = resize
    one, two = (itertools.islice(data_files.stream(data, data, **options), 3) for data in sets)
    for a, b in zip(one, two, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_jpeg_shards_are_close_and_labels_exact(tmp_path):
    grey = np.full((24, 32, 3), 77, np.uint8)
    data_files.save(tmp_path / "i" / "a.png", grey)
    data_files.save(tmp_path / "l" / "a.png", data_files.ids(0, range(34)))
    spec = {"name": "folders", "images": "i", "labels": "l", "store": "shards", "format": "jpeg"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert data.reader.image(0).startswith(b"\xff\xd8")
    pixels, label = decode.examine(data, 0)
    assert abs(pixels.astype(int) - 77).max() <= 2
    raw = data_files.ids(0, range(34))
    np.testing.assert_array_equal(label, data.classes.lut("cityscapes_ids")[raw])
    with pytest.raises(ConfigError, match="unknown image format 'gif'; known: jpeg, png, webp"):
        load({**spec, "format": "gif"}, data_dir=tmp_path, classes="cityscapes19")


def test_16_bit_labels_are_stored_as_8_bits(tmp_path):
    raw = data_files.ids(0, range(23))
    wide = np.stack([raw, raw], axis=-1).astype(np.uint16)
    data_files.save(tmp_path / "RAND_CITYSCAPES/RGB/0000000.png", data_files.picture(0))
    data_files.save_16bit(tmp_path / "RAND_CITYSCAPES/GT/LABELS/0000000.png", wide)
    spec = {"name": "synthia", "split": "all", "count": 0, "store": "shards"}
    data = load(spec, data_dir=tmp_path, classes="synthia16")
    assert data.labelling.name == "synthia_ids_8bit"
    expected = data.classes.lut("synthia_ids")[raw]
    np.testing.assert_array_equal(decode.examine(data, 0)[1], expected)


def test_unlabelled_shards_do_not_read_labels(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    for path in (tmp_path / "labels").iterdir():
        path.unlink()
    spec |= {"store": "shards", "use": "unlabelled", "size": (12, 16)}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert data.labelling is None and decode.examine(data, 1)[0].shape == (12, 16, 3)


def test_changed_files_are_stored_anew(tmp_path):
    spec = {**data_files.folders(tmp_path, count=2), "store": "shards"}
    load(spec, data_dir=tmp_path, classes="cityscapes19")
    path = data_files.save(tmp_path / "images" / "000.png", data_files.picture(99))
    os.utime(path, (1, 1))
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    np.testing.assert_array_equal(decode.examine(data, 0)[0], data_files.picture(99))


def test_a_definition_of_labels_by_another_path_is_the_same_data(tmp_path, monkeypatch):
    """A definition that says something else is not, and known labellings keep their digests."""
    spec = data_files.folders(tmp_path, count=2, among=[7, 8])
    monkeypatch.chdir(tmp_path)
    text = labels.define([{"name": "road", "ids": [7]}, {"name": "car", "ids": [8]}])
    other = labels.define([{"name": "road", "ids": [7, 8]}, {"name": "car", "ids": [26]}])
    for file, content in (("own.json", text), ("copy.json", text), ("other.json", other)):
        (tmp_path / file).write_text(content)
    paths = ("own.json", "./own.json", str(tmp_path / "own.json"), "copy.json", text)
    sets = [load({**spec, "store": "shards"}, data_dir=tmp_path, classes=c) for c in paths]
    assert len({data.reader.folder for data in sets}) == 1
    counted = []
    monkeypatch.setattr(sampling, "count_labels", lambda d, **_: counted.append(d) or COUNTS)
    for classes in (*paths, "other.json"):
        data = load(spec, data_dir=tmp_path, classes=classes)
        sampling.cached_class_counts(data, tmp_path / "counts.npz")
    assert len(counted) == 2
    changed = load({**spec, "store": "shards"}, data_dir=tmp_path, classes="other.json")
    assert changed.reader.folder != sets[0].reader.folder
    known = labels.labelling("cityscapes_ids")
    data = Dataset("x", ("a",), changed.classes, known, Files(("no/a.png",), ("no/b.png",)))
    assert builders._digest(data) == "12276ebdb1"


def test_a_broken_file_stops_storing_by_name_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    spec = {**data_files.folders(tmp_path, count=4), "store": "shards"}
    whole = (tmp_path / "labels" / "003.png").read_bytes()
    (tmp_path / "labels" / "003.png").write_bytes(whole[:100])
    monkeypatch.setattr(environment, "cores", lambda: 1)
    with pytest.raises(DataError, match=r"labels.003\.png: truncated"):
        load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert not list(tmp_path.glob("prepared/folders/*/*/dataset_info.json"))
    assert [path.name for path in tmp_path.glob("prepared/folders/*/parts/*/*")] == ["000000"]


HOSTILE = {
    "a class": {"pythonClassName": "evil.Feature"},
    "a field of the proto": {"python_class_name": "evil.Feature"},
    "a legacy class": {"type": "evil.Feature", "content": {}},
    "JSON in JSON": {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": json.dumps({"features": {"a": {"pythonClassName": "evil.Feature"}}}),
    },
    "a name that begins alike": {"pythonClassName": "tensorflow_datasets.core.features_evil.X"},
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_features_that_would_import_code_are_refused_first(
    tmp_path, small, monkeypatch, kind, deep
):
    streets(tmp_path)
    (path,) = tmp_path.glob("streets/*/1.0.0/features.json")
    content = json.loads(path.read_text())
    if deep:
        content["featuresDict"]["features"]["image"]["x"] = [{"y": HOSTILE[kind]}]
    else:
        content |= HOSTILE[kind]
    path.write_text(json.dumps(content))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tfds, "builder_from_directory", None)  # TFDS is not asked at all
    with pytest.raises(DataError, match=r"features\.json: (names the class|written by an old)"):
        streets(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_damaged_features_are_named(tmp_path, small, data):
    streets(tmp_path)
    (path,) = tmp_path.glob("streets/*/1.0.0/features.json")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"features\.json: damaged"):
        streets(tmp_path)


def test_names_that_are_no_utf_8_are_stored(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    name = b"stra\xdfe".decode(errors="surrogateescape")
    for folder in ("images", "labels"):
        (tmp_path / folder / "001.png").rename(tmp_path / folder / f"{name}.png")
    for _ in range(2):
        data = load({**spec, "store": "shards"}, data_dir=tmp_path, classes="cityscapes19")
        assert data.keys == ("000", name)
        np.testing.assert_array_equal(decode.examine(data, 1)[0], data_files.picture(1))


def test_every_layout_has_a_builder_of_its_own():
    assert set(builders.BUILDERS) == {"folders", *layouts.LAYOUTS}
    for name, builder in builders.BUILDERS.items():
        splits = layouts.LAYOUTS[name].splits if name != "folders" else {}
        assert [config.name for config in builder.BUILDER_CONFIGS] == list(splits)
    assert len({builder.name for builder in builders.BUILDERS.values()}) == len(builders.BUILDERS)


def test_a_layout_of_a_user_s_own_is_stored_as_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "BUILDERS", dict(builders.BUILDERS))
    mine = layouts.Layout("mine", "own", "train_ids", {"all": layouts.Split("i", "l")}, "nothing")
    monkeypatch.setitem(layouts.LAYOUTS, "my_data", mine)
    monkeypatch.setitem(spec.FIELDS, "my_data", spec.FIELDS["gta5"])
    data_files.save(tmp_path / "own/i/a.png", data_files.picture(3))
    data_files.save(tmp_path / "own/l/a.png", data_files.ids(0, range(19)))
    wanted = {"name": "my_data", "split": "all"}
    files, stored = (
        load(wanted | {"store": store}, data_dir=tmp_path, classes="cityscapes19")
        for store in ("files", "shards")
    )
    for ours, theirs in zip(decode.examine(stored, 0), decode.examine(files, 0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ConfigError, match=r"unknown layout 'other'; known: .*my_data"):
        builders.stored(dataclasses.replace(files, name="other/all"), data_dir=tmp_path)


def test_damaged_shards_say_so(tmp_path, small):
    streets(tmp_path)
    (shard,) = tmp_path.glob("streets/*/1.0.0/streets-game_train.array_record*")
    shard.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.0\.0.*delete .* to prepare it again"):
        data = streets(tmp_path)
        data.reader.image(0)


@pytest.mark.parametrize("key", ["/etc/x", "../x", "a/../../x", "..", "", "a\0", 3])
def test_a_key_that_leaves_its_folder_is_refused(tmp_path, small, key):
    """Keys become the paths of pseudo-labels."""
    streets(tmp_path)
    (path,) = tmp_path.glob("streets/*/1.0.0/metadata.json")
    held = json.loads(path.read_text())
    held["keys"]["game_train"][1] = key
    path.write_text(json.dumps(held))
    with pytest.raises(DataError, match=r"1\.0\.0: .*key .*to prepare it again"):
        streets(tmp_path)
    path.write_text("{}")
    with pytest.raises(DataError, match="does not hold its keys"):
        streets(tmp_path)


@pytest.mark.parametrize("key", [b"/etc/x", b"../x"])
def test_a_key_in_a_record_that_leaves_its_folder_is_refused(key):
    class Held:
        folder, names = "cityscapes", shards.Names()

        def record(self, i):
            return {"key": key if i else b"ulm/000"}

        def __len__(self):
            return 2

    keys = shards._Keys(Held())
    assert keys[0] == "ulm/000"
    with pytest.raises(DataError, match=r"cityscapes: the key .* leaves the folder"):
        list(keys)


def test_where_nothing_can_be_written(tmp_path, small):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*RTDA_JAX_DATA"):
        streets(tmp_path / "file")


def test_a_full_disk_is_an_error_of_the_folder_and_leaves_no_set(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    monkeypatch.setattr(environment, "cores", lambda: 1)
    spec = {**data_files.folders(tmp_path, count=6, size=(64, 64)), "store": "shards"}
    with data_files.full_disk(50_000), pytest.raises(OSError, match="File too large") as raised:
        load(spec, data_dir=tmp_path, classes="cityscapes19")
    (folder,) = tmp_path.glob("prepared/folders/*")
    assert raised.value.filename == str(folder)
    assert "\n" not in raised.value.strerror
    assert not list(folder.glob("*1.0.0"))
    assert len(load(spec, data_dir=tmp_path, classes="cityscapes19")) == 6


def test_a_bug_in_preparing_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(parts, "make", broken)
    spec = {**data_files.folders(tmp_path, count=2, size=(16, 16)), "store": "shards"}
    with pytest.raises(RuntimeError, match="a bug"):
        load(spec, data_dir=tmp_path, classes="cityscapes19")


def test_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RTDA_JAX_DATA", str(tmp_path))
    assert default_dir() == tmp_path
    monkeypatch.delenv("RTDA_JAX_DATA")
    assert default_dir() == pathlib.Path("~/.cache/rtda_jax").expanduser()


def test_registered_builders_prepare_from_their_manual_folder(tmp_path):
    raw = data_files.ids(0, range(35))
    data_files.save(tmp_path / "Cityscapes/images/ulm_leftImg8bit.png", data_files.picture(0))
    data_files.save(tmp_path / "Cityscapes/labels/ulm_gtFine_labelIds.png", raw % 34)
    (tmp_path / "Cityscapes" / "val.txt").write_text("ulm_leftImg8bit.png\n")
    builder = tfds.builder("cityscapes_brunstein/val", data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path)
    builder.download_and_prepare(download_config=config)
    example = builder.as_data_source("examples")[0]
    np.testing.assert_array_equal(example["image"], data_files.picture(0))
    np.testing.assert_array_equal(example["label"][..., 0], raw % 34)
    assert "images, labels, train.txt" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
