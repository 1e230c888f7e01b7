import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import softmax

from rtda_jax.adapt import consistency, terms
from rtda_jax.adapt.consistency import ConsistencyOptions, adapt
from rtda_jax.augment import geometry
from rtda_jax.losses import LossOptions
from rtda_jax.run import parallel

ADAPTIVE = ConsistencyOptions(threshold="adaptive")

WEAK, STRONG = [2.0, 0.0, -1.0], [1.0, 0.5, -0.5]


def pixel(values):
    return jnp.array(values, jnp.float32).reshape(1, 1, 1, -1)


def gradients(weak, strong, **options):
    def total(a, b):
        return consistency.focal(a, b, **options).sum()

    return jax.grad(total, argnums=(0, 1))(weak, strong)


@pytest.mark.parametrize(
    ("form", "gamma", "value", "strong"),
    [
        ("difference", 2.0, 0.063990, [-0.132969, 0.097208, 0.035761]),
        ("difference", 1.0, 0.215278, None),
        ("deficit", 1.0, 0.328409, [-0.314278, 0.229755, 0.084522]),
        ("deficit", 2.0, 0.148917, [-0.223900, 0.163684, 0.060216]),
    ],
)
def test_values_and_gradients_of_the_released_code(form, gamma, value, strong):
    options = {"form": form, "gamma": gamma}
    got = consistency.focal(pixel(WEAK), pixel(STRONG), **options)
    np.testing.assert_allclose(got, [[[value]]], atol=2e-6)
    by_weak, by_strong = gradients(pixel(WEAK), pixel(STRONG), **options)
    np.testing.assert_allclose(by_weak.ravel(), [-0.299058, 0.187917, 0.111141], atol=2e-6)
    if strong is not None:
        np.testing.assert_allclose(by_strong.ravel(), strong, atol=2e-6)


def torch_focal(torch, weak, strong, *, form, gamma, weights):
    """Computes the formula independently."""
    p, q = torch.softmax(weak, -1), torch.softmax(strong, -1)
    still = p.detach()
    k = still.argmax(-1, keepdim=True)
    d = (still - q).gather(-1, k).abs() if form == "difference" else (1 - q).gather(-1, k)
    terms = still * (torch.log(still + 1e-30) - d**gamma * torch.log(q + 1e-30))
    terms = terms - p * torch.log(p + 1e-30)
    return (weights * terms).sum(-1).clamp(min=1e-8)


@pytest.mark.parametrize("form", ["difference", "deficit"])
@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_against_pytorch_on_random_logits(form, gamma):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    weak, strong = (rng.normal(0, 4, (2, 3, 5, 6)) for _ in range(2))
    weights = rng.uniform(1, 10, 6)
    options = {"form": form, "gamma": gamma}
    theirs = [torch.tensor(x, requires_grad=True) for x in (weak, strong)]
    expected = torch_focal(torch, *theirs, **options, weights=torch.tensor(weights))
    expected.sum().backward()
    got = consistency.focal(
        jnp.float32(weak), jnp.float32(strong), **options, class_weights=weights
    )
    np.testing.assert_allclose(got, expected.detach(), rtol=2e-4, atol=2e-5)
    ours = gradients(jnp.float32(weak), jnp.float32(strong), **options, class_weights=weights)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other.grad, rtol=2e-3, atol=2e-5)


def test_exponent_zero_is_the_cross_entropy_with_entropy_minimisation():
    got = consistency.focal(pixel(WEAK), pixel(STRONG), form="difference", gamma=0.0)
    p, q = jax.nn.softmax(pixel(WEAK)), jax.nn.softmax(pixel(STRONG))
    np.testing.assert_allclose(got, -(p * jnp.log(q)).sum(-1), rtol=1e-6)
    by_weak, by_strong = gradients(pixel(WEAK), pixel(STRONG), form="difference", gamma=0.0)
    np.testing.assert_allclose(by_strong, q - p, atol=1e-6)
    assert np.isfinite(by_weak).all()


@pytest.mark.parametrize("form", ["difference", "deficit"])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_extreme_logits_stay_finite_and_equal_views_have_no_gradient(form, gamma):
    sure = pixel([200.0, -200.0, 0.0])
    for weak, strong in ((sure, sure), (sure, -sure), (pixel(WEAK), pixel(WEAK))):
        value = consistency.focal(weak, strong, form=form, gamma=gamma)
        both = gradients(weak, strong, form=form, gamma=gamma)
        assert np.isfinite(value).all()
        assert all(np.isfinite(g).all() for g in both)
    still = consistency.focal(sure, sure, form=form, gamma=gamma)
    np.testing.assert_array_equal(still, jnp.float32(1e-8))
    for gradient in gradients(sure, sure, form=form, gamma=gamma):
        np.testing.assert_array_equal(gradient, 0)


