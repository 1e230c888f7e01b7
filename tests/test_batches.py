import dataclasses
import json
import os
import shutil

import data_files
import numpy as np
import pytest
from helpers import config, folder_fields, write_folders
from PIL import Image

from rtda_jax.data import DataError, batches, cached_class_counts, decode, load, sampling
from rtda_jax.data.labels import class_set
from rtda_jax.data.stream import Frame, MoveOptions, StreamOptions
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel


def made(root, **fields):
    chosen = config("source_only", "folders", **fields)
    chosen.update_from_flattened_dict(folder_fields(root))
    return chosen


def frequency(root, domain="source"):
    """Brute force over the label files."""
    lut = class_set("cityscapes19").lut("cityscapes_ids")
    files = sorted((root / domain / "labels").iterdir())
    pixels = np.concatenate([lut[np.asarray(Image.open(f))].ravel() for f in files])
    counts = np.bincount(pixels[pixels != 255], minlength=19)
    return counts / counts.sum()


@pytest.mark.parametrize("c", [1.02, 1.5])
def test_enet_weights_are_the_formula_over_the_labelled_set(c, root, tmp_path):
    chosen = made(root, loss__weighting="enet", loss__enet_c=c)
    settled = batches.with_enet_weights(chosen, tmp_path)
    assert settled.loss.weighting == "given"
    assert (chosen.loss.weighting, settled.loss.enet_c) == ("enet", c)
    np.testing.assert_allclose(settled.loss.weights, 1 / np.log(c + frequency(root)), rtol=1e-12)
    held = json.loads((tmp_path / "class_weights.json").read_text())
    assert tuple(held) == class_set("cityscapes19").names


@pytest.mark.parametrize("name", ["class_weights.json", "class_counts.npz"])
def test_damaged_files_are_made_again(name, root, tmp_path):
    chosen = made(root, loss__weighting="enet")
    weights = batches.with_enet_weights(chosen, tmp_path).loss.weights
    path = tmp_path / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle], b"", b"{}", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    ):  # fmt: skip
        (tmp_path / "class_weights.json").unlink()
        path.write_bytes(damaged)
        assert batches.with_enet_weights(chosen, tmp_path).loss.weights == weights
        held = json.loads((tmp_path / "class_weights.json").read_text())
        assert tuple(held.values()) == weights


def test_labels_are_counted_once(root, tmp_path, monkeypatch):
    chosen = made(root, loss__weighting="enet")
    weights = batches.with_enet_weights(chosen, tmp_path).loss.weights
    monkeypatch.setattr(sampling, "count_labels", None)
    assert batches.with_enet_weights(chosen, tmp_path).loss.weights == weights


def test_the_oracle_counts_the_targets_labels(root, tmp_path):
    chosen = made(root, loss__weighting="enet", labelled="target")
    weights = batches.with_enet_weights(chosen, tmp_path).loss.weights
    np.testing.assert_allclose(weights, 1 / np.log(1.02 + frequency(root, "target")), rtol=1e-12)


def test_counts_of_another_set_are_not_reused(root, tmp_path):
    chosen = made(root)
    source = batches.labelled_set(chosen)
    first = cached_class_counts(source, tmp_path / "counts.npz")
    target = load(chosen.benchmark.target_labelled, data_dir=str(root), classes="cityscapes19")
    assert source.keys == target.keys  # the same names
    assert not np.array_equal(cached_class_counts(target, tmp_path / "counts.npz"), first)
    fewer = load(chosen.benchmark.source, data_dir=str(root), classes="synthia16")
    assert cached_class_counts(fewer, tmp_path / "counts.npz").shape == (4, 16)
    np.testing.assert_array_equal(cached_class_counts(source, tmp_path / "counts.npz"), first)


def test_counts_of_corrected_labels_are_not_reused(tmp_path):
    """The same workdir, the same names: only a label file is another."""
    spec = data_files.folders(tmp_path, count=3, among=[7, 8])
    path = tmp_path / "labels" / "001.png"
    before = cached_class_counts(
        load(spec, data_dir=tmp_path, classes="cityscapes19"), tmp_path / "c.npz"
    )
    data_files.save(path, data_files.ids(5, [26]))
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    after = cached_class_counts(data, tmp_path / "c.npz")
    assert after[1, 13] == path_pixels(path) and before[1, 13] == 0
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    other = load({**spec, "labelling": "classes"}, data_dir=tmp_path, classes="cityscapes19")
    with pytest.raises(DataError, match="outside the table of 'classes'"):
        cached_class_counts(other, tmp_path / "c.npz")


