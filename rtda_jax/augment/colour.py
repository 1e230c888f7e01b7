"""Random colours and textures of images on the device.

Geometry moves labels along with pixels and therefore happens on the host (`rtda_jax.data`). What is
drawn for an image depends on the key of the step and on the number of the image in its data set;
neither the rest of the batch nor the device that holds the image matters.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rtda_jax.augment import photometric
from rtda_jax.errors import ConfigError, lookup

Range = tuple[float, float]
# A function (images [B,H,W,3] in [0,255], key, index int32 [B]) -> images of the same kind.
Recolour = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

UNCHANGED = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Texture:
    """The ranges of the operations of `textured`, in the order they are applied.

    Attributes:
      brightness, contrast, saturation, sharpness: factors; 1 changes nothing.
      shadow: intensity of a random soft pattern; 0 changes nothing.
      noise: standard deviation in grey levels, a whole number between the two, both included.
      blur: sigma in pixels.
      equalize: probability that the histogram is equalized.
    """

    brightness: Range = UNCHANGED
    contrast: Range = UNCHANGED
    saturation: Range = UNCHANGED
    sharpness: Range = UNCHANGED
    shadow: Range = (0.01, 0.3)
    noise: tuple[int, int] = (0, 4)
    blur: Range = (0.0, 1.2)
    equalize: float = 0.0


# The ranges of TUFL's code, for the source and for the strong view.
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


def unchanged(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the images as they are."""
    del key, index
    return images


# The jitter and blur of DACS (Tranheden et al. 2021, appendix) without its shift of the hue.
JITTER, JITTERED, BLURRED, BLUR = 0.25, 0.8, 0.5, (0.15, 1.15)


