"""check_data finds and names each defect, and training leaves out the images that it lists."""

import json
import re
import shutil

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, count_labels, enet_weights, frequencies, load, sampling
from rtda_jax.data.batches import introduction
from rtda_jax.data.check import check_benchmark, check_data
from rtda_jax.data.pictures import fitting, stretching
from rtda_jax.data.sampling import dataset_sentences
from rtda_jax.data.stream import eval_stream
from rtda_jax.run.command import load_config

QUIET = {"classes": "cityscapes19", "say": lambda line: None}


@pytest.fixture
def broken(tmp_path):
    """Writes ten examples, of which all but 000 and 001 have a defect."""
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
    assert lines[1].endswith("; labels: cityscapes_ids, for cityscapes19")
    assert json.loads((root / "out" / "manifest.json").read_text()) == manifest
    with pytest.raises(DataError, match="no label"):
        load(spec, data_dir=root, classes="cityscapes19")
    spec["quarantine"] = "out/quarantine.txt"
    clean = load(spec, data_dir=root, classes="cityscapes19")
    assert clean.keys == ("000", "001")
    assert next(data_files.stream(clean, seed=0, batch_size=4))["source_image"].shape == (
        4,
        24,
        32,
        3,
    )


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
    counts = count_labels(data)
    np.testing.assert_array_equal(counts[:, :19].sum(0), expected)
    np.testing.assert_array_equal(counts[:, 19], (classes == 255).sum((1, 2)))
    share = expected / expected.sum()
    np.testing.assert_allclose(frequencies(counts[:, :19]), share)
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    np.testing.assert_allclose(list(manifest["frequencies"].values()), share)
    np.testing.assert_allclose(list(manifest["enet_weights"].values()), 1 / np.log(1.02 + share))
    assert manifest["raw_ids"] == {str(i): int((raw == i).sum()) for i in range(34)}
    assert manifest["ignored"] == pytest.approx((classes == 255).mean())


def test_reading_a_whole_set_shows_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rtda_jax.run.log._SHORT_SECONDS", 0)
    spec = data_files.folders(tmp_path, count=4)
    count_labels(load(spec, data_dir=tmp_path, classes="cityscapes19"))
    check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    lines = capsys.readouterr().err.splitlines()
    for words in ("counting the classes of", "checking"):
        progress = [line for line in lines if line.startswith(words)]
        assert [f" {n}/4 " in line for n, line in enumerate(progress, 1)] == [True] * 4
    assert len(lines) == 8 and max(map(len, lines)) <= 100


def test_enet_weights_reproduce_those_that_brunstein_trained_with():
    # The report's table for GTA5; its implied frequencies must sum to one.
    weights = np.array([3.0769, 9.6166, 5.0283, 24.6669, 38.4588, 31.8801, 47.171, 48.6205,
                        10.5183, 23.8993, 6.3269, 41.4181, 49.5471, 21.3484, 29.6929, 43.7329,
                        49.913, 49.4494, 50.411])  # fmt: skip
    implied = np.exp(1 / weights) - 1.02
    assert implied.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(enet_weights(implied), weights)
    assert enet_weights(np.zeros(1))[0] == pytest.approx(50.498, abs=1e-3)


def told(root, raw, labelling, classes="cityscapes19"):
    """Returns what the check and the start of training say about labels with these raw ids."""
    data_files.save(root / "images" / "0.png", data_files.picture(0))
    data_files.save(root / "labels" / "0.png", raw)
    spec = {"name": "folders", "images": "images", "labels": "labels", "labelling": labelling}
    out = root / "out"
    quiet = {"say": lambda line: None, "out": out, "data_dir": root, "classes": classes}
    lines = dataset_sentences(load(spec, data_dir=root, classes=classes))
    warnings = [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]
    assert warnings == check_data(spec, **quiet)["warnings"]
    return lines


SUSPECT = {
    "train ids of many classes": ([0, 0, 1, 2, 2, 8, 10, 13, 255], "cityscapes_ids", "train ids"),
    "train ids of a country road": ([0, 8, 10, 13], "cityscapes_ids", "train ids"),
    "train ids as GTA5's": ([0, 2, 8, 10, 13, 18], "gta5_ids", "train ids"),
    "numbered from 1": ([1, 11, 14], "classes", "this is 'classes_from_1'"),
    "train ids numbered from 1": ([1, 11, 14], "train_ids", "this is 'classes_from_1'"),
    "mostly ignored": ([7, 1, 2, 3, 21], "cityscapes_ids", "60% of the pixels are ignored"),
    "label ids as classes of SYNTHIA": ([0, 0, 0, 22, 3], "synthia_ids_8bit", "80% of the pixels"),
}


@pytest.mark.parametrize("case", SUSPECT)
def test_labels_that_seem_to_mean_something_else_are_doubted(tmp_path, case):
    ids, labelling, words = SUSPECT[case]
    raw = np.resize(np.array(ids, np.uint8), 24 * 32).reshape(24, 32)
    lines = told(tmp_path, raw, labelling)
    assert any(line.startswith("warning: ") and words in line for line in lines)


