"""Resizing against NumPy transcriptions of PyTorch's index formulas, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw, value_and_pull

from rtda_jax.ops.resize import upsample

SIZES = [
    ((4, 5), (32, 40)),
    ((3, 5), (9, 15)),
    ((5, 3), (10, 48)),
    ((2, 3), (64, 96)),
    ((1, 1), (5, 8)),
    ((7, 9), (7, 9)),
    ((5, 7), (9, 13)),
    ((65, 33), (40, 129)),
    ((9, 13), (5, 1)),
    ((6, 8), (3, 2)),
]


def matrix(length: int, size: int, align: str) -> np.ndarray:
    """One axis of the bilinear resize as a matrix, entry by entry."""
    out = np.zeros((size, length))
    for i in range(size):
        if align == "corners":
            position = i * (length - 1) / (size - 1) if size > 1 else 0.0
        else:
            position = max((i + 0.5) * length / size - 0.5, 0.0)
        low = min(int(position), length - 1)
        high = min(low + 1, length - 1)
        out[i, low] += 1 - (position - low)
        out[i, high] += position - low
    return out


@pytest.mark.parametrize("align", ["half_pixel", "corners"])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_bilinear_and_its_gradient_are_the_matrix_and_its_transpose(small, large, align):
    x, dy = draw(2, *small, 3), draw(2, *large, 3, seed=1)
    y, dx = value_and_pull(lambda v: upsample(v, size=large, align=align), x, dy)
    rows, cols = (matrix(n, m, align) for n, m in zip(small, large, strict=True))
    np.testing.assert_allclose(y, np.einsum("yh,xw,bhwc->byxc", rows, cols, x), atol=2e-6)
    expected = np.einsum("yh,xw,byxc->bhwc", rows, cols, dy)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("align", ["half_pixel", "corners"])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_bilinear_is_pytorchs(small, large, align):
    torch = pytest.importorskip("torch")
    x = draw(2, *small, 3)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        size=large,
        mode="bilinear",
        align_corners=align == "corners",
    ).permute(0, 2, 3, 1)
    got = jax.jit(lambda v: upsample(v, size=large, align=align))(x)
    # PyTorch computes its source positions in float32.
    np.testing.assert_allclose(got, expected.numpy(), atol=2e-5)


def test_bilinear_keeps_bfloat16():
    x = jnp.asarray(draw(1, 4, 4, 2), jnp.bfloat16)
    y, pull = jax.vjp(lambda v: upsample(v, size=(32, 32)), x)
    assert y.dtype == jnp.bfloat16 and pull(y)[0].dtype == jnp.bfloat16
    exact = upsample(x.astype(jnp.float32), size=(32, 32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.03)


def test_bilinear_has_no_matrix_product():
    x = jnp.zeros((1, 8, 8, 19))
    for size in ((64, 64), (33, 65)):
        text = jax.jit(lambda v, size=size: upsample(v, size=size)).lower(x).as_text()
        assert "dot_general" not in text and "convolution" not in text


def test_errors_name_what_is_wrong():
    x = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(ValueError, match="expected"):
        upsample(x, size=(0, 8))
    with pytest.raises(ValueError, match="expected"):
        upsample(x[0], size=(8, 8))