def strong(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns images with jittered brightness, contrast and saturation, then blurred (DACS).

    The jitter is applied with probability 0.8, the blur with probability 0.5.

    Args:
      images: [B,H,W,3] in [0,255]; H and W above 4.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    uniform = _uniform(_keys(key, index), 6)
    factors = 1 + JITTER * (2 * uniform[:3] - 1)
    factors = jnp.where(uniform[3] < JITTERED, factors, 1.0)
    changed = photometric.brightness(images.astype(jnp.float32), factors[0])
    changed = photometric.contrast(changed, factors[1])
    changed = photometric.saturation(changed, factors[2])
    sigma = jnp.where(uniform[5] < BLURRED, _between(uniform[4], BLUR), 0.0)
    return photometric.gaussian_blur(changed, sigma, radius=_radius(BLUR, images))


def textured(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    texture: Texture,
    once: jax.Array | None = None,
) -> jax.Array:
    """Returns images in other colours, shadowed, noisy and blurred (TUFL).

    Args:
      images: [B,H,W,3] in [0,255]; H and W above 4.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      texture: the ranges.
      once: a key of the whole run that decides the strengths of noise and blur, as in TUFL's
        released code, which draws them once, in a constructor; None draws them for each image.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    draws, patterns, grains = jnp.moveaxis(
        jax.vmap(lambda k: jax.random.split(k, 3))(_keys(key, index)), 1, 0
    )
    uniform = _uniform(draws, 8)
    if once is not None:
        uniform = uniform.at[5:7].set(jax.random.uniform(once, (2, 1)))
    changed = images.astype(jnp.float32)
    for number, (adjust, bounds) in enumerate(
        (
            (photometric.brightness, texture.brightness),
            (photometric.contrast, texture.contrast),
            (photometric.saturation, texture.saturation),
            (photometric.sharpness, texture.sharpness),
        )
    ):
        if bounds != UNCHANGED:
            changed = adjust(changed, _between(uniform[number], bounds))
    height, width = images.shape[1:3]
    pattern = photometric.shadow_pattern(patterns, size=(height, width))
    changed = photometric.shadow(changed, pattern, _between(uniform[4], texture.shadow))
    low, high = texture.noise
    spread = jnp.floor(_between(uniform[5], (low, high + 1)))
    changed = photometric.gaussian_noise(changed, grains, spread)
    sigma = _between(uniform[6], texture.blur)
    changed = photometric.gaussian_blur(changed, sigma, radius=_radius(texture.blur, images))
    if texture.equalize:
        equalized = photometric.equalize(changed)
        chosen = (uniform[7] < texture.equalize).reshape(-1, 1, 1, 1)
        changed = jnp.where(chosen, equalized, changed)
    return changed


RECOLOURS: dict[str, Recolour] = {
    "none": unchanged,
    "strong": strong,
    **{name: functools.partial(textured, texture=texture) for name, texture in TEXTURES.items()},
}


def _for_each_image(name: str, seed: int) -> None:
    del name, seed


def _for_the_run(name: str, seed: int) -> jax.Array | None:
    if name not in TEXTURES:
        return None
    return jax.random.fold_in(jax.random.key(seed), list(TEXTURES).index(name))


# When the strengths of a texture's noise and blur are drawn: functions (name, seed) -> the key of
# the whole run, or None.
DRAWS: dict[str, Callable[[str, int], jax.Array | None]] = {
    "image": _for_each_image,
    "run": _for_the_run,  # as TUFL's released code
}


def recolour(name: str, *, draw: str, seed: int) -> Recolour:
    """Returns the function that changes colours under this name.

    Args:
      name: a key of `RECOLOURS`.
      draw: a key of `DRAWS`; with "run" the strengths of a texture's noise and blur depend on the
        seed and the name alone, so that a resumed run has the same.
      seed: the seed of the run.
    """
    chosen = lookup(RECOLOURS, name, "change of colours")
    once = lookup(DRAWS, draw, "augment.draw")(name, seed)
    return chosen if once is None else functools.partial(chosen, once=once)


@dataclasses.dataclass(frozen=True)
class ColourOptions:
    """The fields of `config.augment` that change colours.

    Attributes:
      colour: probability that a source image changes its contrast and saturation.
      contrast, saturation: ranges (low, high) of the factors then, those of Nikiforos's MBT.
      texture: of the source, after class mixing has cut from it; a key of `RECOLOURS`.
      strong: of the strong view; a key of `RECOLOURS`.
      draw: when the strengths of noise and blur are drawn, a key of `DRAWS`.
    """

    colour: float = 0.0
    contrast: Range = (2.0, 6.0)
    saturation: Range = (1.0, 4.0)
    texture: str = "none"
    strong: str = "tufl_strong"
    draw: str = "image"

    def __post_init__(self) -> None:
        if not 0 <= self.colour <= 1:
            raise ConfigError(f"augment.colour must be a probability, got {self.colour:g}")
        for name in ("contrast", "saturation"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
                raise ConfigError(
                    f"augment.{name} must be a range (low, high) from 0, got {bounds}"
                )
        lookup(RECOLOURS, self.texture, "augment.texture")
        lookup(RECOLOURS, self.strong, "augment.strong")
        lookup(DRAWS, self.draw, "augment.draw")


def colour(
    images: jax.Array, key: jax.Array, index: jax.Array, *, options: ColourOptions
) -> jax.Array:
    """Returns images of which a share has another contrast, then another saturation (MBT).

    The factors are uniform; contrast and saturation are defined as in torchvision, without
    rounding.

    Args:
      images: [B,H,W,3] in [0,255].
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      options: `colour` is the share, `contrast` and `saturation` are the ranges of the factors.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    images = images.astype(jnp.float32)
    chance, by_contrast, by_saturation = _uniform(_keys(key, index), 3)
    changed = photometric.contrast(images, _between(by_contrast, options.contrast))
    changed = photometric.saturation(changed, _between(by_saturation, options.saturation))
    return jnp.where((chance < options.colour).reshape(-1, 1, 1, 1), changed, images)


def _keys(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)


def _uniform(keys: jax.Array, count: int) -> jax.Array:
    """Returns `count` uniform numbers for each key [B], float32 [count,B] in [0,1)."""
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, (count,)))(keys), 1, 0)


def _between(uniform: jax.Array, bounds: Range) -> jax.Array:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def _radius(blur: Range, images: jax.Array) -> int:
    """Returns the radius of a blur: three times the largest sigma, less than the images' sides."""
    return min(math.ceil(3 * blur[1]), *(side - 1 for side in images.shape[1:3]))
