"""Candidates of long-tail pasting show their class and depend on (seed, step) alone."""

import itertools

import data_files
import numpy as np
import pytest
import tensorflow as tf

from rtda_jax.data import Candidates, DataError, RareClass, count_labels, load, pipeline
from rtda_jax.data.pipeline import visible_corner
from rtda_jax.errors import ConfigError
from rtda_jax.run import files

CROP = (16, 20)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    spec = data_files.folders(root / "source", count=7, among=range(19))
    spec["labelling"] = "train_ids"
    return load(spec, data_dir=root, classes="cityscapes19")


@pytest.fixture(scope="module")
def counts(source):
    return count_labels(source)[:, :-1]


def batches(source, count, **options):
    options = {"seed": 3, "batch_size": 4, "size": (24, 40), "crop": CROP, **options}
    return list(itertools.islice(data_files.stream(source, **options), count))


def test_every_candidate_shows_the_class_it_was_drawn_for(source, counts):
    for batch in batches(source, 3, candidates=Candidates(counts, slots=3, probability=1.0)):
        assert batch["candidate_images"].shape == (4, 3, *CROP, 3)
        assert batch["candidate_labels"].shape == (4, 3, *CROP)
        for label, kind in zip(
            batch["candidate_labels"].reshape(12, *CROP),
            batch["candidate_classes"].ravel(),
            strict=True,
        ):
            assert (label == kind).any()


def test_without_luck_there_is_nothing_to_paste(source, counts):
    drawn = batches(source, 20, candidates=Candidates(counts, slots=2, probability=0.3))
    kinds = np.concatenate([batch["candidate_classes"] for batch in drawn])
    empty = (kinds == 255).all(axis=1)
    assert 0.5 < empty.mean() < 0.9
    assert not (kinds[~empty] == 255).any()
    labels = np.concatenate([batch["candidate_labels"] for batch in drawn])
    assert (labels[empty] == 255).all()


def test_the_other_arrays_stay_and_a_resumed_stream_draws_the_same(source, counts):
    made = Candidates(counts, slots=2, probability=0.5)
    whole, plain = batches(source, 6, candidates=made), batches(source, 6)
    later = batches(source, 3, candidates=made, start_step=3, threads=1)
    for a, b in zip(whole[3:], later, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for a, b in zip(whole, plain, strict=True):
        for name in b:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_only_the_asked_classes_are_drawn_each_equally_often(source, counts):
    made = Candidates(counts, slots=4, probability=1.0, classes=(2, 5, 11))
    kinds = np.concatenate(
        [b["candidate_classes"].ravel() for b in batches(source, 30, candidates=made)]
    )
    assert set(kinds.tolist()) == set(made.drawn.tolist()) <= {2, 5, 11}
    shares = np.bincount(kinds, minlength=19)[made.drawn] / len(kinds)
    np.testing.assert_allclose(shares, 1 / len(made.drawn), atol=0.08)


def test_crops_are_uniform_among_those_that_show_the_class():
    shown = np.zeros((5, 6), bool)
    shown[0, 5] = True
    corners = {
        tuple(
            int(v) for v in visible_corner(tf.constant(shown), crop=(3, 4), number=tf.constant(n))
        )
        for n in np.linspace(0, 0.999, 20)
    }
    assert corners == {(0, 2)}
    shown[2, 2] = True  # in every crop
    corners = [
        tuple(
            int(v) for v in visible_corner(tf.constant(shown), crop=(3, 4), number=tf.constant(n))
        )
        for n in np.linspace(0.01, 0.99, 90)
    ]
    assert len(set(corners)) == 9
    assert {corners.count(c) for c in corners} == {10}


def test_a_target_that_moves_once_moves_alike_in_every_step(source):
    options = {"target": source.unlabelled(), "batch_size": 7, "flip": True}
    fixed = batches(source, 4, target_moves="once", **options)
    images = {}
    for batch in fixed:
        for index, image in zip(batch["target_index"], batch["target_image"], strict=True):
            np.testing.assert_array_equal(images.setdefault(int(index), image), image)
    free = batches(source, 4, **options)
    assert any(
        (a["target_image"] != b["target_image"]).any() for a, b in zip(fixed, free, strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": 0}, "at least one slot"),
        ({"probability": 2.0}, "need a probability, got 2"),
        ({"classes": (3, 40)}, r"classes \[40\] are not among the 19"),
        ({"classes": (18, 19)}, r"classes \[19\] are not among the 19"),
        ({"min_pixels": 10**6}, "of any class that could be pasted"),
    ],
)
def test_candidates_that_can_not_be_drawn_are_refused(counts, fields, message):
    with pytest.raises(DataError, match=message):
        Candidates(counts, **{"slots": 2, "probability": 0.3, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"min_pixels": 10**6}, "no example has 1000000 pixels of any class"),
        ({"crops": 0}, "at least one crop must be drawn, got 0"),
    ],
)
def test_rare_classes_that_can_not_be_drawn_are_refused(fields, message):
    counts = np.eye(3, dtype=np.int64)
    assert RareClass(counts, temperature=0.5).crops == 1
    with pytest.raises(DataError, match=message):
        RareClass(counts, **{"temperature": 0.5, **fields})


