"""Pooling with PyTorch's conventions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rtda_jax.ops.conv import Padding, Pair, pair


def _output_length(length: int, window: int, stride: int, padding: int, ceil_mode: bool) -> int:
    if padding * 2 > window:
        raise ValueError(f"padding {padding} is more than half of the window {window}")
    span = length + 2 * padding - window
    if span < 0:
        raise ValueError(f"window {window} is larger than the padded length {length + 2 * padding}")
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    # PyTorch drops a last window that would start in the right padding.
    return out - 1 if (out - 1) * stride >= length + padding else out


def _geometry(
    shape: tuple[int, ...], window: Pair, stride: Pair, padding: Pair, ceil_mode: bool
) -> tuple[Pair, Padding]:
    """Returns the output size and the explicit (low, high) padding that yields it."""
    sizes, pads = [], []
    for n, k, s, p in zip(shape[1:3], window, stride, padding, strict=True):
        out = _output_length(n, k, s, p, ceil_mode)
        sizes.append(out)
        pads.append((p, max((out - 1) * s + k - n - p, 0)))
    return (sizes[0], sizes[1]), (pads[0], pads[1])


def _lowest(dtype: jnp.dtype) -> np.ndarray:
    floating = jnp.issubdtype(dtype, jnp.floating)
    return np.array(-np.inf if floating else jnp.iinfo(dtype).min, dtype)


def _taps(x: jax.Array, size: Pair, window: Pair, stride: Pair) -> list[jax.Array]:
    """Returns strided slices of padded x, one per window position, in row-major order."""
    batch, _, _, channels = x.shape
    (oh, ow), (sh, sw) = size, stride
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + (oh - 1) * sh + 1, j + (ow - 1) * sw + 1, channels),
            (1, sh, sw, 1),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: jax.Array, window: Pair, stride: Pair, size: Pair, pads: Padding) -> jax.Array:
    """Returns only the maxima; their positions are needed only for a gradient."""

    def plain(x: jax.Array) -> jax.Array:
        shape, strides = (1, *window, 1), (1, *stride, 1)
        margins = ((0, 0), *pads, (0, 0))
        return lax.reduce_window(x, _lowest(x.dtype), lax.max, shape, strides, margins)

    def tuned(x: jax.Array) -> jax.Array:
        return _max_pool_forward(x, window, stride, size, pads)[0]

    return lax.platform_dependent(x, cpu=tuned, default=plain)


def _max_pool_forward(
    x: jax.Array, window: Pair, stride: Pair, size: Pair, pads: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    padded = lax.pad(x, _lowest(x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    taps = _taps(padded, size, window, stride)
    best, where = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
    for index, tap in enumerate(taps[1:], start=1):
        # Strictly greater keeps the first maximum; a NaN wins over everything, as in PyTorch.
        better = (tap > best) | (tap != tap)
        best = jnp.where(better, tap, best)
        where = jnp.where(better, jnp.int8(index), where)
    return best, (where, jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _max_pool_backward(
    window: Pair,
    stride: Pair,
    size: Pair,
    pads: Padding,
    residuals: tuple[jax.Array, jax.Array],
    dy: jax.Array,
) -> tuple[jax.Array]:
    where, like = residuals
    _, height, width = like.shape
    batch, _, _, channels = dy.shape
    rows, cols = (
        [[t for t in range(k) if t % s == phase] for phase in range(s)]
        for k, s in zip(window, stride, strict=True)
    )
    # Each phase of the input belongs to a few windows only: gather from them instead of scattering.
    reach = tuple((k - 1) // s for k, s in zip(window, stride, strict=True))
    length = tuple(n + r for n, r in zip(size, reach, strict=True))
    spread = ((0, 0, 0), (reach[0], reach[0], 0), (reach[1], reach[1], 0), (0, 0, 0))
    dy_p = lax.pad(dy, jnp.zeros((), dy.dtype), spread)
    where_p = lax.pad(where, jnp.int8(-1), spread)
    lines = []
    for row_taps in rows:
        phases = []
        for col_taps in cols:
            total = jnp.zeros((batch, *length, channels), dy.dtype)
            for i in row_taps:
                for j in col_taps:
                    a, b = reach[0] - i // stride[0], reach[1] - j // stride[1]
                    box = (slice(None), slice(a, a + length[0]), slice(b, b + length[1]))
                    hit = where_p[box] == jnp.int8(i * window[1] + j)
                    total = total + jnp.where(hit, dy_p[box], 0)
            phases.append(total)
        lines.append(jnp.stack(phases, axis=3))
    dx = jnp.stack(lines, axis=2)
    dx = dx.reshape(batch, length[0] * stride[0], length[1] * stride[1], channels)
    grow = tuple(
        max(p[0] + n - have * s, 0)
        for p, n, have, s in zip(pads, (height, width), length, stride, strict=True)
    )
    dx = jnp.pad(dx, ((0, 0), (0, grow[0]), (0, grow[1]), (0, 0)))
    top, left = pads[0][0], pads[1][0]
    return (dx[:, top : top + height, left : left + width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool(
    x: jax.Array,
    *,
    window: int | Pair,
    stride: int | Pair,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
) -> jax.Array:
    """Returns the maximum of each window of x [B,H,W,C]; the first maximum takes the gradient.

    Padding is minus infinity. Raises ValueError if a window is larger than the padded input.
    """
    window, stride, padding = pair(window), pair(stride), pair(padding)
    size, pads = _geometry(x.shape, window, stride, padding, ceil_mode)
    return _max_pool(x, window, stride, size, pads)
