"""Pooling with PyTorch's conventions."""

import flax.linen as nn
import jax


def max_pool(
    x: jax.Array, *, window: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> jax.Array:
    """Maximum over windows of x [B,H,W,C]."""
    pads = []
    for n in x.shape[1:3]:
        extra = (-(n + 2 * padding - window)) % stride if ceil_mode else 0
        pads.append((padding, padding + extra))
    return nn.max_pool(x, (window, window), (stride, stride), pads)
