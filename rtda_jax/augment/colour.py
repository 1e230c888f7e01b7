"""Random colour on the device: S1's of the source, and the stronger one of mixed images.

Mirroring moves pixels, so it happens on the host with the label (`rtda_jax.data.geometry`). The
randomness of an image depends on the seed, the step and which image of its set it is: neither
the batch it lies in nor the device that holds it matters.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rtda_jax.augment import photometric
from rtda_jax.augment.texture import TEXTURES, textured


def colour(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    probability: float,
    contrast_range: tuple[float, float],
    saturation_range: tuple[float, float],
) -> jax.Array:
    """Contrast, then saturation, by factors drawn uniformly, of a share of the images (S1).

    Definitions as in torchvision (adjust_contrast, adjust_saturation); nothing is rounded.

    Args:
      images: [B,H,W,3] in [0,255].
      key: of the step.
      index: int32 [B], which image of its set each one is.
      probability: that an image is changed at all.
      contrast_range, saturation_range: of the factors; 1 changes nothing.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    images = images.astype(jnp.float32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    chance, by_contrast, by_saturation = jnp.moveaxis(
        jax.vmap(lambda k: jax.random.uniform(k, (3,)))(keys), 1, 0
    )

    def factor(uniform: jax.Array, bounds: tuple[float, float]) -> jax.Array:
        return bounds[0] + (bounds[1] - bounds[0]) * uniform

    changed = photometric.contrast(images, factor(by_contrast, contrast_range))
    changed = photometric.saturation(changed, factor(by_saturation, saturation_range))
    return jnp.where((chance < probability).reshape(-1, 1, 1, 1), changed, images)


# Of DACS (Tranheden et al. 2021, appendix); their hue shift is left out.
JITTER, JITTERED, BLURRED, BLUR = 0.25, 0.8, 0.5, (0.15, 1.15)


def strong(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Brightness, contrast and saturation jittered, then blurred, each by chance (DACS).

    Args:
      images: [B,H,W,3] in [0,255], H and W above 4.
      key: of the step.
      index: int32 [B], which image of its set each one is.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    numbers = jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, (6,)))(keys), 1, 0)
    factors = 1 + JITTER * (2 * numbers[:3] - 1)
    factors = jnp.where(numbers[3] < JITTERED, factors, 1.0)
    changed = photometric.brightness(images.astype(jnp.float32), factors[0])
    changed = photometric.contrast(changed, factors[1])
    changed = photometric.saturation(changed, factors[2])
    sigma = BLUR[0] + (BLUR[1] - BLUR[0]) * numbers[4]
    radius = min(math.ceil(3 * BLUR[1]), *(side - 1 for side in images.shape[1:3]))
    return photometric.gaussian_blur(
        changed, jnp.where(numbers[5] < BLURRED, sigma, 0.0), radius=radius
    )


def unchanged(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """The images as they are."""
    del key, index
    return images


RECOLOURS = {
    "none": unchanged,
    "strong": strong,
    **{name: functools.partial(textured, how=how) for name, how in TEXTURES.items()},
}

Augment = Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]


def make_augment(
    *,
    probability: float,
    contrast_range: tuple[float, float],
    saturation_range: tuple[float, float],
) -> Augment:
    """A function (batch, key) -> batch that changes the source's colours; probability 0: nothing.

    Raises:
      ValueError: a probability or range that makes no sense, or a batch without source_index.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"augment.colour must be a probability, got {probability:g}")
    for name, bounds in (("contrast", contrast_range), ("saturation", saturation_range)):
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
            raise ValueError(f"augment.{name} must be a range (low, high) from 0, got {bounds}")

    def augment(batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        if not probability:
            return dict(batch)
        if "source_index" not in batch:
            raise ValueError("augment.colour needs batch['source_index'], int32 [B]")
        image = colour(
            batch["source_image"],
            key,
            batch["source_index"],
            probability=probability,
            contrast_range=contrast_range,
            saturation_range=saturation_range,
        )
        return {**batch, "source_image": image}

    return augment
