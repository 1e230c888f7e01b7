import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.adapt import pseudo_labels
from rtda_jax.adapt.pseudo_labels import BINS, PseudoLabelOptions
from rtda_jax.errors import ConfigError


def prediction(seed=0, classes=6, size=(40, 50)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, size).astype(np.uint8)  # the last class is absent
    return labels, rng.beta(3 + labels, 1.0).astype(np.float32)


def originals(labels, confidence, *, cut, cap, rounding, classes=6):
    """The authors' loops: sort, index, cap, compare."""
    limits = np.zeros(classes)
    for k in range(classes):
        x = np.sort(confidence[labels == k])
        if len(x):
            limits[k] = min(x[min(int(rounding(len(x) * cut)), len(x) - 1)], cap)
    out = labels.copy()
    for k in range(classes):
        out[(confidence < limits[k]) & (labels == k)] = 255
    return limits, out


RULES = [(0.5, 0.9, "round", np.round), (0.66, 0.9, "floor", np.floor), (0.66, 1.0, "round", round)]


@pytest.mark.parametrize(("cut", "cap", "index", "rounding"), RULES)
def test_one_image_is_labelled_as_the_authors_loops_do(cut, cap, index, rounding):
    labels, confidence = prediction()
    limits, expected = originals(labels, confidence, cut=cut, cap=cap, rounding=rounding)
    got = pseudo_labels.exact_thresholds(
        labels, confidence, num_classes=6, cut=cut, cap=cap, index=index
    )
    np.testing.assert_allclose(got, limits, rtol=1e-7)
    assert got[5] == 0
    np.testing.assert_array_equal(pseudo_labels.assign(labels, confidence, got), expected)


@pytest.mark.parametrize(("cut", "cap", "index", "rounding"), RULES)
def test_streamed_thresholds_lie_within_a_bin_below_the_exact_ones(cut, cap, index, rounding):
    images = [prediction(seed) for seed in range(5)]
    counts = sum(pseudo_labels.histogram(*image, num_classes=6) for image in images)
    assert counts.shape == (6, BINS)
    together = [np.concatenate(part) for part in zip(*images, strict=True)]
    limits, _ = originals(*together, cut=cut, cap=cap, rounding=rounding)
    got = pseudo_labels.thresholds(counts, cut=cut, cap=cap, index=index)
    assert (got <= limits + 1e-7).all()
    assert (limits - got <= 1 / BINS + 1e-7).all()


@pytest.mark.parametrize(
    ("count", "cut", "index", "expected"),
    [
        (1, 0.66, "round", 0),  # the authors' code fails here: index 1 of 1
        (1, 0.5, "round", 0),
        (3, 0.5, "round", 2),  # 1.5 to the even number
        (5, 0.5, "round", 2),
        (3, 0.66, "round", 2),
        (3, 0.66, "floor", 1),
    ],
)
def test_the_rank_of_the_threshold(count, cut, index, expected):
    assert pseudo_labels.rank(count, cut=cut, index=index) == expected


def test_confidence_one_falls_into_the_last_bin():
    counts = pseudo_labels.histogram(
        np.zeros((1, 2), np.uint8), np.float32([[0.0, 1.0]]), num_classes=1, bins=10
    )
    assert counts.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0, 1]]


def maps(count, seed=0):
    logits = 3 * jax.random.normal(jax.random.key(seed), (count, 4, 5, 7))
    return np.asarray(jax.nn.softmax(logits))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("fusion", ["mean", "most_confident"])
def test_fusions_against_loops(count, fusion):
    made = maps(count)
    labels, confidence = pseudo_labels.fuse(jnp.asarray(made), fusion=fusion)
    for where in np.ndindex(4, 5):
        voices = [made[m][where] for m in range(count)]
        surest = max(voices, key=lambda p: p.max())
        chosen = np.mean(voices, axis=0) if fusion == "mean" else surest
        assert labels[where] == chosen.argmax()
        assert confidence[where] == pytest.approx(chosen.max(), rel=1e-6)


def test_the_most_confident_layer_is_that_of_the_concatenated_maps():
    made = maps(3)
    labels, _ = pseudo_labels.fuse(jnp.asarray(made), fusion="most_confident")
    together = np.concatenate(list(made), axis=-1)
    np.testing.assert_array_equal(labels, together.argmax(-1) % 7)


def test_majority_against_loops():
    made = maps(3, seed=1)
    labels, confidence = pseudo_labels.fuse(jnp.asarray(made), fusion="majority")
    for where in np.ndindex(4, 5):
        voices = [made[m][where] for m in range(3)]
        votes = [int(p.argmax()) for p in voices]
        surest = {c: max(p[c] for p in voices if p.argmax() == c) for c in votes}
        winner = max(surest, key=lambda c: (votes.count(c), surest[c]))
        assert labels[where] == winner
        assert confidence[where] == pytest.approx(surest[winner], rel=1e-6)


def test_majority_counts_votes_and_the_surest_voter_decides_between_equals():
    two_to_one = [[0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.01, 0.01, 0.98]]
    all_differ = [[0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]]
    made = jnp.array([two_to_one, all_differ]).transpose(1, 0, 2)
    labels, confidence = pseudo_labels.fuse(made, fusion="majority")
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(confidence, [0.6, 0.7], rtol=1e-6)
    surest, _ = pseudo_labels.fuse(made, fusion="most_confident")
    assert surest.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion": "vote"}, "unknown pseudo.fusion 'vote'; known: majority, mean, most_con"),
        ({"index": "ceil"}, "unknown pseudo.index 'ceil'; known: floor, round"),
        ({"cut": 1.0}, r"pseudo.cut must lie in \[0, 1\), got 1"),
        ({"cap": 0.0}, r"pseudo.cap must lie in \(0, 1\], got 0"),
        ({"fusion": "majority"}, "needs at least three votes, got 2"),
        ({"heads": ()}, r"pseudo\.heads must name at least one output"),
        ({"cut": -0.1}, r"pseudo\.cut must lie in \[0, 1\), got -0\.1"),
        ({"cap": 1.1}, r"pseudo\.cap must lie in \(0, 1\], got 1\.1"),
        ({"scope": "batch"}, r"pseudo\.scope 'batch'; known: dataset, image"),
        ({"split": "source"}, r"pseudo\.split 'source'; known: eval, target"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        PseudoLabelOptions(**fields).check_votes(2)


def test_limits_are_allowed():
    PseudoLabelOptions(cut=0.0, cap=1.0)
    PseudoLabelOptions(fusion="majority").check_votes(3)
    PseudoLabelOptions(fusion="majority", heads=("logits", "aux16", "aux32")).check_votes(1)
    PseudoLabelOptions(fusion="majority", heads=("logits", "aux16")).check_votes(2)
    for fusion in ("mean", "most_confident"):
        PseudoLabelOptions(fusion=fusion).check_votes(1)


def test_histograms_have_4096_bins():
    """A count that was begun goes on only with as many."""
    assert BINS == 4096
