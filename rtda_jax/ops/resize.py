"""Bilinear resizing with PyTorch's conventions, without matrix products."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def _sources(length: int, size: int, align: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower of the two source indices of each output, and the upper one's weight."""
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


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x: jax.Array, axis: int, size: int, align: str) -> jax.Array:
    if x.shape[axis] == size:
        return x
    lower, weight = _sources(x.shape[axis], size, align)
    upper = np.minimum(lower + 1, x.shape[axis] - 1)
    low, high = jnp.take(x, lower, axis=axis), jnp.take(x, upper, axis=axis)
    return low + (high - low) * _column(weight, axis, x.dtype)


def _forward(x: jax.Array, axis: int, size: int, align: str) -> tuple[jax.Array, int]:
    return _resize(x, axis, size, align), x.shape[axis]


def _backward(axis: int, size: int, align: str, length: int, dy: jax.Array) -> tuple[jax.Array]:
    if length == size:
        return (dy,)
    # Every input gathers from the outputs that read it; a scatter is ten times slower on a CPU.
    lower, weight = _sources(length, size, align)
    fed: list[dict[int, float]] = [{} for _ in range(length)]
    for out, (source, w) in enumerate(zip(lower.tolist(), weight.tolist(), strict=True)):
        for index, share in ((source, 1.0 - w), (source + 1, w)):
            if share:
                fed[index][out] = share
    total = jnp.zeros((), dy.dtype)
    for rank in range(max(map(len, fed))):
        outs, shares = zip(
            *(tuple(f.items())[rank] if rank < len(f) else (0, 0.0) for f in fed), strict=True
        )
        picked = jnp.take(dy, np.array(outs), axis=axis)
        total = total + picked * _column(np.array(shares), axis, dy.dtype)
    return (total,)


_resize.defvjp(_forward, _backward)


def _check(x: jax.Array, size: tuple[int, int]) -> None:
    if x.ndim != 4 or min(x.shape[1:3]) < 1 or len(size) != 2 or min(size) < 1:
        raise ValueError(f"cannot resize shape {x.shape} to {size}; expected [B,H,W,C] and (H, W)")


def upsample(x: jax.Array, *, size: tuple[int, int], align: str = "half_pixel") -> jax.Array:
    """Resizes x [B,H,W,C] bilinearly to size (H, W), up or down, without antialiasing.

    `align` is "half_pixel" (PyTorch's align_corners=False) or "corners" (True); callers that read
    it from a configuration have to check it. The result is computed in the dtype of x, one axis
    after the other, and has only reverse-mode gradients.
    """
    _check(x, size)
    return ALIGNMENTS[align](x, (size[0], size[1]))


# Jitted under their own names, by which rtda_jax.deploy.onnx recognises a resize in a traced
# network. Inside another jitted function this changes nothing.
@partial(jax.jit, static_argnums=1)
def resize_half_pixel(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes with PyTorch's align_corners=False."""
    return _resize(_resize(x, 1, size[0], "half_pixel"), 2, size[1], "half_pixel")


@partial(jax.jit, static_argnums=1)
def resize_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes with PyTorch's align_corners=True."""
    return _resize(_resize(x, 1, size[0], "corners"), 2, size[1], "corners")


ALIGNMENTS = {"half_pixel": resize_half_pixel, "corners": resize_corners}
