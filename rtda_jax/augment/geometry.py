"""Random affine maps and block masks of images.

An affine map is one matrix per image; pixels are read bilinearly and are zero outside the image.
Coordinates are those of PyTorch's affine_grid and grid_sample with align_corners=False: they run
from -1 to 1 along each side. A rotation therefore also shears an image that is not square, as in
TUFL's code.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rtda_jax.augment import image_keys
from rtda_jax.augment.colour import RECOLOURS
from rtda_jax.errors import check_probability, one_of, require


@dataclasses.dataclass(frozen=True)
class AffineOptions:
    """The ranges of random affine maps (`config.affine`); the defaults are TUFL's.

    Attributes:
      rotation: largest angle in degrees, clockwise or counter-clockwise.
      shear: largest angle in degrees, in both directions.
      scale: range (low, high) of the factor on coordinates; above 1 the content shrinks.
      mirror: probability of a left-right flip.
    """

    rotation: float = 30.0
    shear: float = 5.0
    scale: tuple[float, float] = (0.8, 1.2)
    mirror: float = 0.5

    def __post_init__(self) -> None:
        for name, limit in (("rotation", 180), ("shear", 90)):
            angle = getattr(self, name)
            require(
                0 <= angle <= limit,
                f"affine.{name} must be an angle from 0 to {limit} degrees, got {angle:g}",
            )
        valid = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        require(valid, f"affine.scale must be a range (low, high) above 0, got {self.scale}")
        check_probability(self.mirror, "affine.mirror")


def matrices(key: jax.Array, index: jax.Array, *, options: AffineOptions) -> jax.Array:
    """Returns a random matrix for each image, float32 [B,2,3], from output to input coordinates.

    Args:
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set; with the key it decides the draw.
      options: the ranges from which the parameters are drawn uniformly.
    """

    def draw(key: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, (4,))
        rotation = jnp.deg2rad((2 * uniform[0] - 1) * options.rotation)
        shear = jnp.deg2rad((2 * uniform[1] - 1) * options.shear)
        low, high = options.scale
        return matrix(rotation, shear, low + (high - low) * uniform[2], uniform[3] < options.mirror)

    return jax.vmap(draw)(image_keys(key, index))


def matrix(
    rotation: jax.Array, shear: jax.Array, scale: jax.Array, mirrored: jax.Array
) -> jax.Array:
    """Returns the matrix [2,3] of one image; angles are in radians, `mirrored` is bool.

    With rotation a, shear h and scale s it is [[s cos a, -s sin(a + h), 0],
    [s sin a, s cos(a + h), 0]]; the first row is negated where the image is mirrored.
    """
    sign = jnp.where(mirrored, -1.0, 1.0)
    first = sign * jnp.stack([jnp.cos(rotation), -jnp.sin(rotation + shear)])
    second = jnp.stack([jnp.sin(rotation), jnp.cos(rotation + shear)])
    linear = scale * jnp.stack([first, second])
    return jnp.concatenate([linear, jnp.zeros((2, 1))], axis=1)


def warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Returns images or logits [B,H,W,C] moved by their matrices [B,2,3], zero from outside.

    The output pixel at (x, y) is read at matrix @ (x, y, 1). Differentiable in the images.
    """
    height, width, channels = images.shape[1:]
    x = ((2 * jnp.arange(width) + 1) / width - 1)[None, None, :]
    y = ((2 * jnp.arange(height) + 1) / height - 1)[None, :, None]
    # Written as sums, because some accelerators round matrix products to ten bits.
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


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """The blocks that masked consistency hides (`config.masked`; MIC, Hoyer et al. 2023).

    Attributes:
      block: side of a block in pixels; MIC has 64 in crops of 1024.
      ratio: probability that a block is hidden.
      colour: the change of colours beneath the blocks, a key of `colour.RECOLOURS`.
    """

    block: int = 64
    ratio: float = 0.7
    colour: str = "daformer"

    def __post_init__(self) -> None:
        valid = self.block >= 1
        require(valid, f"masked.block must be a number of pixels from 1, got {self.block}")
        check_probability(self.ratio, "masked.ratio")
        one_of(self.colour, RECOLOURS, "masked.colour")


def hide_blocks(
    images: jax.Array, key: jax.Array, index: jax.Array, *, options: MaskOptions
) -> jax.Array:
    """Returns normalised images [B,H,W,C] with random blocks set to zero, which is the mean.

    Args:
      images: normalised for the network.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      options: size of the blocks and how many are hidden.
    """
    mask = block_mask(key, index, size=(images.shape[1], images.shape[2]), options=options)
    return jnp.where(mask, images, 0.0)


def block_mask(
    key: jax.Array, index: jax.Array, *, size: tuple[int, int], options: MaskOptions
) -> jax.Array:
    """Returns which pixels stay visible, bool [B,H,W,1].

    Each side has round(side / block) blocks, at least one. The block of a pixel is found as in a
    nearest-neighbour upsampling, so that sides need not be multiples of the block.

    Args:
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      size: (H, W).
      options: the side of the blocks and the share that is hidden.
    """
    height, width = (max(1, round(side / options.block)) for side in size)
    keys = image_keys(key, index)
    lots = jax.vmap(lambda k: jax.random.uniform(k, (height, width)))(keys)
    rows = jnp.arange(size[0]) * height // size[0]
    columns = jnp.arange(size[1]) * width // size[1]
    return (lots >= options.ratio)[:, rows[:, None], columns[None, :], None]