def test_a_stage_that_began_refuses_labels_that_show_other_classes(tmp_path):
    write_folders(tmp_path)
    stage, path = tmp_path / "train", tmp_path / "train" / "class_counts.npz"
    chosen = made(tmp_path, rare_class=0.1)

    def first_index():
        stream = batches.paired_batches(chosen, needs_target=False, folder=stage)(0)
        return next(stream)["source_index"]

    first_index()
    label = tmp_path / batches.labelled_set(chosen).reader.where(1)[1]
    pixels, counts = np.array(Image.open(label)), path.read_bytes()
    other = np.full_like(pixels, 26)
    data_files.save(label, other)
    first_index()  # the stage has not begun: it counts anew
    assert path.read_bytes() != counts
    data_files.save(label, pixels)
    expected = first_index()
    (stage / "checkpoints" / "1").mkdir(parents=True)
    data_files.save(label, other)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"other classes .* the label of (.*1.*)\. Choose"):
            first_index()
        with pytest.raises(ConfigError, match="give the labels it began with"):
            batches.with_enet_weights(made(tmp_path, loss__weighting="enet"), stage)
    data_files.save(label, pixels)  # written again, but the same
    np.testing.assert_array_equal(first_index(), expected)
    path.unlink()
    np.testing.assert_array_equal(first_index(), expected)


def test_processes_do_not_count_what_the_main_process_has_counted(root, tmp_path, monkeypatch):
    """Their hosts may have copies of the labels, with other times."""
    chosen, path = made(root), tmp_path / "class_counts.npz"
    data = batches.labelled_set(chosen)
    counts = batches.stage_class_counts(chosen, data, folder=tmp_path)
    content = path.read_bytes()
    shutil.copytree(root, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "source" / "labels" / "000.png", (1, 1))
    copy = made(tmp_path / "copy")
    data = batches.labelled_set(copy)
    monkeypatch.setattr(parallel, "on_main", lambda action: None)
    monkeypatch.setattr(decode, "label", None)  # counting would fail
    np.testing.assert_array_equal(batches.stage_class_counts(copy, data, folder=tmp_path), counts)
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(DataError, match=r"class_counts\.npz: .* must see one --workdir"):
        batches.stage_class_counts(copy, data, folder=tmp_path)


def path_pixels(path):
    return np.asarray(Image.open(path)).size


def test_the_introduction_names_both_domains_and_the_padding(root):
    chosen = made(root, augment__scale=(0.5, 1.0))
    lines = batches.introduction(chosen, needs_target=True)
    assert [line.rpartition(":")[0] for line in lines if "images" in line] == [
        "source: source/images",
        "target: target/images",
    ]
    assert any(line.startswith("labels cityscapes_ids, in 4 of them") for line in lines)
    assert any("the rest is black and ignored" in line for line in lines)
    assert len(batches.introduction(made(root), needs_target=False)) == 2


def test_the_stream_gets_every_field_of_the_configuration(root, tmp_path, monkeypatch):
    """Sides, numbers and ranges are all different, so that none can stand for another."""
    asked = []

    def stream(source, target, **options):
        asked.append((source, target, options))
        return iter(())

    monkeypatch.setattr(batches, "train_stream", stream)
    monkeypatch.setattr(batches.parallel, "process", lambda: (1, 2))
    chosen = made(root, seed=9, batch_size=6, rare_class=0.25, cache_gib=0.5, threads=3)
    chosen.update_from_flattened_dict(
        {
            "rare_min_pixels": 2,
            "rare_crops": 5,
            "target_margins": (1, 2, 3, 4),
            "augment.flip": False,
            "augment.scale": (0.75, 1.25),
            "augment.target_moves": "once",
            "benchmark.size": (40, 72),
            "benchmark.crop": (24, 48),
            "benchmark.resize": "bicubic",
            "benchmark.source_size": (44, 80),
            "benchmark.source_crop": (28, 56),
            "benchmark.source_resize": "bilinear",
            "long_tail.slots": 4,
            "long_tail.probability": 0.125,
            "long_tail.classes": (0, 2),
            "long_tail.min_pixels": 3,
        }
    )
    list(batches.paired_batches(chosen, needs_target=True, folder=tmp_path)(7))
    ((source, target, options),) = asked
    assert [path.where(0).split("/")[-3] for path in (source, target)] == ["source", "target"]
    rare, candidates = options.pop("rare"), options.pop("candidates")
    assert (rare.temperature, rare.min_pixels, rare.crops) == (0.25, 2, 5)
    assert (candidates.slots, candidates.probability) == (4, 0.125)
    assert (candidates.classes, candidates.min_pixels) == ((0, 2), 3)
    counts = sampling.count_labels(source)[:, :-1]
    np.testing.assert_array_equal(rare.counts, counts)
    np.testing.assert_array_equal(candidates.counts, counts)
    assert options == {
        "seed": 9,
        "batch_size": 6,
        "frame": Frame((40, 72), (24, 48), "bicubic"),
        "source_frame": Frame((44, 80), (28, 56), "bilinear"),
        "moves": MoveOptions(False, (0.75, 1.25), "once"),
        "options": StreamOptions(0.25, 2, 5, (1, 2, 3, 4), 0.5, 3),
        "pseudo_labels": None,
        "start_step": 7,
        "process_index": 1,
        "process_count": 2,
    }