PLAUSIBLE = {
    "label ids": (list(range(34)), "cityscapes_ids"),
    "few label ids": ([7, 8, 11, 21, 23, 26], "cityscapes_ids"),
    "road and buildings only": ([7, 8, 11, 17], "cityscapes_ids"),
    "train ids": ([0, 1, 2, 8, 10, 13, 255], "train_ids"),
    "classes without the first": ([1, 11, 14, 255], "classes"),
    "numbered from 1": ([0, 1, 12, 15], "classes_from_1"),
}


@pytest.mark.parametrize("case", PLAUSIBLE)
def test_labels_that_are_right_are_not(tmp_path, case):
    ids, labelling = PLAUSIBLE[case]
    raw = np.resize(np.array(ids, np.uint8), 24 * 32).reshape(24, 32)
    assert not [line for line in told(tmp_path, raw, labelling) if line.startswith("warning")]


def test_the_share_of_ignored_pixels_that_makes_labels_doubtful(tmp_path):
    """More than a fifth if only the numbers of train ids occur, and otherwise more than half."""
    spec = data_files.folders(tmp_path, count=1)
    dataset = load(spec, data_dir=tmp_path, classes="cityscapes19")
    road, car, unlabelled = 7, 26, 0

    def doubts(**pixels):
        raw = np.zeros(256, np.int64)
        for name, count in pixels.items():
            raw[{"road": road, "car": car, "none": unlabelled}[name]] = count
        return [line.partition(": ")[2] for line in sampling.suspicions(dataset, raw)]

    assert doubts(road=801, none=199) == doubts(car=500, none=500) == []
    (line,) = doubts(road=799, none=201)
    assert line == (
        "only ids 0..18 and 255 occur and 20% of the pixels are ignored; these look like train ids "
        "(labelling 'train_ids')"
    )
    (line,) = doubts(car=499, none=501)
    assert line == "50% of the pixels are ignored (id 0 50%); is this what the labels mean?"
    assert doubts() == []


def test_the_start_of_training_says_what_the_labels_mean(tmp_path):
    raw = np.full((24, 32), 7, np.uint8)
    raw[:6] = 23
    raw[-6:] = 0
    lines = told(tmp_path, raw, "cityscapes_ids")
    assert lines[0] == "images: 1 image"
    assert lines[1].startswith(
        "labels cityscapes_ids, in 1 of them: 25.0% of the pixels are ignored; classes road 66.7%, "
        "sky 33.3%; none of sidewalk, building"
    )


def test_only_a_sample_of_the_labels_is_read_at_the_start(tmp_path):
    spec = data_files.folders(tmp_path, count=9)
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    for number in (1, 2, 3, 5, 6, 7):
        (tmp_path / "labels" / f"{number:03d}.png").unlink()  # reading one would be an error
    assert "in 3 of them" in dataset_sentences(data, sample=3)[1]


def test_pictures_of_12_bits_in_16_are_doubted(tmp_path):
    deep = data_files.picture(0)[..., 0].astype(np.uint16) * 16
    data_files.save(tmp_path / "images" / "a.png", deep)
    spec = {"name": "folders", "images": "images", "use": "unlabelled"}
    manifest = check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    assert any("almost black, such as a" in warning for warning in manifest["warnings"])


