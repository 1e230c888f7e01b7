"""Label files of a whole set: the rule over all images, in bounded memory, killed anywhere."""

import contextlib
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Tiny, softmax
from PIL import Image

from rtda_jax.adapt import pseudo_labels
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.augment.normalise import normalise
from rtda_jax.data.pseudo import label_path
from rtda_jax.errors import Interrupted
from rtda_jax.evaluate import Model
from rtda_jax.run import parallel
from rtda_jax.stages import pseudo_label

K, KEYS = 6, tuple(f"town/{i:03d}" for i in range(7))


def prediction(i, size=(12, 20)):
    rng = np.random.default_rng(i)
    labels = rng.integers(0, K - 1, size).astype(np.uint8)  # the last class is absent
    return labels, rng.beta(3 + labels, 1.0).astype(np.float32)


def predictions(order):
    return (prediction(i) for i in order)


class Killed(Exception):
    pass


def killed_after(count):
    """Predictions of which this process sees `count` before it dies."""
    left = iter(range(count))

    def stream(order):
        for made in predictions(order):
            if next(left, None) is None:
                raise Killed
            yield made

    return stream


def generate(folder, stream=predictions, stop=None, heartbeat=lambda: None, **fields):
    rule = {"scope": "dataset", "cut": 0.66, "cap": 0.9, "index": "floor", **fields}
    return pseudo_label.generate(
        stream,
        folder,
        keys=KEYS,
        options=PseudoLabelOptions(**rule),
        num_classes=K,
        interrupted=stop or threading.Event(),
        heartbeat=heartbeat,
    )


def written(folder):
    return {key: np.asarray(Image.open(label_path(folder, key))) for key in KEYS}


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_thresholds_hold_over_the_whole_set(tmp_path):
    made = generate(tmp_path)
    labels, confidence = (np.stack(x) for x in zip(*predictions(range(len(KEYS))), strict=True))
    for k in range(K):
        values = np.sort(confidence[labels == k])
        exact = min(values[int(0.66 * len(values))], 0.9) if len(values) else 0
        assert 0 <= exact - made.thresholds[k] <= 1 / pseudo_labels.BINS + 1e-7
    limits = np.array(made.thresholds)
    expected = np.where(confidence < limits[labels], 255, labels)
    found = np.stack(list(written(tmp_path).values()))
    np.testing.assert_array_equal(found, expected)
    assert made.coverage == pytest.approx((expected != 255).mean())
    assert made.pixels == [int((expected == k).sum()) for k in range(K)]


def test_thresholds_of_each_image_are_exact(tmp_path):
    made = generate(tmp_path, scope="image", cut=0.5, index="round")
    assert made.thresholds is None
    for i, found in enumerate(written(tmp_path).values()):
        labels, confidence = prediction(i)
        limits = np.zeros(K)
        for k in range(K - 1):
            values = np.sort(confidence[labels == k])
            limits[k] = min(values[round(0.5 * len(values))], 0.9)
        expected = np.where(confidence < limits[labels], 255, labels)
        np.testing.assert_array_equal(found, expected)


# Of 7 images: killed while counting, on the border of the passes, while writing, and repeatedly.
@pytest.mark.parametrize("scope", ["dataset", "image"])
@pytest.mark.parametrize("kills", [(0,), (2,), (6,), (7,), (10,), (1, 3, 4, 2)])
def test_killed_and_continued_leaves_the_same_bytes(kills, scope, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_label, "SAVE_EVERY", 2)
    whole = generate(tmp_path / "whole", scope=scope)
    for count in kills:
        with contextlib.suppress(Killed):  # the one pass of "image" may end before
            generate(tmp_path / "torn", killed_after(count), scope=scope)
    assert generate(tmp_path / "torn", scope=scope) == whole
    assert everything(tmp_path / "torn") == everything(tmp_path / "whole")


@contextlib.contextmanager
def as_process(index, count):
    """Calls are those of one of several processes, until it would have to wait for the others."""

    def lonely(text):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "process", lambda: (index, count))
        patch.setattr(parallel, "is_main", lambda: index == 0)
        patch.setattr(parallel, "on_main", lambda action: action() if index == 0 else None)
        for name in ("sum_counts", "gather_text"):
            patch.setattr(parallel, name, lonely)
        yield


