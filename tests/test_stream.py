"""Batches depend only on (seed, step), and image and label move together."""

import hashlib
import itertools
import os
import pathlib

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, PseudoLabels, RareClass, decode, load, pipeline
from rtda_jax.data.pseudo import label_path
from rtda_jax.data.stream import Frame, eval_stream
from rtda_jax.errors import ConfigError
from rtda_jax.tools import environment

KEYS = ("source_image", "source_label", "source_index", "target_image", "target_index")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    source = data_files.folders(root / "source", count=7, among=range(19))
    target = data_files.folders(root / "target", count=5)
    source["labelling"] = "train_ids"
    target["use"] = "unlabelled"
    return tuple(load(spec, data_dir=root, classes="cityscapes19") for spec in (source, target))


def batches(pair, count, **options):
    options = {"seed": 3, "batch_size": 4, "crop": (16, 20), "flip": True, **options}
    return list(itertools.islice(data_files.stream(*pair, **options), count))


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches_have_the_promised_arrays(pair):
    (batch,) = batches(pair, 1)
    assert sorted(batch) == sorted(KEYS)
    assert batch["source_image"].shape == batch["target_image"].shape == (4, 16, 20, 3)
    assert batch["source_label"].shape == (4, 16, 20)
    assert {batch[k].dtype.name for k in KEYS[:2]} == {"uint8"}
    assert batch["source_index"].dtype == batch["target_index"].dtype == np.int32


def resized(dataset, index, size, resize):
    image, label = decode.examine(dataset, index)
    picture = Image.fromarray(image).resize(size[::-1], resize)
    if label is not None:
        rows, columns = (
            (2 * np.arange(n) + 1) * side // (2 * n)
            for n, side in zip(size, label.shape, strict=True)
        )
        label = label[rows][:, columns]
    return np.asarray(picture), label


@pytest.mark.parametrize("cache", [0, 2**-10])
def test_source_and_target_have_sizes_and_resizing_of_their_own(pair, cache):
    (batch,) = batches(
        pair,
        1,
        flip=False,
        size=(20, 26),
        crop=None,
        resize="bicubic",
        source_frame=Frame((36, 64), None, "bilinear"),
        cache_gib=cache,
    )
    for i in range(4):
        image, label = resized(
            pair[0], batch["source_index"][i], (36, 64), Image.Resampling.BILINEAR
        )
        assert np.abs(batch["source_image"][i].astype(int) - image).max() <= 1
        np.testing.assert_array_equal(batch["source_label"][i], label)
        image, _ = resized(pair[1], batch["target_index"][i], (20, 26), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(batch["target_image"][i], image)


def test_crops_of_one_size_come_from_images_of_two(pair):
    frames = {"size": (20, 26), "source_frame": Frame((36, 64), (16, 20), "bicubic")}
    (batch,) = batches(pair, 1, flip=False, **frames)
    assert batch["source_image"].shape == batch["target_image"].shape == (4, 16, 20, 3)
    for i in range(4):
        whole, _ = resized(pair[0], batch["source_index"][i], (36, 64), Image.Resampling.BICUBIC)
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 20, 3))[:, :, 0]
        assert (windows == batch["source_image"][i]).all((2, 3, 4)).any()


def test_frames_that_cannot_be_used_are_refused_at_once(pair):
    with pytest.raises(DataError, match="the crop 64x64 is larger"):
        batches(pair, 0, size=(20, 26), source_frame=Frame((36, 64), (64, 64)))
    with pytest.raises(ConfigError, match="unknown resize 'cubic'"):
        batches(pair, 0, size=(20, 26), resize="cubic")


