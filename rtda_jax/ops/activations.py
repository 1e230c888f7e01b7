"""Rectifiers, and the class of each pixel from the scores of the last layer.

The rectifiers compute their gradient from their output. The next layer keeps this output for its
own gradient anyway, so that only one of two arrays stays in memory until the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rectify(x: jax.Array, slope: float) -> jax.Array:
    return jnp.maximum(x, 0) if slope == 0 else jnp.where(x > 0, x, slope * x)


def _rectify_forward(x: jax.Array, slope: float) -> tuple[jax.Array, jax.Array]:
    y = _rectify(x, slope)
    return y, y


def _rectify_backward(slope: float, y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, dy, slope * dy if slope else jnp.zeros_like(dy)),)


_rectify.defvjp(_rectify_forward, _rectify_backward)


def relu(x: jax.Array) -> jax.Array:
    """Returns the larger of x and 0; the gradient at 0 is 0."""
    return _rectify(x, 0.0)


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """Returns x where it is positive and slope * x elsewhere, for 0 < slope < 1.

    The gradient at 0 is the slope.
    """
    return _rectify(x, slope)


@jax.custom_vjp
def relu6(x: jax.Array) -> jax.Array:
    """Returns x clipped to [0, 6]; the gradient at 0 and at 6 is 0, as in PyTorch."""
    return jnp.clip(x, 0, 6)


def _relu6_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu6(x)
    return y, y


def _relu6_backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (jnp.where((y > 0) & (y < 6), dy, jnp.zeros_like(dy)),)


relu6.defvjp(_relu6_forward, _relu6_backward)


def argmax(scores: jax.Array) -> jax.Array:
    """Returns the index uint8 [B,H,W] of the first largest of the finite scores [B,H,W,K].

    K is at most 256. On a CPU it makes one comparison per class; XLA's own argmax, a reduction of
    pairs, takes four times as long there.
    """
    classes = scores.shape[-1]
    if not 1 <= classes <= 256:
        raise ValueError(f"uint8 numbers 1 to 256 classes, got scores of shape {scores.shape}")
    return lax.platform_dependent(scores, cpu=_compared, default=_reduced)


def _reduced(scores: jax.Array) -> jax.Array:
    return lax.argmax(scores, scores.ndim - 1, jnp.int32).astype(jnp.uint8)


def _compared(scores: jax.Array) -> jax.Array:
    best, index = scores[..., 0], jnp.zeros(scores.shape[:-1], jnp.uint8)
    for k in range(1, scores.shape[-1]):
        better = scores[..., k] > best
        best = jnp.where(better, scores[..., k], best)
        index = jnp.where(better, jnp.uint8(k), index)
    return index
