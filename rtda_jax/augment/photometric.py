"""Colour and texture of images on the device: pure functions with a parameter per image.

Images are float [B,H,W,3] in [0,255], factors [B]; nothing is rounded between two functions.
Definitions are those of torchvision and Pillow where they have the operation.
"""

import jax
import jax.numpy as jnp

from rtda_jax.ops.resize import upsample

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def grey(images: jax.Array) -> jax.Array:
    """Grey value [B,H,W,1] of RGB images [B,H,W,3]."""
    return (images * jnp.array(GREY, jnp.float32).reshape(1, 1, 1, 3)).sum(-1, keepdims=True)


def blend(images: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * images + (1 - factor) * other, clipped to [0,255]; factor is [B]."""
    factor = factor.reshape(-1, 1, 1, 1)
    return jnp.clip(factor * images + (1 - factor) * other, 0.0, 255.0)


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Images [B,H,W,3] in [0,255] pulled away (factor > 1) from black; factor [B]."""
    return blend(images, jnp.zeros_like(images), factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Images [B,H,W,3] in [0,255] pulled away (factor > 1) from their mean grey; factor [B]."""
    return blend(images, grey(images).mean(axis=(1, 2, 3), keepdims=True), factor)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Images [B,H,W,3] in [0,255] pulled away (factor > 1) from their own grey; factor [B]."""
    return blend(images, grey(images), factor)


def sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Images [B,H,W,3] in [0,255] pulled away (factor > 1) from their smoothed selves; factor [B].

    Pillow's SMOOTH: the 3x3 mean in which the centre counts 5 times; the border stays as it is.
    """
    height, width = images.shape[1:3]
    inner = images[:, 1:-1, 1:-1]
    shifted = [images[:, y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3)]
    smooth = jnp.asarray(images).at[:, 1:-1, 1:-1].set((sum(shifted) + 4 * inner) / 13)
    return blend(images, smooth, factor)


def equalize(images: jax.Array) -> jax.Array:
    """Images [B,H,W,3] in [0,255] with each channel's histogram flattened, as Pillow does it.

    Values are rounded first; a channel of one value, or of fewer pixels than 255 beside its
    brightest value, stays as it is. float32 of whole numbers.
    """
    values = jnp.clip(jnp.round(images), 0, 255).astype(jnp.int32)

    def channel(plane: jax.Array) -> jax.Array:
        counts = jnp.bincount(plane.ravel(), length=256)
        step = (plane.size - counts[plane.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = (step // 2 + below) // jnp.maximum(step, 1)
        table = jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))
        return jnp.take(table, plane)

    return jax.vmap(jax.vmap(channel, -1, -1))(values).astype(jnp.float32)


def gaussian_noise(images: jax.Array, keys: jax.Array, sigma: jax.Array) -> jax.Array:
    """Images [B,H,W,3] with independent noise of standard deviation sigma [B]; keys [B]."""
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return jnp.clip(images + sigma.reshape(-1, 1, 1, 1) * noise, 0.0, 255.0)


def gaussian_blur(images: jax.Array, sigma: jax.Array, *, radius: int) -> jax.Array:
    """Images [B,H,W,C] smoothed by a Gaussian of sigma [B] pixels, cut off at `radius` pixels.

    As torchvision with kernel_size 2 radius + 1, borders reflected; sigma 0 changes nothing. The
    radius is static: take it three times the largest sigma.
    """
    reach = min(images.shape[1:3]) - 1
    if radius > reach:
        raise ValueError(f"blur of radius {radius} needs sides above it, got {images.shape[1:3]}")
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    spread = jnp.maximum(sigma.astype(jnp.float32), 1e-3)[:, None]
    weights = jnp.exp(-0.5 * (offsets[None, :] / spread) ** 2)
    weights = weights / weights.sum(axis=1, keepdims=True)

    def along(x: jax.Array, axis: int) -> jax.Array:
        pads = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, mode="reflect")
        taps = (
            weights[:, i].reshape(-1, 1, 1, 1)
            * jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i in range(2 * radius + 1)
        )
        return sum(taps, jnp.zeros_like(x))

    return along(along(images, 1), 2)


def shadow(images: jax.Array, pattern: jax.Array, intensity: jax.Array) -> jax.Array:
    """Images [B,H,W,3] darkened by a pattern [B,H,W,1] in [0,1] times intensity [B] in [0,1]."""
    return images * (1 - intensity.reshape(-1, 1, 1, 1) * pattern)


def shadow_pattern(keys: jax.Array, *, size: tuple[int, int], cells: int = 6) -> jax.Array:
    """Random soft-edged patches [B,H,W,1] in [0,1], one pattern for each key [B].

    Stands for S4's patches cut from a photograph of shadows whose origin is not stated: two octaves
    of smoothed noise, `cells` across the shorter side, through a steep sigmoid.
    """

    def octave(keys: jax.Array, cells: int) -> jax.Array:
        shape = tuple(max(2, round(cells * side / min(size))) for side in size)
        coarse = jax.vmap(lambda key: jax.random.normal(key, (*shape, 1)))(keys)
        return upsample(coarse, size=size, align="corners")

    first, second = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 2))(keys), 1, 0)
    return jax.nn.sigmoid(6 * (octave(first, cells) + 0.5 * octave(second, 2 * cells)))