def test_an_evaluation_can_be_bicubic(pair):
    for example in eval_stream(pair[1], size=(20, 26), resize="bicubic"):
        image, _ = resized(pair[1], example["index"], (20, 26), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(example["image"], image)


@pytest.mark.parametrize(
    "options",
    [{"threads": 8}, {"prefetch": 5}, {"cache_gib": 2**-10}, {"cache_gib": 5000 / 2**30}],
    ids=str,
)
def test_threads_prefetch_and_cache_do_not_change_the_data(pair, options):
    assert_equal(batches(pair, 5, threads=1), batches(pair, 5, **options))


def test_by_default_there_is_a_thread_for_each_core(pair, monkeypatch):
    mapped, counts = pipeline.mapped, []

    def recording(graph, element, *, threads):
        counts.append(threads)
        return mapped(graph, element, threads=threads)

    monkeypatch.setattr(pipeline, "mapped", recording)
    monkeypatch.setattr(environment, "cores", lambda: 5)
    batches(pair, 1)
    next(eval_stream(pair[1]))
    assert counts == [5, 5]


def test_resuming_continues_exactly(pair):
    assert_equal(batches(pair, 9)[4:], batches(pair, 5, start_step=4))


def test_two_processes_share_one_batch(pair):
    whole = batches(pair, 3)
    shares = [batches(pair, 3, process_index=i, process_count=2) for i in range(2)]
    for step in range(3):
        for name in KEYS:
            joined = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(joined, whole[step][name])


def test_another_seed_gives_other_data(pair):
    one, two = batches(pair, 1), batches(pair, 1, seed=4)
    assert (one[0]["source_image"] != two[0]["source_image"]).any()


def test_every_epoch_is_a_permutation_and_domains_differ(pair):
    source, _ = pair
    drawn = np.concatenate([b["source_index"] for b in batches(pair, 7)])  # 28 = 4 epochs
    epochs = drawn.reshape(4, len(source))
    assert (np.sort(epochs, axis=1) == np.arange(len(source))).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1
    same = data_files.stream(source, source, seed=0, batch_size=7)
    batch = next(same)
    assert (batch["source_index"] != batch["target_index"]).any()


def test_source_and_target_of_one_set_move_differently(pair):
    """Compares the positions of the stream at which both domains show the same image."""
    source, _ = pair
    options = {"seed": 1, "batch_size": 64, "crop": (8, 8), "flip": True, "scale": (1.0, 1.5)}
    equal = []
    for batch in itertools.islice(data_files.stream(source, source, **options), 3):
        for i in np.flatnonzero(batch["source_index"] == batch["target_index"]):
            equal.append((batch["source_image"][i] == batch["target_image"][i]).all())
    assert len(equal) > 12 and not any(equal)


def test_the_cache_changes_nothing_under_zoom(pair):
    options = {"size": (20, 30), "scale": (0.7, 1.6), "batch_size": 4}
    plain = batches(pair, 6, **options)
    for cached in (1 << 20, 4000):
        assert_equal(plain, batches(pair, 6, **options, cache_gib=cached / 2**30))


def painted(label):
    """Returns an image whose channels all hold its label."""
    return np.repeat(label[..., None], 3, axis=2)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)], ids=str)
