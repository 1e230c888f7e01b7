"""Bilinear and nearest resizing with PyTorch's conventions."""

import jax
import jax.numpy as jnp


def upsample(x: jax.Array, *, size: tuple[int, int], align: str = "half_pixel") -> jax.Array:
    """Bilinear resize of x [B,H,W,C] to size."""
    if align == "half_pixel":
        return jax.image.resize(
            x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False
        )
    if align != "corners":
        raise ValueError(f"unknown align {align!r}; known: half_pixel, corners")
    scale = jnp.array([(o - 1) / max(i - 1, 1) for i, o in zip(x.shape[1:3], size, strict=True)])
    return jax.image.scale_and_translate(
        x, (x.shape[0], *size, x.shape[3]), (1, 2), scale, 0.5 - 0.5 * scale, "linear",
        antialias=False,
    )
