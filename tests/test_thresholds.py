import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.adapt.thresholds import Thresholds, adapt
from rtda_jax.run import parallel


def numpy_adapt(theta, confidence, labels, *, alpha, beta, d, decay=0.0, step=0):
    """IAST's selector as S4 has it, one class after the other."""
    moved = np.array(theta, np.float64)
    kept = alpha if decay <= 0 else 1 - alpha * np.exp(-step * decay)
    for c in range(len(theta)):
        values = confidence[labels == c].tolist()
        reached = theta[c]
        if values:
            ordered = sorted([*values, theta[c]], reverse=True)
            reached = ordered[int(len(ordered) * beta * theta[c] ** d)]
        moved[c] = kept * theta[c] + (1 - kept) * reached
    moved[moved >= 1] = 0.999
    return moved


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.95, 0.9, 0.85, 0.6, 0.55], 0.815),
        ([0.99] * 20 + [0.9] * 20 + [0.5] * 10, 0.819),
    ],
)
def test_worked_examples(values, expected):
    confidence = jnp.array(values, jnp.float32).reshape(1, 1, -1)
    got = adapt(
        jnp.array([0.8, 0.8]), confidence, jnp.zeros_like(confidence, int), how=Thresholds()
    )
    np.testing.assert_allclose(got, [expected, 0.8], atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_against_numpy_over_several_steps(decay):
    rng = np.random.default_rng(0)
    how = Thresholds(decay=decay, d=3.0)
    step = jax.jit(functools.partial(adapt, how=how))
    theta, expected = how.start(7), np.full(7, 0.8)
    for t in range(12):
        labels = rng.choice([0, 1, 2, 3, 4, 6], (2, 9, 11), p=[0.5, 0.2, 0.2, 0.05, 0.04, 0.01])
        confidence = np.float32(rng.uniform(0.2, 1.0, labels.shape) ** 0.3)
        theta = step(theta, confidence, labels, step=t)
        expected = numpy_adapt(
            expected, confidence, labels, alpha=0.9, beta=0.8, d=3.0, decay=decay, step=t
        )
        np.testing.assert_allclose(theta, expected, atol=3e-6)
    assert theta[5] == jnp.float32(0.8)
    assert len(set(np.asarray(theta).tolist())) >= 6


@pytest.mark.parametrize(("certainty", "expected"), [(1.0, 0.999), (0.9998, 0.9998)])
def test_a_threshold_stays_below_one_and_may_pass_what_stands_for_one(certainty, expected):
    how = Thresholds(alpha=0.0, beta=0.1)
    certain = jnp.full((1, 4, 4), certainty)
    labels = np.zeros((1, 4, 4), int)
    got = adapt(jnp.array([0.8, 0.8]), certain, labels, how=how)
    np.testing.assert_allclose(got, [expected, 0.8], rtol=1e-6)
    same = numpy_adapt([0.8, 0.8], np.asarray(certain), labels, alpha=0.0, beta=0.1, d=8.0)
    np.testing.assert_allclose(got, same, rtol=1e-6)


def test_several_devices_share_one_theta():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (4, 5, 6))
    confidence = np.float32(rng.uniform(0.4, 1.0, labels.shape))
    theta, how = jnp.array([0.7, 0.8, 0.9]), Thresholds(d=1.0)
    expected = adapt(theta, confidence, labels, how=how)
    mapped = jax.pmap(
        functools.partial(adapt, how=how, axis_name="batch"),
        "batch",
        in_axes=(None, 0, 0),
        devices=list(parallel.mesh().devices.flat),
    )
    halves = mapped(theta, confidence.reshape(2, 2, 5, 6), labels.reshape(2, 2, 5, 6))
    np.testing.assert_allclose(halves[0], expected, atol=1e-6)
    np.testing.assert_array_equal(halves[1], halves[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("initial", 1.0, r"threshold\.initial must be in \(0, 1\), got 1"),
        ("beta", 0.0, r"threshold\.beta must be in \(0, 1\]"),
        ("decay", -1.0, r"threshold\.decay must be at least 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(**{field: value})


def test_more_classes_than_the_keys_hold_are_refused():
    with pytest.raises(ValueError, match="at most 31 classes, got 32"):
        Thresholds().start(32)
