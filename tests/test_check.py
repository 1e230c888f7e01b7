"""check_data finds each defect, names it, and what it writes is what training then leaves out."""

import json
import shutil

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import (
    DataError,
    class_counts,
    enet_weights,
    eval_stream,
    frequencies,
    load,
    train_stream,
)
from rtda_jax.data.check import check_benchmark, check_data

QUIET = {"classes": "cityscapes19", "say": lambda line: None}


@pytest.fixture
def broken(tmp_path):
    """Ten examples, all but 000 and 001 with a defect."""
    spec = data_files.folders(tmp_path, count=10)
    image, label = (lambda i: tmp_path / "images" / f"{i:03d}.png"), (
        lambda i: tmp_path / "labels" / f"{i:03d}.png"
    )  # fmt: skip
    label(2).unlink()
    data_files.save(label(3), data_files.ids(3, range(34), (24, 30)))
    image(4).write_bytes(image(4).read_bytes()[:900])
    image(5).write_bytes(b"")
    image(6).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    label(6).write_bytes(label(7).read_bytes())
    data_files.save(label(7), data_files.ids(7, [7, 77]))
    data_files.save(label(8), data_files.ids(8, [0, 1, 255]))
    data_files.save(image(9), np.zeros((24, 32, 3), np.uint8))
    shutil.copy(image(0), image(1))
    data_files.save(tmp_path / "labels" / "orphan.png", data_files.ids(0, [7]))
    return tmp_path, spec


FOUND = {
    "006": "is PostScript, which is not read",
    "002": "missing pair",
    "003": "label is 30x24 but its image",
    "004": "truncated or damaged",
    "005": "zero bytes",
    "007": "ids 77) outside the table",
    "008": "all-ignored label",
    "009": "constant image, every pixel is (0, 0, 0)",
}


def test_every_defect_is_found_and_quarantined(broken):
    root, spec = broken
    lines = []
    manifest = check_data(
        spec, data_dir=root, classes="cityscapes19", out=root / "out", say=lines.append
    )
    assert sorted(manifest["quarantine"]) == sorted(FOUND)
    for key, words in FOUND.items():
        assert words in manifest["quarantine"][key], key
        assert f"{key}.png" in manifest["quarantine"][key]
    assert manifest["warnings"] == [
        f"1 left out, a label without an image: {root / 'labels' / 'orphan.png'}",
        "001: same pixels as 000",
    ]
    assert (manifest["count"], manifest["usable"]) == (10, 2)
    assert lines[0].endswith("2 of 10 examples are usable")
    assert json.loads((root / "out" / "manifest.json").read_text()) == manifest
    with pytest.raises(DataError, match="no label"):
        load(spec, data_dir=root, classes="cityscapes19")
    spec["quarantine"] = "out/quarantine.txt"
    clean = load(spec, data_dir=root, classes="cityscapes19")
    assert clean.keys == ("000", "001")
    assert next(train_stream(clean, seed=0, batch_size=4))["source_image"].shape == (4, 24, 32, 3)


def test_a_clean_set_has_an_empty_quarantine_that_can_be_used(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    assert manifest["quarantine"] == {} and manifest["usable"] == 3
    spec["quarantine"] = str(tmp_path / "out" / "quarantine.txt")
    assert len(load(spec, data_dir=tmp_path, classes="cityscapes19")) == 3


def test_the_manifest_s_hash_follows_the_content(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    hashes = [check_data(spec, data_dir=tmp_path, out=tmp_path / "o", **QUIET)["sha256"]]
    hashes.append(check_data(spec, data_dir=tmp_path, out=tmp_path / "o", **QUIET)["sha256"])
    data_files.save(tmp_path / "labels" / "001.png", data_files.ids(77, range(34)))
    hashes.append(check_data(spec, data_dir=tmp_path, out=tmp_path / "o", **QUIET)["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_frequencies_and_weights_equal_a_brute_force_count(tmp_path):
    spec = data_files.folders(tmp_path, count=5)
    raw = np.stack([data_files.ids(i, range(34)) for i in range(5)])
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    classes = data.classes.lut("cityscapes_ids")[raw]
    expected = np.array([(classes == k).sum() for k in range(19)])
    counts = class_counts(data)
    np.testing.assert_array_equal(counts[:, :19].sum(0), expected)
    np.testing.assert_array_equal(counts[:, 19], (classes == 255).sum((1, 2)))
    share = expected / expected.sum()
    np.testing.assert_allclose(frequencies(counts[:, :19]), share)
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    np.testing.assert_allclose(list(manifest["frequencies"].values()), share)
    np.testing.assert_allclose(list(manifest["enet_weights"].values()), 1 / np.log(1.02 + share))
    assert manifest["raw_ids"] == {str(i): int((raw == i).sum()) for i in range(34)}
    assert manifest["ignored"] == pytest.approx((classes == 255).mean())


def test_enet_weights_reproduce_those_that_s0_trained_with():
    # S0's table for GTA5; its implied frequencies must sum to one.
    weights = np.array([3.0769, 9.6166, 5.0283, 24.6669, 38.4588, 31.8801, 47.171, 48.6205,
                        10.5183, 23.8993, 6.3269, 41.4181, 49.5471, 21.3484, 29.6929, 43.7329,
                        49.913, 49.4494, 50.411])  # fmt: skip
    implied = np.exp(1 / weights) - 1.02
    assert implied.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(enet_weights(implied), weights)
    assert enet_weights(np.zeros(1))[0] == pytest.approx(50.498, abs=1e-3)


def test_train_ids_under_the_name_of_label_ids_are_suspected(tmp_path):
    spec = data_files.folders(tmp_path, count=2, among=[0, 0, 0, 1, 2, 2, 8, 10, 13, 255])
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    assert any("these look like train ids" in warning for warning in manifest["warnings"])
    spec = data_files.folders(tmp_path, count=2)
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    assert manifest["warnings"] == []


def test_the_contact_sheet_shows_images_labels_and_a_legend(tmp_path):
    spec = data_files.folders(tmp_path, count=2, among=[26])
    check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        sheet = np.asarray(picture)
    car = (sheet == (0, 0, 142)).all(axis=-1)
    assert car.sum() > 2 * 320 * 240  # both labels, and the swatch of the legend
    assert car[-60:].any()
    unlabelled = {**spec, "use": "unlabelled"}
    check_data(unlabelled, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        assert picture.width < sheet.shape[1]


def test_a_benchmark_is_checked_role_by_role(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    benchmark = {"classes": "cityscapes19", "source": spec, "source_eval": None, "eval": spec,
                 "target": {**spec, "use": "unlabelled"}, "target_labelled": None}  # fmt: skip
    out = tmp_path / "out"
    found = check_benchmark(benchmark, data_dir=tmp_path, out=out, say=lambda line: None)
    assert sorted(found) == ["eval", "source", "target"]
    assert found["target"]["labelling"] is None
    assert all((out / role / "manifest.json").exists() for role in found)


@pytest.mark.slow
def test_counting_needs_no_more_memory_for_more_images(tmp_path):
    import tracemalloc

    peaks = []
    for count in (20, 200):
        spec = data_files.folders(tmp_path / str(count), count=count, size=(128, 256))
        data = load(spec, data_dir=tmp_path, classes="cityscapes19")
        for _ in eval_stream(data):
            break
        tracemalloc.start()
        class_counts(data, threads=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2_000_000  # 180 more label images would be 6 MB
