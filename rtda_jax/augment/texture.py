"""Strong random colours and textures of an image: those of TUFL (S4), drawn for each image.

The released code draws the noise's strength and the blur's radius once, in a constructor, so that
they stay the same for a whole run; `once` asks for that.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from rtda_jax.augment import photometric

Range = tuple[float, float]
SAME = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Texture:
    """Ranges of uniform factors, in the order they are applied.

    Attributes:
      brightness, contrast, saturation, sharpness: factors, 1 changes nothing.
      shadow: intensity of a random soft pattern, 0 changes nothing.
      noise: standard deviation, a whole number between these two, in levels of 255.
      blur: sigma in pixels.
      equalize: probability that the histogram is flattened.
    """

    brightness: Range = SAME
    contrast: Range = SAME
    saturation: Range = SAME
    sharpness: Range = SAME
    shadow: Range = (0.01, 0.3)
    noise: tuple[int, int] = (0, 4)
    blur: Range = (0.0, 1.2)
    equalize: float = 0.0


TEXTURES = {
    "tufl_source": Texture(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5)),
    "tufl_strong": Texture(
        brightness=(0.4, 1.2),
        contrast=(0.4, 2.0),
        saturation=(0.5, 2.0),
        sharpness=(0.4, 2.0),
        noise=(3, 4),
        equalize=0.3,
    ),
}


def textured(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    how: Texture,
    once: jax.Array | None = None,
) -> jax.Array:
    """Images [B,H,W,3] in [0,255] in other colours, shadowed, noisy and blurred.

    Args:
      images: [B,H,W,3] in [0,255], H and W above 4.
      key: of the step.
      index: int32 [B], which image of its set each one is.
      how: the ranges.
      once: a key of the whole run that decides noise and blur; None draws them for each image.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    draws, patterns, grains = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0)
    numbers = jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, (8,)))(draws), 1, 0)
    if once is not None:
        numbers = numbers.at[5:7].set(jax.random.uniform(once, (2, 1)))

    def between(number: jax.Array, bounds: Range) -> jax.Array:
        return bounds[0] + (bounds[1] - bounds[0]) * number

    changed = images.astype(jnp.float32)
    for number, (adjust, bounds) in enumerate(
        (
            (photometric.brightness, how.brightness),
            (photometric.contrast, how.contrast),
            (photometric.saturation, how.saturation),
            (photometric.sharpness, how.sharpness),
        )
    ):
        if bounds != SAME:
            changed = adjust(changed, between(numbers[number], bounds))
    height, width = images.shape[1:3]
    pattern = photometric.shadow_pattern(patterns, size=(height, width))
    changed = photometric.shadow(changed, pattern, between(numbers[4], how.shadow))
    spread = jnp.floor(between(numbers[5], (how.noise[0], how.noise[1] + 1)))
    changed = photometric.gaussian_noise(changed, grains, spread)
    radius = min(math.ceil(3 * how.blur[1]), height - 1, width - 1)
    changed = photometric.gaussian_blur(changed, between(numbers[6], how.blur), radius=radius)
    if how.equalize:
        flat = photometric.equalize(changed)
        changed = jnp.where((numbers[7] < how.equalize).reshape(-1, 1, 1, 1), flat, changed)
    return changed
