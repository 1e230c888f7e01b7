"""Changes of colour and texture on the device: pure functions with one parameter for each image.

Images are float [B,H,W,3] in [0,255] and factors are [B]. Nothing is rounded between two functions.
Operations of torchvision, Pillow or kornia are defined as there.
"""

import jax
import jax.numpy as jnp

from rtda_jax.ops.resize import upsample

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def grey(images: jax.Array) -> jax.Array:
    """Computes the grey value [B,H,W,1] of RGB images [B,H,W,3]."""
    return (images * jnp.array(GREY, jnp.float32).reshape(1, 1, 1, 3)).sum(-1, keepdims=True)


def blend(images: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns factor * images + (1 - factor) * other, clipped to [0,255]; factor is [B]."""
    factor = factor.reshape(-1, 1, 1, 1)
    return jnp.clip(factor * images + (1 - factor) * other, 0.0, 255.0)


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance to black by a factor, clipped to [0,255]."""
    return blend(images, jnp.zeros_like(images), factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance to the image's mean grey by a factor, clipped to [0,255]."""
    return blend(images, grey(images).mean(axis=(1, 2, 3), keepdims=True), factor)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance to the pixel's own grey by a factor, clipped to [0,255]."""
    return blend(images, grey(images), factor)


def offset(images: jax.Array, amount: jax.Array) -> jax.Array:
    """Adds an amount in grey levels, clipped to [0,255]: the brightness of kornia."""
    return jnp.clip(images + amount.reshape(-1, 1, 1, 1), 0.0, 255.0)


def hsv_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the saturation of HSV, up to 1, and keeps hue and value (kornia)."""
    value, range_ = _value_and_range(images)
    most = value / jnp.where(range_ > 0, range_, 1.0)
    return value - (value - images) * jnp.minimum(factor.reshape(-1, 1, 1, 1), most)


def hue(images: jax.Array, turn: jax.Array) -> jax.Array:
    """Turns the hue of HSV by a fraction of the circle, and keeps saturation and value (kornia).

    A turn of 1/3 makes red green, green blue and blue red. With red and blue exchanged, as in a BGR
    image, the hue turns the other way.
    """
    value, range_ = _value_and_range(images)
    red, green, blue = jnp.split(images, 3, axis=-1)
    sixths = jnp.where(
        red == value,
        green - blue,
        jnp.where(green == value, 2 * range_ + blue - red, 4 * range_ + red - green),
    ) / jnp.where(range_ > 0, range_, 1.0)
    # A channel is value - range * weight, and the weight depends only on the distance to its hue.
    own = jnp.array([5.0, 3.0, 1.0], jnp.float32).reshape(1, 1, 1, 3)
    distance = (own + sixths + 6 * turn.reshape(-1, 1, 1, 1)) % 6
    return value - range_ * jnp.clip(jnp.minimum(distance, 4 - distance), 0.0, 1.0)


def _value_and_range(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest channel of each pixel and its distance to the smallest, [B,H,W,1]."""
    value = images.max(axis=-1, keepdims=True)
    return value, value - images.min(axis=-1, keepdims=True)


def sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies the distance to the smoothed image by a factor, clipped to [0,255].

    The smoothing is Pillow's SMOOTH: a 3x3 mean with a weight of five on the centre. The border is
    not smoothed.
    """
    height, width = images.shape[1:3]
    inner = images[:, 1:-1, 1:-1]
    shifted = [images[:, y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3)]
    smooth = jnp.asarray(images).at[:, 1:-1, 1:-1].set((sum(shifted) + 4 * inner) / 13)
    return blend(images, smooth, factor)


def equalize(images: jax.Array) -> jax.Array:
    """Flattens the histogram of each channel, as Pillow does; returns float32 whole numbers.

    Values are rounded first. A channel does not change if it has a single value, or fewer than 255
    pixels below its largest value.
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
    """Adds independent noise of standard deviation sigma [B], drawn by keys [B], clipped."""
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return jnp.clip(images + sigma.reshape(-1, 1, 1, 1) * noise, 0.0, 255.0)


def gaussian_blur(images: jax.Array, sigma: jax.Array, *, radius: int) -> jax.Array:
    """Smooths images [B,H,W,C] by a Gaussian of sigma [B] pixels, cut off at `radius` pixels.

    It equals torchvision's with kernel_size 2 radius + 1: borders are reflected, and sigma 0
    changes nothing. The radius is static; three times the largest sigma is a good choice.
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
    """Darkens images by a pattern [B,H,W,1] in [0,1] times an intensity [B] in [0,1]."""
    return images * (1 - intensity.reshape(-1, 1, 1, 1) * pattern)


def shadow_pattern(keys: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Returns random patches with soft edges, [B,H,W,1] in [0,1], one pattern for each key [B].

    They replace TUFL's patches, which are cut from a photograph of shadows of unstated origin. Two
    octaves of smoothed noise, 6 and 12 cells across the shorter side, pass through a steep sigmoid.
    """

    def octave(keys: jax.Array, cells: int) -> jax.Array:
        shape = tuple(max(2, round(cells * side / min(size))) for side in size)
        coarse = jax.vmap(lambda key: jax.random.normal(key, (*shape, 1)))(keys)
        return upsample(coarse, size=size, align="corners")

    first, second = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 2))(keys), 1, 0)
    return jax.nn.sigmoid(6 * (octave(first, 6) + 0.5 * octave(second, 12)))