def test_unknown_forms_and_infinite_gradients_are_refused():
    with pytest.raises(ValueError, match=r"'ratio'; known: deficit, difference"):
        consistency.focal(pixel(WEAK), pixel(STRONG), form="ratio")
    with pytest.raises(ValueError, match=r"got 0\.5"):
        consistency.focal(pixel(WEAK), pixel(STRONG), form="difference", gamma=0.5)


def test_sure_pixels_by_one_threshold_or_by_that_of_their_class():
    def logits(p):
        return np.log(np.float32([p, 1 - p]))

    weak = jnp.array([[[logits(0.79), logits(0.81), logits(0.15), logits(0.05)]]])
    confidence, labels = consistency.predict(weak)
    np.testing.assert_allclose(confidence, [[[0.79, 0.81, 0.85, 0.95]]], atol=1e-6)
    np.testing.assert_array_equal(labels, [[[0, 0, 1, 1]]])
    np.testing.assert_array_equal(consistency.sure(weak, 0.8), [[[False, True, True, True]]])
    by_class = consistency.sure(weak, jnp.array([0.7, 0.9]))
    np.testing.assert_array_equal(by_class, [[[True, True, False, True]]])
    # A confidence that equals the threshold is not above it.
    assert not consistency.sure(jnp.zeros((1, 1, 1, 2)), 0.5).any()


HEADS = ("logits", "aux16", "aux32")


def test_one_theta_adapts_to_each_head_in_turn_and_a_loss_is_the_mean_over_its_sure_pixels():
    rng = np.random.default_rng(2)
    given = {
        view: {head: np.float32(rng.normal(0, 3, (2, 9, 11, 5))) for head in HEADS}
        for view in ("target", "strong")
    }
    weights = rng.uniform(1, 9, 5)
    options = ConsistencyOptions(threshold="adaptive", alpha=0.3, d=2.0, decay=0.2, temperature=1.5)
    moves = jnp.stack([geometry.matrix(0.4, 0.1, s, s > 1) for s in (0.8, 1.2)])
    added, memory, measured = consistency.compare(
        given,
        moves,
        {"theta": consistency.initial_thresholds(options, num_classes=5), "other": 1},
        heads=HEADS,
        options=options,
        step=3,
    )
    outputs = {**given, **added}
    by_weights, by_pixels = (
        terms.TermContext(
            pixel_loss=lambda logits, labels: (logits, labels),
            class_weights=lambda: jnp.float32(weights),
            loss=LossOptions(reduction=reduction),
            consistency=options,
        )
        for reduction in ("weights", "pixels")
    )
    theta, pixels = np.full(5, 0.8), 2 * 9 * 11
    for head, suffix in zip(HEADS, ("", "_aux16", "_aux32"), strict=True):
        p = softmax(np.asarray(geometry.warp(given["target"][head], moves)) / 1.5)
        q, k, sure = softmax(given["strong"][head]), p.argmax(-1), p.max(-1)
        theta = numpy_adapt(theta, sure, k, alpha=0.3, beta=0.8, d=2.0, decay=0.2, step=3)
        np.testing.assert_allclose(outputs["threshold"][head], theta, atol=1e-5)
        kept = sure > theta[k]
        assert 0.05 * pixels < kept.sum() < 0.5 * pixels
        distance = np.abs(p - q)[np.arange(2)[:, None, None], *np.ogrid[:9, :11], k]
        losses = -(distance**2) * (weights * p * np.log(q)).sum(-1)
        for context, divisor in ((by_weights, weights[k[kept]].sum()), (by_pixels, kept.sum())):
            total, count = terms.TERMS[f"consistency{suffix}"](context).evaluate(outputs, {})
            np.testing.assert_allclose(count, divisor, rtol=1e-6)
            np.testing.assert_allclose(total, losses[kept].sum(), rtol=1e-4)
        if head == "logits":
            assert measured["sure"] == (kept.sum(), pixels)
    np.testing.assert_allclose(memory["theta"], theta, atol=1e-5)
    np.testing.assert_allclose(measured["theta"], (theta.sum(), 5), rtol=1e-5)
    assert memory["other"] == 1


def numpy_adapt(theta, confidence, labels, *, alpha, beta, d, decay=0.0, step=0):
    """States IAST's selector as in TUFL, one class after the other."""
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
        jnp.array([0.8, 0.8]), confidence, jnp.zeros_like(confidence, int), options=ADAPTIVE
    )
    np.testing.assert_allclose(got, [expected, 0.8], atol=1e-6)


