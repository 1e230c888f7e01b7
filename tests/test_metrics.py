import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import evaluate, metrics

# No two rows, columns or off-diagonal entries are alike.
LOPSIDED = np.array([[50, 3, 8, 1], [5, 20, 2, 13], [1, 4, 30, 6], [7, 0, 9, 10]])


def brute_force(labels, predictions, classes):
    counts = np.zeros((classes, classes), np.int64)
    for truth, guess in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth != 255:
            counts[truth, guess] += 1
    return counts


def report(confusion, **options):
    classes = range(len(confusion))
    return evaluate.report(confusion, names=[str(k) for k in classes], rows=classes, **options)


@pytest.mark.parametrize("seed", range(20))
def test_confusion_matrix_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 20))
    shape = tuple(rng.integers(1, 12, 3))
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < 0.3] = 255
    predictions = rng.integers(0, classes, shape)
    counts = metrics.confusion_matrix(labels.astype(np.uint8), predictions, classes)
    np.testing.assert_array_equal(counts, brute_force(labels, predictions, classes))
    assert counts.sum() == (labels != 255).sum()
    assert counts.dtype == np.int32


def test_rows_are_the_truth_and_columns_the_predictions():
    counts = metrics.confusion_matrix(np.array([0, 0, 255]), np.array([1, 1, 0]), 2)
    np.testing.assert_array_equal(counts, [[0, 2], [0, 0]])


@pytest.mark.parametrize("pixel", [(-1, 0), (3, 0), (0, 3), (0, -1), (0, 255), (256, 0)])
def test_a_pixel_of_no_class_is_refused_and_counts_as_no_other_class(pixel):
    labels, predictions = (jnp.array([1, value]) for value in pixel)
    with pytest.raises(ValueError, match=rf"label {pixel[0]} is predicted as {pixel[1]}$"):
        metrics.confusion_matrix(labels, predictions, 3)
    counts = jax.jit(metrics.confusion_matrix, static_argnums=2)(labels, predictions, 3)
    np.testing.assert_array_equal(counts, np.diag([0, 1, 0]))


def test_what_is_predicted_where_a_pixel_is_ignored_does_not_matter():
    counts = metrics.confusion_matrix(jnp.array([0, 255]), jnp.array([0, 9]), 3)
    assert counts.sum() == 1


def test_scores_by_hand():
    confusion = np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    iou = metrics.iou_per_class(confusion)
    np.testing.assert_allclose(iou[:2], [3 / 6, 4 / 7])
    assert np.isnan(iou[2:]).all()
    assert report(confusion)["miou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert report(confusion)["pixel_accuracy"] == pytest.approx(7 / 10)


def test_scores_of_a_lopsided_matrix_by_hand():
    iou = [50 / (62 + 63 - 50), 20 / (40 + 27 - 20), 30 / (41 + 49 - 30), 10 / (26 + 30 - 10)]
    np.testing.assert_allclose(metrics.iou_per_class(LOPSIDED), iou)
    assert metrics.mean_iou(LOPSIDED) == pytest.approx(np.mean(iou))
    assert metrics.pixel_accuracy(LOPSIDED) == pytest.approx(110 / 169)


def test_a_subset_counts_the_true_pixels_of_its_classes_and_all_their_false_positives():
    rows = (0, 2)
    iou = [50 / (62 + 63 - 50), 30 / (41 + 49 - 30)]
    assert metrics.mean_iou(LOPSIDED, rows) == pytest.approx(np.mean(iou))
    # 62 and 41 pixels are truly of these classes, whatever they are taken for.
    assert metrics.pixel_accuracy(LOPSIDED, rows) == pytest.approx(80 / 103)
    assert metrics.mean_iou(LOPSIDED, (3,)) == pytest.approx(10 / 46)
    assert metrics.pixel_accuracy(LOPSIDED, (3,)) == pytest.approx(10 / 26)


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = np.array([[3, 1], [0, 0]])
    assert report(confusion)["miou"] == pytest.approx((3 / 4 + 0) / 2)


def test_a_class_that_is_never_predicted_counts_as_zero():
    assert metrics.mean_iou(np.array([[3, 0], [1, 0]])) == pytest.approx((3 / 4 + 0) / 2)


@pytest.mark.parametrize("absent", metrics.ABSENT)
def test_nothing_counted_is_none_not_zero(absent):
    nothing = report(np.zeros((3, 3), np.int64), absent=absent)
    assert nothing["miou"] is nothing["pixel_accuracy"] is None
    assert set(nothing["iou"].values()) == {None}


def test_an_absent_class_is_left_out_of_the_mean():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    assert metrics.mean_iou(confusion) == pytest.approx((3 / 6 + 0 + 4 / 6) / 3)
    confusion[0] = 4, 0, 0
    assert metrics.mean_iou(confusion) == pytest.approx((4 / 6 + 4 / 6) / 2)


def test_no_pixel_at_all_is_nan():
    assert np.isnan(metrics.mean_iou(np.zeros((2, 2))))
    assert np.isnan(metrics.pixel_accuracy(np.zeros((2, 2))))
    assert np.isnan(metrics.pixel_accuracy(np.array([[3, 1], [0, 0]]), (1,)))


def test_large_counts_do_not_overflow():
    confusion = np.full((2, 2), 2**31 - 1, np.int64)
    assert report(confusion)["pixel_accuracy"] == pytest.approx(0.5)
    assert metrics.mean_iou(confusion.astype(np.int32)) == pytest.approx(1 / 3)


def test_report_of_a_subset_keeps_false_positives_of_the_others():
    record = evaluate.report(LOPSIDED, names=("a", "c"), rows=(0, 2))
    assert record["iou"] == {"a": pytest.approx(50 / 75), "c": pytest.approx(30 / 60)}
    assert record["miou"] == pytest.approx((50 / 75 + 30 / 60) / 2)
    assert record["pixel_accuracy"] == pytest.approx(80 / 103)
    assert record["pixels"] == 103


def test_table_says_na_for_an_absent_class():
    record = evaluate.report(np.array([[5, 0], [0, 0]]), names=("a", "b"), rows=(0, 1))
    table = evaluate.table({"one": record})
    assert [row.split() for row in table.splitlines() if row.startswith("b")] == [["b", "n/a"]]
    assert "100.0" in table
