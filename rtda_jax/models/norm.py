"""Batch normalisation with PyTorch's running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class BatchNorm(nn.Module):
    """Batch normalisation over [B,H,W] per channel."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    frozen: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train and not self.frozen:
            xf = x.astype(jnp.float32)
            n = x.size // channels
            m, m2 = xf.mean((0, 1, 2)), (xf * xf).mean((0, 1, 2))
            if self.axis_name is not None and not self.is_initializing():
                n = n * lax.psum(1, self.axis_name)
                m, m2 = lax.pmean((m, m2), self.axis_name)
            if n == 1 and not self.is_initializing():
                raise ValueError("BatchNorm needs more than one value per channel to train")
            v = jnp.maximum(m2 - m * m, 0)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * m
                var.value = self.momentum * var.value + (1 - self.momentum) * v * (n / max(n - 1, 1))
        else:
            m, v = mean.value, var.value
        mul = lax.rsqrt(v + self.epsilon) * scale
        return (x * mul + (bias - m * mul)).astype(self.dtype or x.dtype)