def test_a_broken_file_that_is_only_pasted_is_named(tmp_path):
    spec = data_files.folders(tmp_path, count=7, among=range(19))
    broken = load({**spec, "labelling": "train_ids"}, data_dir=tmp_path, classes="cityscapes19")
    [batch] = batches(broken, 1)
    pasted = max(set(range(7)) - set(batch["source_index"].tolist()))
    path = tmp_path / "images" / f"{pasted:03d}.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    counts = np.zeros((7, 19), np.int64)
    counts[pasted, 3] = 1000
    batches(broken, 1)
    with pytest.raises(DataError, match=rf"^\S*images.{pasted:03d}\.png: truncated"):
        batches(broken, 1, candidates=Candidates(counts, slots=1, probability=1.0))


def test_a_crop_larger_than_the_image_is_refused(source, counts):
    with pytest.raises(DataError, match="a size and a crop within it"):
        batches(source, 1, size=None, candidates=Candidates(counts, slots=1, probability=0.3))
    with pytest.raises(DataError, match="a size and a crop within it"):
        zoom = {"size": (12, 40), "scale": (1.0, 2.0)}
        batches(source, 1, **zoom, candidates=Candidates(counts, slots=1, probability=0.3))
    with pytest.raises(ConfigError, match=r"unknown augment\.target_moves 'twice'; known: each"):
        batches(source, 1, target_moves="twice")


def test_counts_that_unpack_to_much_more_are_none(tmp_path):
    """A file of 130 KB that claims 128 MiB is as good as no file."""
    path = tmp_path / "class_counts.npz"
    np.savez_compressed(path, counts=np.zeros(2**24))
    assert path.stat().st_size < 150_000
    assert files.read_npz(path) == {}
    np.savez_compressed(path, counts=np.zeros(2**10))
    assert files.read_npz(path)["counts"].shape == (1024,)


def test_the_keys_of_a_stream_are_those_with_which_runs_have_begun():
    """A resumed run draws the same batches only if purposes and their keys stay what they are."""
    assert pipeline._MOVES == {"source": 2, "target": 3}
    assert (pipeline._RARE, pipeline._PASTE, pipeline.DOMAINS) == (4, 5, ("source", "target"))
    position = tf.constant(23, tf.int64)
    folded = tf.random.experimental.stateless_fold_in(tf.constant([9, 4], tf.int64), position)
    np.testing.assert_array_equal(pipeline.seed_of(9, 4, position), folded)
    for domain in (0, 1):
        drawn = pipeline.shuffled(position, seed=9, domain=domain, count=5)
        key = tf.constant([9, 2 * 4 + domain], tf.int64)  # the fourth place of epoch 4
        assert drawn == tf.random.experimental.index_shuffle(
            tf.constant(3, tf.int64), seed=key, max_index=tf.constant(4, tf.int64)
        )


@pytest.fixture(scope="module")
def uneven():
    """Pixels of six classes in nine examples; no class is in as many examples as another."""
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 60, (9, 6)) * (rng.random((9, 6)) < np.arange(6) / 6)
    counts[:, 0], counts[7, 0] = 0, 3  # too few to count
    counts[3, 1] = counts[1, 3] = counts[4, 5] = 5  # just enough
    return counts


def test_a_rare_example_is_a_class_by_its_probability_and_then_one_of_its_examples(uneven):
    rare = RareClass(uneven, temperature=0.2, min_pixels=5)
    share = uneven.sum(axis=0) / uneven.sum()
    there = (uneven >= 5).any(axis=0)
    weights = np.where(there, np.exp((1 - share) / 0.2), 0)
    np.testing.assert_allclose(rare.probabilities(), weights / weights.sum())
    drawn = set()
    for number in range(40):
        key = tf.constant([number, 11], tf.int64)
        numbers = tf.random.stateless_uniform([2], seed=key, dtype=tf.float64, alg="philox")
        by_class, by_example = numbers.numpy()
        bounds = np.cumsum(weights)
        expected = int(np.searchsorted(bounds, by_class * bounds[-1], side="right"))
        members = np.flatnonzero(uneven[:, expected] >= 5)
        example, shown = (int(x) for x in pipeline.rare_example(rare, key))
        assert (shown, example) == (expected, members[int(by_example * len(members))])
        drawn.add(shown)
    assert len(drawn) >= 4 and 0 not in drawn


def test_candidates_are_classes_examples_and_crops_in_the_order_of_their_numbers(uneven):
    candidates = Candidates(uneven, slots=3, probability=0.4, classes=(0, 1, 3, 5), min_pixels=5)
    np.testing.assert_array_equal(candidates.drawn, [c for c in (1, 3, 5) if uneven[:, c].any()])
    offered = 0
    for number in range(20):
        key = tf.constant([number, 12], tf.int64)
        numbers = tf.random.stateless_uniform([10], seed=key, dtype=tf.float64, alg="philox")
        chance, *rest = numbers.numpy()
        there, kinds, index, crops = pipeline.candidate_draws(candidates, key)
        assert bool(there) == (chance < 0.4)
        offered += bool(there)
        for slot, (by_class, by_example, by_crop) in enumerate(np.reshape(rest, (3, 3))):
            expected = candidates.drawn[int(by_class * len(candidates.drawn))]
            members = np.flatnonzero(uneven[:, expected] >= 5)
            assert kinds[slot] == expected
            assert index[slot] == members[int(by_example * len(members))]
            assert crops[slot] == by_crop
    assert 0 < offered < 20
