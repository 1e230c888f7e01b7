"""Pooling against a NumPy loop over windows, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw

from rtda_jax.ops.pool import max_pool

CASES = [
    # height, width, window, stride, padding, ceil_mode
    (16, 12, 3, 2, 1, False),
    (15, 13, 3, 2, 1, False),
    (15, 14, 3, 2, 1, True),
    (16, 13, 3, 2, 1, True),
    (9, 10, 2, 2, 0, False),
    (9, 7, 2, 2, 0, True),
    (8, 9, 3, 1, 1, False),
    (11, 8, 3, 3, 0, True),
    (7, 7, 5, 2, 2, False),
    (8, 10, 2, 3, 0, False),
    (10, 11, 2, 3, 1, True),
    (5, 1, (3, 1), (2, 1), (1, 0), False),
]


def pair(value):
    return (value, value) if isinstance(value, int) else value


def max_by_loop(x, dy, size, window, stride, padding):
    """Value and gradient, one window after the other, the first maximum taking everything."""
    (kh, kw), (sh, sw), (ph, pw) = pair(window), pair(stride), pair(padding)
    y, dx = np.zeros((x.shape[0], *size, x.shape[3]), x.dtype), np.zeros_like(x)
    for b, i, j, c in np.ndindex(y.shape):
        top, left = i * sh - ph, j * sw - pw
        cells = [
            (h, w)
            for h in range(max(top, 0), min(top + kh, x.shape[1]))
            for w in range(max(left, 0), min(left + kw, x.shape[2]))
        ]
        values = [x[b, h, w, c] for h, w in cells]
        winner = int(np.argmax(values))
        y[b, i, j, c] = values[winner]
        dx[(b, *cells[winner], c)] += dy[b, i, j, c]
    return y, dx


def value_and_pull(case, x):
    """Value at x, a cotangent, and the cotangent pulled back, in one compilation."""
    _, _, window, stride, padding, ceil_mode = case

    def run(v, make):
        y, pull = jax.vjp(
            lambda u: max_pool(
                u, window=window, stride=stride, padding=padding, ceil_mode=ceil_mode
            ),
            v,
        )
        dy = make(y.shape)
        return y, dy, pull(dy)[0]

    return jax.jit(run, static_argnums=1)(x, lambda shape: draw(*shape, seed=1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("levels", [None, 3])
def test_max_pool_value_and_gradient(case, levels):
    height, width, window, stride, padding, _ = case
    x = draw(2, height, width, 3)
    if levels is not None:  # few distinct values: ties in nearly every window
        x = np.clip(np.round(x), -1, 1)
    y, dy, dx = value_and_pull(case, x)
    expected, gradient = max_by_loop(x, np.asarray(dy), y.shape[1:3], window, stride, padding)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(dx, gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_max_pool_is_pytorchs(case):
    torch = pytest.importorskip("torch")
    height, width, window, stride, padding, ceil_mode = case
    x = np.round(draw(2, height, width, 3) * 2)
    t = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    expected = torch.nn.functional.max_pool2d(t, window, stride, padding, ceil_mode=ceil_mode)
    y, dy, dx = value_and_pull(case, x)
    expected.backward(torch.from_numpy(np.array(dy)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dx, t.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_max_pool_padding_is_minus_infinity_and_nan_wins():
    y = max_pool(jnp.full((1, 2, 2, 1), -5.0), window=3, stride=2, padding=1)
    assert y.item() == -5.0
    x = jnp.array([1.0, jnp.nan, 3.0, 2.0]).reshape(1, 2, 2, 1)
    assert np.isnan(max_pool(x, window=2, stride=2)).all()


def test_max_pool_keeps_bfloat16():
    x = jnp.asarray(draw(1, 8, 8, 4), jnp.bfloat16)
    y, pull = jax.vjp(lambda v: max_pool(v, window=3, stride=2, padding=1), x)
    assert y.dtype == jnp.bfloat16 and pull(y)[0].dtype == jnp.bfloat16


def test_impossible_windows_are_named():
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match="window 5"):
        max_pool(x, window=5, stride=1)
    with pytest.raises(ValueError, match="half"):
        max_pool(x, window=2, stride=1, padding=2)
