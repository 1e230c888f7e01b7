"""Rectifiers whose gradient is computed from their output.

The next layer keeps that output for its own gradient anyway, so that only one array of the two
stays in memory until the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rectify(x: jax.Array, slope: float) -> jax.Array:
    return jnp.maximum(x, 0) if slope == 0 else jnp.where(x > 0, x, slope * x)


def _rectify_forward(x, slope):
    y = _rectify(x, slope)
    return y, y


def _rectify_backward(slope, y, dy):
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


def _relu6_forward(x):
    y = relu6(x)
    return y, y


def _relu6_backward(y, dy):
    return (jnp.where((y > 0) & (y < 6), dy, jnp.zeros_like(dy)),)


relu6.defvjp(_relu6_forward, _relu6_backward)