def test_label_moves_with_the_image(tmp_path, scale):
    # Two halves far apart in value: bilinear resizing blurs the border and nothing else.
    label = np.zeros((40, 60), np.uint8)
    label[:, 25:] = 18
    label[30:] = 9
    data_files.save(tmp_path / "images" / "a.png", painted(label))
    data_files.save(tmp_path / "labels" / "a.png", label)
    spec = {"name": "folders", "images": "images", "labels": "labels", "labelling": "train_ids"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    stream = data_files.stream(data, seed=0, batch_size=32, crop=(24, 36), flip=True, scale=scale)
    batch = next(stream)
    images, labels = batch["source_image"][..., 0].astype(int), batch["source_label"].astype(int)
    inside = labels != 255
    agree = (images == labels) | ~inside
    assert agree.mean() > (0.999 if scale == (1.0, 1.0) else 0.93)
    assert (inside.all() and scale == (1.0, 1.0)) or (images[~inside] == 0).all()
    # The crops differ, and about half of them are mirrored (18 on the left).
    assert len({image.tobytes() for image in images}) > 20
    mirrored = sum(row[0] == 18 for row in labels[:, 0] if {0, 18} <= set(row))
    whole = sum({0, 18} <= set(row) for row in labels[:, 0])
    assert 0.2 < mirrored / whole < 0.8


def test_resize_is_antialiased_for_images_and_nearest_for_labels(tmp_path):
    spec = data_files.folders(tmp_path, count=1, size=(40, 60))
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    batch = next(data_files.stream(data, seed=0, batch_size=1, size=(20, 30)))
    raw = data_files.picture(0, (40, 60))
    reference = Image.fromarray(raw).resize((30, 20), Image.Resampling.BILINEAR)
    difference = np.abs(batch["source_image"][0].astype(int) - np.asarray(reference))
    assert difference.max() <= 1
    label = data_files.ids(0, range(34), (40, 60))
    centres = label[1::2, 1::2]
    np.testing.assert_array_equal(
        batch["source_label"][0], data.classes.lut("cityscapes_ids")[centres]
    )


def test_images_smaller_than_the_crop_are_padded_with_ignored_pixels(pair):
    batch = batches(pair, 1, crop=(30, 40))[0]
    height, width = data_files.SIZE
    assert (batch["source_label"][:, height:] == 255).all()
    assert (batch["source_image"][:, height:] == 0).all()
    inside = batch["source_label"][:, :height]
    right = (inside[:, :, width:] == 255).all((1, 2))
    left = (inside[:, :, : 40 - width] == 255).all((1, 2))  # mirrored after padding
    assert (left | right).all()


def test_rare_classes_are_drawn_more_often_and_reproducibly(pair):
    source, _ = pair
    counts = np.zeros((len(source), 19), np.int64)
    counts[:, 0] = 1000
    counts[2, 5] = 10
    rare = RareClass(counts, temperature=0.3)
    expected = np.exp((1 - np.array([7000, 10]) / 7010) / 0.3)
    expected /= expected.sum()
    np.testing.assert_allclose(rare.probabilities()[[0, 5]], expected)
    assert rare.probabilities()[1] == 0
    share = expected[1] + expected[0] / len(source)
    for seed in range(4):
        drawn = [b["source_index"] for b in batches(pair, 25, rare=rare, seed=seed, batch_size=32)]
        drawn = np.concatenate(drawn)
        deviation = (share * (1 - share) / len(drawn)) ** 0.5
        assert abs((drawn == 2).mean() - share) < 4 * deviation
        assert set(drawn.tolist()) == set(range(len(source)))
    assert_equal(
        batches(pair, 6, rare=rare, threads=1)[3:], batches(pair, 3, rare=rare, start_step=3)
    )
    with pytest.raises(DataError, match="class counts are"):
        batches(pair, 1, rare=RareClass(counts[:3], temperature=0.3))


def test_cache_holds_no_more_than_its_limit(pair):
    from rtda_jax.data.pipeline import Examples

    one = 24 * 32 * 4
    cache = Examples(pair[0], limit=3 * one + 1)
    first = [cache.get(i) for i in range(7)]
    assert cache.bytes == 3 * one and len(cache.cached) == 3
    for i in range(7):
        np.testing.assert_array_equal(cache.get(i)[0], first[i][0])


def test_eval_keeps_order_and_the_labels_own_size(tmp_path):
    for i, size in enumerate([(20, 30), (33, 21), (24, 40)]):
        data_files.save(tmp_path / "i" / f"{i}.png", data_files.picture(i, size))
        data_files.save(tmp_path / "l" / f"{i}.png", data_files.ids(i, range(34), size))
    spec = {"name": "folders", "images": "i", "labels": "l"}
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    examples = list(eval_stream(data, size=(16, 16), threads=4))
    assert [example["key"] for example in examples] == ["0", "1", "2"]
    assert [example["index"] for example in examples] == [0, 1, 2]
    assert [example["label"].shape for example in examples] == [(20, 30), (33, 21), (24, 40)]
    assert {example["image"].shape for example in examples} == {(16, 16, 3)}
    shares = [list(eval_stream(data, process_index=i, process_count=2)) for i in range(2)]
    assert [[e["key"] for e in share] for share in shares] == [["0", "2"], ["1"]]
    assert "label" not in next(eval_stream(data.unlabelled()))


def test_target_labels_are_never_opened(tmp_path):
    source = load(data_files.folders(tmp_path / "s"), data_dir=tmp_path, classes="cityscapes19")
    spec = data_files.folders(tmp_path / "t")
    for path in (tmp_path / "t" / "labels").iterdir():
        path.write_bytes(b"")  # opening one would be an error
    labelled = load(spec, data_dir=tmp_path, classes="cityscapes19")
    assert (
        len(list(itertools.islice(data_files.stream(source, labelled, seed=0, batch_size=4), 5)))
        == 5
    )
    for path in (tmp_path / "t" / "labels").iterdir():
        path.unlink()
    unlabelled = load({**spec, "use": "unlabelled"}, data_dir=tmp_path, classes="cityscapes19")
    assert_equal(
        batches((source, labelled), 3, crop=None), batches((source, unlabelled), 3, crop=None)
    )


def pseudo_labelled(root, label, count=1):
    """Writes target images whose channels hold their label, twice the size of their label files."""
    for i in range(count):
        big = label.repeat(2, 0).repeat(2, 1)
        data_files.save(root / "images" / f"{i}.png", painted(big))
        data_files.save(pathlib.Path(label_path(root, str(i))), label)
    spec = {"name": "folders", "images": "images", "use": "unlabelled"}
    keys = tuple(str(i) for i in range(count))
    sums = [
        hashlib.sha256(pathlib.Path(label_path(root, k)).read_bytes()).hexdigest() for k in keys
    ]
    return load(spec, data_dir=root, classes="cityscapes19"), PseudoLabels(
        str(root), keys, tuple(sums), 19
    )


# Where images are made smaller, antialiasing blurs the borders.
@pytest.mark.parametrize(
    ("size", "scale", "least"),
    [(None, (1.0, 1.0), 0.999), ((40, 60), (1.0, 1.0), 0.85), ((40, 60), (0.5, 2.0), 0.8)],
    ids=str,
)
def test_pseudo_labels_move_with_the_target_image(tmp_path, pair, size, scale, least):
    label = np.zeros((40, 60), np.uint8)
    label[:, 25:] = 18
    label[30:] = 9
    label[:5] = 255
    target, pseudo = pseudo_labelled(tmp_path, label)
    options = {"size": size, "scale": scale, "crop": (24, 36), "batch_size": 32}
    (batch,) = batches((pair[0], target), 1, pseudo_labels=pseudo, **options)
    images, labels = batch["target_image"][..., 0].astype(int), batch["target_label"].astype(int)
    padded = (images == 0) & (labels == 255)
    assert ((images == labels) | padded).mean() > least
    assert len({image.tobytes() for image in labels}) > 20
    (without,) = batches((pair[0], target), 1, **options)
    assert sorted(set(batch) - set(without)) == ["target_label"]
    assert_equal([{k: v for k, v in batch.items() if k != "target_label"}], [without])


def test_pseudo_labels_of_other_images_or_gone_are_an_error(tmp_path, pair):
    target, pseudo = pseudo_labelled(tmp_path, np.zeros((8, 8), np.uint8), count=3)
    with pytest.raises(DataError, match="pseudo-labels of other images than the target's"):
        data_files.stream(*pair, pseudo_labels=pseudo, seed=0, batch_size=1)
    os.unlink(label_path(tmp_path, "2"))
    with pytest.raises(DataError, match=r"2\.png: no such file"):
        batches((pair[0], target), 3, pseudo_labels=pseudo, crop=(8, 8))


def test_a_pseudo_label_of_no_class_is_named(tmp_path, pair):
    target, pseudo = pseudo_labelled(tmp_path, np.full((8, 8), 19, np.uint8))
    with pytest.raises(DataError, match=r"0\.png: 64 pixels of class 19 .* there are 0\.\.18"):
        batches((pair[0], target), 1, pseudo_labels=pseudo, crop=(8, 8))


def test_an_order_chooses_examples(pair):
    found = [example["index"] for example in eval_stream(pair[0], order=[4, 0, 4])]
    assert found == [4, 0, 4]
    assert list(eval_stream(pair[0], order=[])) == []


def test_a_broken_file_stops_the_stream_by_name(tmp_path):
    spec = data_files.folders(tmp_path, count=9)
    data = load(spec, data_dir=tmp_path, classes="cityscapes19")
    steps = [b["source_index"].tolist() for b in batches((data, None), 6, batch_size=3)]
    whole = (tmp_path / "images" / "004.png").read_bytes()
    (tmp_path / "images" / "004.png").write_bytes(whole[: len(whole) // 2])
    bad = next(step for step, indices in enumerate(steps) if 4 in indices)
    stream = data_files.stream(data, seed=3, batch_size=3, crop=(16, 20), flip=True, threads=4)
    for step in range(bad):
        assert next(stream)["source_index"].tolist() == steps[step]
    with pytest.raises(DataError, match=r"images.004\.png: truncated"):
        next(stream)
    with pytest.raises(DataError, match=r"images.004\.png: truncated"):
        list(eval_stream(data))
    with pytest.raises(DataError, match=r"images.004\.png: truncated"):
        list(itertools.islice(data_files.stream(data, seed=0, batch_size=3, cache_gib=2**-10), 9))


def test_arguments_that_cannot_work_are_refused(pair):
    source, target = pair
    with pytest.raises(DataError, match="no labels to train on"):
        data_files.stream(target, source, seed=0, batch_size=1)
    with pytest.raises(DataError, match="not divisible by 3 processes"):
        data_files.stream(source, seed=0, batch_size=4, process_count=3)
    with pytest.raises(DataError, match="needs a crop"):
        data_files.stream(source, seed=0, batch_size=4, scale=(0.5, 1.0))
