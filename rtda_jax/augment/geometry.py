"""Random affine maps of images and logits alike: a matrix per image, bilinear, zero outside.

As PyTorch's affine_grid and grid_sample with align_corners=False: coordinates run from -1 to 1
over each side, so that on an image that is not square a rotation also shears, as in S4.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Ranges of the random maps; S4's are the defaults. Angles in degrees, +- the number."""

    rotation: float = 30.0
    shear: float = 5.0
    scale: tuple[float, float] = (0.8, 1.2)
    mirror: float = 0.5  # probability


def matrices(key: jax.Array, index: jax.Array, *, ranges: Ranges) -> jax.Array:
    """A random matrix for each image, float32 [B,2,3], from output to input coordinates.

    [[s cos a, -s sin(a + h), 0], [s sin a, s cos(a + h), 0]], the first row negated where the
    image is mirrored; a, h and s are the rotation, shear and scale.

    Args:
      key: of the step.
      index: int32 [B], which image of its set each one is.
      ranges: of the parameters.
    """

    def one(i: jax.Array) -> jax.Array:
        numbers = jax.random.uniform(jax.random.fold_in(key, i), (4,))
        rotation = jnp.deg2rad((2 * numbers[0] - 1) * ranges.rotation)
        shear = jnp.deg2rad((2 * numbers[1] - 1) * ranges.shear)
        low, high = ranges.scale
        return matrix(rotation, shear, low + (high - low) * numbers[2], numbers[3] < ranges.mirror)

    return jax.vmap(one)(index)


def matrix(
    rotation: jax.Array, shear: jax.Array, scale: jax.Array, mirrored: jax.Array
) -> jax.Array:
    """The matrix [2,3] of one image; angles in radians, mirrored bool."""
    sign = jnp.where(mirrored, -1.0, 1.0)
    first = sign * jnp.stack([jnp.cos(rotation), -jnp.sin(rotation + shear)])
    second = jnp.stack([jnp.sin(rotation), jnp.cos(rotation + shear)])
    linear = scale * jnp.stack([first, second])
    return jnp.concatenate([linear, jnp.zeros((2, 1))], axis=1)


def warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Images or logits [B,H,W,C] as their matrices [B,2,3] move them; zero from outside.

    An output pixel at (x, y) is read at matrix @ (x, y, 1). Differentiable in the images.
    """
    height, width, channels = images.shape[1:]
    x = ((2 * jnp.arange(width) + 1) / width - 1)[None, None, :]
    y = ((2 * jnp.arange(height) + 1) / height - 1)[None, :, None]
    # Written out: a matrix product would be rounded to ten bits on some accelerators.
    m = matrices[:, :, :, None, None]
    column = ((m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2] + 1) * width - 1) / 2
    row = ((m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2] + 1) * height - 1) / 2
    left, top = jnp.floor(column), jnp.floor(row)
    flat = images.reshape(images.shape[0], height * width, channels)

    def corner(down: int, right: int) -> jax.Array:
        r, c = top + down, left + right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        weight = (1 - jnp.abs(row - r)) * (1 - jnp.abs(column - c))
        place = jnp.clip(r, 0, height - 1) * width + jnp.clip(c, 0, width - 1)
        pixels = jax.vmap(lambda image, at: jnp.take(image, at, axis=0))(
            flat, place.astype(jnp.int32)
        )
        return jnp.where(inside, weight, 0.0).astype(images.dtype)[..., None] * pixels

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)