def test_where_all_pixels_shall_pass_the_last_place_is_that_of_the_least_sure():
    """With beta = 1 and d = 0, place n of the n values 0..n-1 is asked for."""
    theta = jnp.array([0.8, 0.7, 0.6])
    confidence = jnp.array([[[0.9, 0.5, 0.95, 0.65]]])
    labels = jnp.array([[[0, 0, 1, 1]]])
    options = ConsistencyOptions(threshold="adaptive", alpha=0.0, beta=1.0, d=0.0)
    moved = consistency.adapt(theta, confidence, labels, options=options)
    np.testing.assert_allclose(moved, [0.5, 0.65, 0.6], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_against_numpy_over_several_steps(decay):
    rng = np.random.default_rng(0)
    options = ConsistencyOptions(threshold="adaptive", decay=decay, d=3.0)
    step = jax.jit(functools.partial(adapt, options=options))
    theta, expected = consistency.initial_thresholds(options, num_classes=7), np.full(7, 0.8)
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
    options = ConsistencyOptions(threshold="adaptive", alpha=0.0, beta=0.1)
    certain = jnp.full((1, 4, 4), certainty)
    labels = np.zeros((1, 4, 4), int)
    got = adapt(jnp.array([0.8, 0.8]), certain, labels, options=options)
    np.testing.assert_allclose(got, [expected, 0.8], rtol=1e-6)
    same = numpy_adapt([0.8, 0.8], np.asarray(certain), labels, alpha=0.0, beta=0.1, d=8.0)
    np.testing.assert_allclose(got, same, rtol=1e-6)


def test_several_devices_share_one_theta():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (4, 5, 6))
    confidence = np.float32(rng.uniform(0.4, 1.0, labels.shape))
    theta = jnp.array([0.7, 0.8, 0.9])
    options = ConsistencyOptions(threshold="adaptive", d=1.0)
    expected = adapt(theta, confidence, labels, options=options)
    mapped = jax.pmap(
        functools.partial(adapt, options=options, axis_name="batch"),
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
        ("initial", 1.0, r"consistency\.initial must be a probability in \(0, 1\), got 1"),
        ("initial", 0.0, r"consistency\.initial must be a probability in \(0, 1\), got 0"),
        ("gamma", 0.5, r"consistency\.gamma must be 0 or at least 1, got 0\.5"),
        ("gamma", -1.0, r"consistency\.gamma must be 0 or at least 1, got -1"),
        ("temperature", 0.0, r"consistency\.temperature must be above 0, got 0"),
        ("alpha", -0.1, r"consistency\.alpha must be in \[0, 1\], got -0\.1"),
        ("alpha", 1.1, r"consistency\.alpha must be in \[0, 1\], got 1\.1"),
        ("beta", 0.0, r"consistency\.beta must be in \(0, 1\], got 0"),
        ("beta", 1.1, r"consistency\.beta must be in \(0, 1\], got 1\.1"),
        ("d", -1.0, r"consistency\.d must be at least 0, got -1"),
        ("decay", -1.0, r"consistency\.decay must be at least 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyOptions(**{field: value})


def test_limits_are_allowed():
    ConsistencyOptions(gamma=0.0, alpha=0.0, beta=1.0, d=0.0, decay=0.0)
    ConsistencyOptions(gamma=1.0, alpha=1.0)


def test_fixed_thresholds_are_the_same_for_every_head_and_are_not_kept():
    rng = np.random.default_rng(3)
    target = {head: np.float32(rng.normal(0, 3, (2, 9, 11, 5))) for head in HEADS}
    moves = jnp.stack([geometry.matrix(-0.3, 0.0, s, s < 1) for s in (0.9, 1.1)])
    added, memory, measured = consistency.compare(
        {"target": target},
        moves,
        {"other": 1},
        heads=HEADS[::-1],
        options=ConsistencyOptions(initial=0.45, temperature=0.5),
        step=7,
    )
    assert memory == {"other": 1}
    assert {head: float(limit) for head, limit in added["threshold"].items()} == dict.fromkeys(
        HEADS, np.float32(0.45)
    )
    for head in HEADS:
        expected = 2 * geometry.warp(target[head], moves)
        np.testing.assert_allclose(added["weak"][head], expected, rtol=1e-5)
    # The share of sure pixels is that of the first head.
    confidence = softmax(np.asarray(added["weak"]["aux32"])).max(-1)
    assert measured.keys() == {"sure"}
    assert measured["sure"] == ((confidence > 0.45).sum(), confidence.size)