def test_the_labelled_target_has_the_size_of_the_target(root, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(batches, "train_stream", lambda *sets, **options: asked.append(options))
    chosen = made(root, labelled="target")
    chosen.benchmark.size, chosen.benchmark.crop = (40, 72), (24, 48)
    chosen.benchmark.source_size, chosen.benchmark.source_crop = (44, 80), (28, 56)
    batches.paired_batches(chosen, needs_target=False, folder=tmp_path)(0)
    (options,) = asked
    assert options["source_frame"] == options["frame"] == Frame((40, 72), (24, 48), "bilinear")
    assert options["rare"] is options["candidates"] is None


@pytest.mark.parametrize("name", ["size", "crop", "source_size", "source_crop", "eval_size"])
def test_sides_are_from_one_pixel_to_the_largest(name, root):
    def sides(*value):
        fields = made(root).benchmark.to_dict() | {name: value}
        names = [field.name for field in dataclasses.fields(batches.BenchmarkOptions)]
        return batches.BenchmarkOptions(**{key: fields[key] for key in names})

    sides(1, 65536)
    for value in ((0, 8), (8, 65537)):
        with pytest.raises(ConfigError, match=rf"benchmark\.{name} must be sides of 1 to 65536"):
            sides(*value)


def test_rare_classes_are_drawn_by_a_field(root, tmp_path):
    def indices(**fields):
        chosen = made(root, **fields)
        stream = batches.paired_batches(chosen, needs_target=False, folder=tmp_path)(0)
        return np.concatenate([next(stream)["source_index"] for _ in range(6)])

    assert np.bincount(indices(), minlength=4).tolist() == [6, 6, 6, 6]
    assert np.bincount(indices(rare_class=1e-3), minlength=4).tolist() != [6, 6, 6, 6]
    np.testing.assert_array_equal(indices(cache_gib=0.01), indices())


def test_crops_show_the_rare_class_by_two_fields(root, tmp_path):
    def labels(**fields):
        chosen = made(root, rare_class=1e-3, benchmark__crop=(8, 8), **fields)
        stream = batches.paired_batches(chosen, needs_target=False, folder=tmp_path)(0)
        return np.stack([next(stream)["source_label"] for _ in range(6)])

    def shown(labels):
        rarest = np.argmin(np.where(frequency(root) > 0, frequency(root), 1))
        return (labels == rarest).sum(axis=(-2, -1))

    any_crop, least = labels(), 30
    assert (shown(any_crop) <= least / 2).any()
    shown_again = shown(labels(rare_min_pixels=least, rare_crops=200))
    assert (shown_again > least / 2).all()


def test_margins_of_the_target_are_a_field(root, tmp_path):
    chosen = made(root, target_margins=(3, 0, 0, 2), augment__flip=False)
    chosen.benchmark.crop = chosen.benchmark.size
    border = next(batches.paired_batches(chosen, needs_target=True, folder=tmp_path)(0))[
        "target_border"
    ]
    assert (border[:, :3] == 255).all() and (border[..., -2:] == 255).all()
    assert not border[:, 3:, :-2].any()
    with pytest.raises(ConfigError, match="no target images"):
        batches.paired_batches(chosen, needs_target=False, folder=tmp_path)(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rare_crops": 0}, "rare_crops must be at least 1, got 0"),
        ({"rare_min_pixels": 0}, "rare_min_pixels must be at least 1, got 0"),
        ({"target_margins": (1, 2, 3)}, "target_margins must be 4 numbers"),
        ({"target_margins": (1, 2, 3, -1)}, "target_margins must be 4 numbers"),
        ({"rare_class": 0.0}, "rare_class must be above 0, got 0"),
        ({"cache_gib": -1.0}, "cache_gib must be at least 0, got -1"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"scale": (0.0, 1.0)}, r"augment\.scale must be a range \(low, high\) above 0"),
        ({"scale": (1.5, 1.0)}, r"augment\.scale must be a range \(low, high\) above 0"),
        ({"scale": (1.0,)}, r"augment\.scale must be a range \(low, high\) above 0"),
        ({"target_moves": "never"}, r"augment\.target_moves 'never'; known: each, once"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, message):
    options = StreamOptions if hasattr(StreamOptions, next(iter(fields))) else MoveOptions
    with pytest.raises(ConfigError, match=message):
        options(**fields)


def test_limits_are_allowed():
    StreamOptions(1e-9, 1, 1, (0, 0, 0, 0), 0.0, 0)
    assert not MoveOptions(scale=(1.0, 1.0)).zooms
    assert MoveOptions(scale=(0.5, 0.5)).zooms and MoveOptions(scale=(1.0, 1.5)).zooms


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_crop_that_no_image_fills_is_refused_before_the_stream_begins(domain, root, tmp_path):
    fields = {"benchmark__size": (8, 8), "benchmark__crop": (8, 8)}
    prefix = "" if domain == "target" else "source_"
    chosen = made(root, **fields | {f"benchmark__{prefix}crop": (9, 8)})
    with pytest.raises(DataError, match="the crop 9x8 is larger than the images at their largest"):
        batches.paired_batches(chosen, needs_target=True, folder=tmp_path)