# Jobs of several processes that end after each of these has seen a number of images.
@pytest.mark.parametrize("jobs", [[(2, 1)], [(4, 3)], [(0, 2), (1, 1)], [(2, 1, 2), (1, 0)]])
def test_what_processes_of_lost_jobs_counted_stays(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_label, "SAVE_EVERY", 1)
    whole = generate(tmp_path / "whole")
    left = len(KEYS)
    for counts in jobs:
        for index, count in enumerate(counts):
            with as_process(index, len(counts)), contextlib.suppress(Killed):
                generate(tmp_path / "torn", killed_after(count))
            left -= count
    asked = []

    def watched(order):
        asked.append(len(order))
        return predictions(order)

    assert generate(tmp_path / "torn", watched) == whole
    assert asked[-1] == len(KEYS)  # of the second pass
    assert asked[:-1] == [left] * (left > 0)
    assert everything(tmp_path / "torn") == everything(tmp_path / "whole")


def test_a_histogram_that_was_added_before_a_kill_is_not_added_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_label, "SAVE_EVERY", 1)
    whole = generate(tmp_path / "whole")
    for index, count in ((0, 2), (1, 3)):
        with as_process(index, 2), contextlib.suppress(Killed):
            generate(tmp_path / "torn", killed_after(count))
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", lambda path: None)  # as if killed in front of it
        with contextlib.suppress(Killed):
            generate(tmp_path / "torn", killed_after(0))
    assert (tmp_path / "torn" / "histogram-1.npz").exists()
    assert generate(tmp_path / "torn") == whole


def test_a_damaged_histogram_is_counted_again(tmp_path, capsys):
    """Wherever a bit of it is turned; what it decides never changes silently."""
    whole = generate(tmp_path)
    path = tmp_path / "histogram.npz"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    turned = [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at, bit in zip(rng.integers(0, len(data), 60), rng.integers(0, 8, 60), strict=True)
    ]
    for damaged in (b"", data[: len(data) // 2], *turned):
        path.write_bytes(damaged)
        assert generate(tmp_path) == whole
    assert "histogram.npz is damaged: confidences are counted again" in capsys.readouterr().out


def test_a_histogram_of_more_images_than_there_are_is_counted_again(tmp_path, capsys):
    whole = generate(tmp_path)
    path = tmp_path / "histogram.npz"
    with np.load(path) as saved:
        counts = saved["counts"]
    np.savez_compressed(path, done=np.ones(len(KEYS) + 1, bool), counts=0 * counts)
    assert generate(tmp_path) == whole
    assert "histogram.npz is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("fusion", ["mean", "most_confident"])
def test_networks_of_different_normalisations_are_fused_head_by_head(fusion):
    module = Tiny(num_classes=5, heads=("aux16",))
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    models, maps = [], []
    for seed, name in enumerate(("imagenet", "tensorflow")):
        pixels = normalise(jnp.float32(image)[None], name=name)
        variables = module.init(jax.random.key(seed), pixels, train=True)
        models.append(Model(module, variables, name))
        outputs = module.clone(auxiliary="always").apply(variables, pixels)
        maps += [softmax(np.float64(outputs[head][0])) for head in ("aux16", "logits")]
    predict = pseudo_label.predictor(models, heads=("aux16", "logits"), fusion=fusion)
    labels, confidence = predict(image)
    maps = np.stack(maps)
    if fusion == "mean":
        fused = maps.mean(0)
    else:
        surest = maps.max(-1).argmax(0)
        fused = np.take_along_axis(maps, surest[None, ..., None], 0)[0]
    np.testing.assert_allclose(confidence, fused.max(-1), rtol=1e-4)
    assert (np.asarray(labels) == fused.argmax(-1)).mean() > 0.99


def test_a_signal_saves_the_count_and_what_is_done_is_not_done_again(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="stopped after image 1; the same command"):
        generate(tmp_path, stop=stop)
    asked = []

    def watched(order):
        asked.append(list(order))
        return predictions(order)

    generate(tmp_path, watched)
    assert asked == [list(range(1, len(KEYS))), list(range(len(KEYS)))]


def test_a_signal_at_the_last_image_is_not_lost(tmp_path):
    stop = threading.Event()

    def last(order):
        for i, made in zip(order, predictions(order), strict=True):
            if i == len(KEYS) - 1:
                stop.set()
            yield made

    with pytest.raises(Interrupted, match="stopped after image 7; the same command"):
        generate(tmp_path, last, stop=stop, scope="image")
    assert generate(tmp_path, scope="image").files.keys() == set(KEYS)


def test_every_image_gives_a_heartbeat(tmp_path):
    """Each is predicted twice and read again once, so the watchdog never takes it for a stall."""
    beats = []
    generate(tmp_path, heartbeat=lambda: beats.append(None))
    assert len(beats) == 3 * len(KEYS)


def test_progress_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rtda_jax.run.log._SHORT_SECONDS", 0)
    generate(tmp_path)
    said = capsys.readouterr().err
    assert "counting confidences: 7/7" in said
    assert "writing labels: 7/7" in said
