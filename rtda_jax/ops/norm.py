"""Batch normalisation with PyTorch's running statistics."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

AXES = (0, 1, 2)
EPSILON = 1e-5
MOMENTUM = 0.9  # the weight of the old running statistics; PyTorch's 0.1 is that of the new ones


def _mean(value: jax.Array, axis_name: str | None) -> jax.Array:
    return value if axis_name is None else lax.pmean(value, axis_name)


def _row(value: jax.Array) -> jax.Array:
    return value[None, None, None, :]


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    # Two passes: E[x^2] - E[x]^2 loses all digits if the mean is much larger than the deviation.
    x = x.astype(jnp.float32)
    mean = _mean(x.mean(AXES), axis_name)
    return mean, _mean(jnp.square(x - _row(mean)).mean(AXES), axis_name)


def _affine(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    return ((x.astype(jnp.float32) - _row(mean)) * _row(inverse * scale) + _row(bias)).astype(
        x.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalise_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    mean, var = _statistics(x, axis_name)
    inverse = lax.rsqrt(var + epsilon)
    return (_affine(x, mean, inverse, scale, bias), mean, var), (x, scale, mean, inverse)


def _normalise_backward(
    epsilon: float,
    axis_name: str | None,
    residuals: tuple[jax.Array, ...],
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = residuals
    dy = cotangents[0].astype(jnp.float32)  # the statistics only feed the running averages
    count = x.size // x.shape[-1]
    dbias = dy.sum(AXES)
    # x - mean is computed again, and only once dy is there: XLA would otherwise keep it beside x.
    below = _row(mean + 0.0 * dbias) - x.astype(jnp.float32)
    dscale = -(dy * below).sum(AXES) * inverse
    # With shared statistics each device's loss also reaches the other devices' inputs.
    mean_dy = _mean(dbias / count, axis_name)
    mean_dy_hat = _mean(dscale / count, axis_name)
    factor = scale * inverse
    dx = dy * _row(factor) + below * _row(factor * inverse * mean_dy_hat) - _row(factor * mean_dy)
    return dx.astype(x.dtype), dscale, dbias


_normalise.defvjp(_normalise_forward, _normalise_backward)
# A network has many layers of equal shapes and is traced several times; each shape is traced once.
_normalise_once = jax.jit(_normalise, static_argnums=(3, 4), inline=True)


class BatchNorm(nn.Module):
    """Batch normalisation over [B,H,W] per channel, in float32, for reverse-mode gradients.

    `momentum` is the weight of the old running average (0.9 is PyTorch's 0.1); the running variance
    is the unbiased one, as in PyTorch. With `axis_name` the statistics are those of the global
    batch. `frozen` normalises by the running averages and does not change them, even in training.
    The output has `dtype`, by default that of x. Raises ValueError when training on one value per
    channel, whose variance is undefined.
    """

    momentum: float = MOMENTUM
    epsilon: float = EPSILON
    axis_name: str | None = None
    frozen: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises x [B,H,W,C]."""
        if x.ndim != 4:
            raise ValueError(f"BatchNorm expects [B,H,W,C], got shape {x.shape}")
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        if self.frozen or not train:
            return _affine(x, mean.value, lax.rsqrt(var.value + self.epsilon), scale, bias)
        if self.is_initializing():
            return _normalise_once(x, scale, bias, self.epsilon, None)[0]
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        count = devices * x.size // channels
        if count == 1:
            raise ValueError(
                f"{'/'.join(self.path) or 'BatchNorm'}: one value per channel (input {x.shape}) "
                "has no variance to train on; use a larger batch or crop, set axis_name to share "
                "statistics between devices, or frozen=True"
            )
        y, batch_mean, batch_var = _normalise_once(x, scale, bias, self.epsilon, self.axis_name)
        keep = self.momentum
        mean.value = keep * mean.value + (1 - keep) * batch_mean
        var.value = keep * var.value + (1 - keep) * batch_var * (count / (count - 1))
        return y


class FoldedNorm(nn.Module):
    """The rest of a BatchNorm after folding: an added bias."""

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Adds the bias to x [B,H,W,C]; raises ValueError in training."""
        if train:
            raise ValueError("batch_norm 'folded' is for inference, training needs batch or frozen")
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return (x.astype(jnp.float32) + _row(bias)).astype(self.dtype or x.dtype)


# Flax names a layer without a name by its class, and folded weights must keep their names.
FoldedNorm.__name__ = BatchNorm.__name__