def test_the_contact_sheet_shows_images_labels_and_a_legend(tmp_path):
    spec = data_files.folders(tmp_path, count=2, among=[26])
    check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        sheet = np.asarray(picture)
    car = (sheet == (0, 0, 142)).all(axis=-1)
    assert car.sum() > 2 * 320 * 240  # both labels, and the swatch of the legend
    assert car[-60:].any()
    black = (sheet[-40:] == 0).all(axis=-1)  # the swatch of ignored pixels, and no letter
    assert np.lib.stride_tricks.sliding_window_view(black, (8, 8)).all((2, 3)).any()
    unlabelled = {**spec, "use": "unlabelled"}
    check_data(unlabelled, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        assert picture.width < sheet.shape[1]


def test_a_picture_that_is_very_tall_or_has_an_odd_name_is_shown(tmp_path):
    data_files.save(tmp_path / "i" / "a\nb\x1b[31m東京.png", data_files.picture(0, (90_000, 1)))
    spec = {"name": "folders", "images": "i", "use": "unlabelled"}
    check_data(spec, data_dir=tmp_path, out=tmp_path / "out", **QUIET)
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        assert picture.height < 1200


def test_a_benchmark_is_checked_role_by_role(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    benchmark = {"classes": "cityscapes19", "source": spec, "source_eval": None, "eval": spec,
                 "target": {**spec, "use": "unlabelled"}, "target_labelled": None}  # fmt: skip
    out = tmp_path / "out"
    lines = []
    found = check_benchmark(benchmark, data_dir=tmp_path, out=out, say=lines.append)
    assert sorted(found) == ["eval", "source", "target"]
    assert found["target"]["labelling"] is None
    assert "  images: 2 of 32x24; labels: not used" in lines
    assert all((out / role / "manifest.json").exists() for role in found)


@pytest.mark.parametrize("case", ["same", "other", "a label is missing"])
def test_the_target_is_checked_unless_all_of_it_was_with_labels(tmp_path, case):
    labelled = data_files.folders(tmp_path / "a", count=2)
    target = {**labelled, "labels": "", "use": "unlabelled"}
    if case == "other":
        target["images"] = data_files.folders(tmp_path / "b", count=2)["images"]
    elif case == "a label is missing":
        (tmp_path / "a" / "labels" / "001.png").unlink()
    sets = {"source": None, "source_eval": None, "target": target, "target_labelled": labelled}
    benchmark = {**sets, "classes": "cityscapes19", "eval": None}
    for folder in {labelled["images"], target["images"]}:
        damaged = tmp_path / folder / "001.png"
        damaged.write_bytes(damaged.read_bytes()[:300])
    found = check_benchmark(benchmark, data_dir=tmp_path, out=tmp_path / "out", say=len)
    assert set(found) == {"target_labelled", *(("target",) if case != "same" else ())}
    assert "truncated or damaged" in [*found.values()][-1]["quarantine"]["001"]


def test_a_set_without_a_usable_example_fails_after_all_sets_were_checked(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    (tmp_path / "empty.png").touch()
    target = {"name": "folders", "images": "empty.png", "use": "unlabelled"}
    benchmark = {"classes": "cityscapes19", "source": None, "source_eval": None, "eval": spec,
                 "target": target, "target_labelled": None}  # fmt: skip
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"no example is usable of: target;"):
        check_benchmark(benchmark, data_dir=tmp_path, out=out, say=lambda line: None)
    assert all((out / role / "manifest.json").exists() for role in ("target", "eval"))


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
        count_labels(data, threads=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2_000_000  # 180 more label images would be 6 MB


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((360, 480), (256, 512), "480x360 are resized to 512x256, .* 1.5 times .*=320,416 keeps"),
        ((1280, 720), (256, 512), "3.6 times as wide"),
        ((400, 1600), (256, 512), "0.5 times as wide"),
        ((1052, 1914), (512, 1024), ""),
        ((1080, 1920), (256, 512), ""),
        ((48, 64), (48, 64), ""),
        # A fifth is worth a word, in either direction.
        ((100, 100), (100, 119), ""),
        ((100, 100), (100, 120), "1.2 times as wide"),
        ((100, 100), (119, 100), ""),
        ((100, 100), (121, 100), "0.83 times as wide"),
        # Multiples of 32 that are as few pixels come no closer.
        ((96, 160), (64, 128), "1.2 times as wide as they are; only a larger size"),
    ],
)
def test_images_are_not_stretched_without_a_word(shape, size, words):
    sentences = stretching({shape: 3, (9, 9): 1}, size, field="benchmark.size")
    assert bool(sentences) == bool(words)
    assert not words or re.search(words, sentences[0])
    assert stretching({}, size, field="benchmark.size") == []


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((256, 512), (256, 512)),
        ((480, 640), (320, 416)),
        ((1080, 1920), (256, 480)),
        ((640, 480), (416, 320)),
        ((10, 9000), (32, 10848)),
    ],
)
def test_a_fitting_size_keeps_proportions_and_needs_no_padding(shape, size):
    assert fitting(shape, pixels=256 * 512) == size


def test_training_and_check_data_say_that_images_are_stretched(tmp_path):
    spec = data_files.folders(tmp_path, count=2)  # of 24x32
    unlabelled = spec | {"use": "unlabelled"}
    sets = {"source": spec, "target": unlabelled, "source_eval": None, "target_labelled": None}
    config = load_config("source_only:folders")
    config.data_dir = str(tmp_path)
    config.update({"benchmark": {"source": spec, "target": unlabelled, "size": (32, 96)}})
    lines = [line for line in introduction(config, needs_target=True) if "resized" in line]
    assert [line.split("--config.")[1].split("=")[0] for line in lines] == [
        "benchmark.source_size",
        "benchmark.size",
    ]
    said = []
    benchmark = config.benchmark.to_dict() | sets | {"eval": None}
    check_benchmark(benchmark, data_dir=tmp_path, out=tmp_path / "out", say=said.append)
    assert [line.strip() for line in said if "resized" in line] == lines


def test_the_crop_and_the_size_of_evaluation_follow_the_size_of_folders():
    config = load_config("source_only:folders")
    config.benchmark.size = (64, 96)
    sizes = ("crop", "eval_size", "source_size", "source_crop")
    assert {tuple(config.benchmark[name]) for name in sizes} == {(64, 96)}
    config.benchmark.crop = (32, 32)
    assert tuple(config.benchmark.eval_size) == (64, 96)


def test_the_classes_to_report_follow_those_of_own_folders():
    benchmark = load_config("source_only:folders").benchmark
    benchmark.classes = "camvid11"
    assert benchmark.eval_classes == "camvid11"
    benchmark.eval_classes = "thukral9"
    assert benchmark.classes == "camvid11"
