"""Bilinear and nearest resizing with PyTorch's conventions, without matrix products."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

ALIGNMENTS = ("half_pixel", "corners")


def _sources(length: int, size: int, align: str) -> tuple[np.ndarray, np.ndarray]:
    """For each of size outputs: the lower of its two source indices and the upper one's weight."""
    position = np.arange(size, dtype=np.float64)
    if align == "corners":
        position = position * ((length - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = np.maximum((position + 0.5) * (length / size) - 0.5, 0.0)
    lower = np.minimum(np.floor(position).astype(np.int64), length - 1)
    return lower, np.where(lower == length - 1, 0.0, position - lower)


def _column(weight: np.ndarray, axis: int, dtype: jnp.dtype) -> jax.Array:
    shape = [1, 1, 1, 1]
    shape[axis] = len(weight)
    return jnp.asarray(weight.reshape(shape), dtype)


def _slice(x: jax.Array, axis: int, start: int, stop: int) -> jax.Array:
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _factor(length: int, size: int, align: str) -> int:
    """The integer factor of a half-pixel enlargement, or 0."""
    return size // length if align == "half_pixel" and size % length == 0 else 0


def _phases(factor: int, axis: int, dtype: jnp.dtype) -> tuple[jax.Array, int]:
    """The weights inside an interval of the edge-padded input, and where output 0 falls in it."""
    half = 0.5 if factor % 2 == 0 else 0.0
    shape = [1, 1, 1, 1, 1]
    shape[axis + 1] = factor
    return jnp.asarray((np.arange(factor) + half) / factor, dtype).reshape(shape), (factor + 1) // 2


def _enlarge(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Between two neighbours lie factor outputs: one broadcast lerp, one crop."""
    length = x.shape[axis]
    weight, offset = _phases(factor, axis, x.dtype)
    first, last = _slice(x, axis, 0, 1), _slice(x, axis, length - 1, length)
    left = jnp.expand_dims(jnp.concatenate([first, x], axis), axis + 1)
    right = jnp.expand_dims(jnp.concatenate([x, last], axis), axis + 1)
    shape = list(x.shape)
    shape[axis] = (length + 1) * factor
    out = (left + (right - left) * weight).reshape(shape)
    return _slice(out, axis, offset, offset + length * factor)


def _enlarge_transpose(dy: jax.Array, axis: int, factor: int) -> jax.Array:
    length = dy.shape[axis] // factor
    weight, offset = _phases(factor, axis, jnp.float32)
    pads = [(0, 0)] * 4
    pads[axis] = (offset, factor - offset)
    shape = list(dy.shape)
    shape[axis : axis + 1] = [length + 1, factor]
    grouped = jnp.pad(dy, pads).reshape(shape).astype(jnp.float32)
    right = (grouped * weight).sum(axis + 1)
    left = grouped.sum(axis + 1) - right
    # Interval n lies between inputs n - 1 and n; the outermost ones have an edge on both sides.
    low, high = [(0, 0)] * 4, [(0, 0)] * 4
    low[axis], high[axis] = (0, length - 1), (length - 1, 0)
    inner = _slice(left, axis, 1, length + 1) + _slice(right, axis, 0, length)
    first = jnp.pad(_slice(left, axis, 0, 1), low)
    last = jnp.pad(_slice(right, axis, length, length + 1), high)
    return (inner + first + last).astype(dy.dtype)


def _gather(x: jax.Array, axis: int, size: int, align: str) -> jax.Array:
    lower, weight = _sources(x.shape[axis], size, align)
    upper = np.minimum(lower + 1, x.shape[axis] - 1)
    low, high = jnp.take(x, lower, axis=axis), jnp.take(x, upper, axis=axis)
    return low + (high - low) * _column(weight, axis, x.dtype)


def _gather_transpose(dy: jax.Array, axis: int, length: int, align: str) -> jax.Array:
    """Every input gathers the outputs it fed: no scatter."""
    size = dy.shape[axis]
    lower, weight = _sources(length, size, align)
    fed: list[dict[int, float]] = [{} for _ in range(length)]
    for out, (source, w) in enumerate(zip(lower.tolist(), weight.tolist(), strict=True)):
        for index, value in ((source, 1.0 - w), (source + 1, w)):
            if value:
                fed[index][out] = fed[index].get(out, 0.0) + value
    total = jnp.zeros((), dy.dtype)
    for rank in range(max(map(len, fed))):
        pairs = [list(f.items())[rank] if rank < len(f) else (0, 0.0) for f in fed]
        index = np.array([p[0] for p in pairs])
        share = np.array([p[1] for p in pairs])
        total = total + jnp.take(dy, index, axis=axis) * _column(share, axis, dy.dtype)
    return total


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x: jax.Array, axis: int, size: int, align: str) -> jax.Array:
    if x.shape[axis] == size:
        return x
    if factor := _factor(x.shape[axis], size, align):
        return _enlarge(x, axis, factor)
    return _gather(x, axis, size, align)


def _resize_forward(x, axis, size, align):
    return _resize(x, axis, size, align), x.shape[axis]


def _resize_backward(axis, size, align, length, dy):
    if length == size:
        return (dy,)
    if factor := _factor(length, size, align):
        return (_enlarge_transpose(dy, axis, factor),)
    return (_gather_transpose(dy, axis, length, align),)


_resize.defvjp(_resize_forward, _resize_backward)


def _check(x: jax.Array, size: tuple[int, int]) -> None:
    if x.ndim != 4 or min(x.shape[1:3]) < 1 or len(size) != 2 or min(size) < 1:
        raise ValueError(f"cannot resize shape {x.shape} to {size}; expected [B,H,W,C] and (H, W)")


def upsample(x: jax.Array, *, size: tuple[int, int], align: str = "half_pixel") -> jax.Array:
    """Bilinear resize of x [B,H,W,C] to size (H, W), up or down, without antialiasing.

    `align` is "half_pixel" (PyTorch's align_corners=False) or "corners" (True). Computed in the
    dtype of x, one axis after the other; reverse-mode gradients only.
    """
    _check(x, size)
    if align not in ALIGNMENTS:
        raise ValueError(f"unknown align {align!r}; known: {', '.join(ALIGNMENTS)}")
    return _resize(_resize(x, 1, size[0], align), 2, size[1], align)


def upsample_nearest(x: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Nearest resize of x [B,H,W,C] to size (H, W): source index floor(i * in / out)."""
    _check(x, size)
    for axis, out in zip((1, 2), size, strict=True):
        length = x.shape[axis]
        if out % length == 0:
            x = jnp.repeat(x, out // length, axis=axis)
        else:
            x = jnp.take(x, np.arange(out) * length // out, axis=axis)
    return x
