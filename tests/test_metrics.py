import numpy as np
import pytest

from rtda_jax import evaluate, metrics


def brute_force(labels, predictions, classes):
    counts = np.zeros((classes, classes), np.int64)
    for truth, guess in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth != 255:
            counts[truth, guess] += 1
    return counts


def report(confusion):
    classes = range(len(confusion))
    return evaluate.report(confusion, names=[str(k) for k in classes], rows=classes)


@pytest.mark.parametrize("seed", range(20))
def test_confusion_matrix_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 20))
    shape = tuple(rng.integers(1, 12, 3))
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < 0.3] = 255
    predictions = rng.integers(0, classes, shape)
    ours = metrics.confusion_matrix(labels.astype(np.uint8), predictions, classes)
    np.testing.assert_array_equal(ours, brute_force(labels, predictions, classes))
    assert ours.sum() == (labels != 255).sum()


def test_scores_by_hand():
    confusion = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    iou = metrics.iou_per_class(confusion)
    np.testing.assert_allclose(iou[:2], [3 / 6, 4 / 7])
    assert np.isnan(iou[2:]).all()
    assert report(confusion)["miou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert report(confusion)["pixel_accuracy"] == pytest.approx(7 / 10)


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = np.array([[3, 1], [0, 0]])
    assert report(confusion)["miou"] == pytest.approx((3 / 4 + 0) / 2)


def test_nothing_counted_is_none_not_zero():
    nothing = report(np.zeros((3, 3), np.int64))
    assert nothing["miou"] is nothing["pixel_accuracy"] is None
    assert set(nothing["iou"].values()) == {None}


def test_whole_matrix_is_the_default_and_nothing_is_nan():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    assert metrics.mean_iou(confusion) == pytest.approx((3 / 6 + 0 + 4 / 6) / 3)
    assert metrics.pixel_accuracy(confusion) == pytest.approx(7 / 10)
    assert np.isnan(metrics.mean_iou(np.zeros((2, 2))))
    assert np.isnan(metrics.pixel_accuracy(np.zeros((2, 2))))


def test_large_counts_do_not_overflow():
    confusion = np.full((2, 2), 2**31 - 1, np.int64)
    assert report(confusion)["pixel_accuracy"] == pytest.approx(0.5)


def test_report_of_a_subset_keeps_false_positives_of_the_others():
    confusion = np.array([[5, 0, 1], [0, 2, 0], [1, 0, 3]])
    record = evaluate.report(confusion, names=("a", "c"), rows=(0, 2))
    assert record["iou"] == {"a": pytest.approx(5 / 7), "c": pytest.approx(3 / 5)}
    assert record["miou"] == pytest.approx((5 / 7 + 3 / 5) / 2)
    assert record["pixel_accuracy"] == pytest.approx(8 / 10)
    assert record["pixels"] == 10


def test_table_says_na_for_an_absent_class():
    record = evaluate.report(np.array([[5, 0], [0, 0]]), names=("a", "b"), rows=(0, 1))
    table = evaluate.table({"one": record})
    assert [row.split() for row in table.splitlines() if row.startswith("b")] == [["b", "n/a"]]
    assert "100.0" in table
