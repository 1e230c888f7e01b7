"""Random colours and textures of images on the device.

Geometric changes move labels together with pixels and are therefore done on the host
(`rtda_jax.data`). The random draws for an image depend only on the key of the step and on the index
of the image in its data set, not on the rest of the batch or on the device.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rtda_jax.augment import image_keys, photometric
from rtda_jax.errors import check_probability, lookup, one_of, require

Range = tuple[float, float]
# A function (images [B,H,W,3] in [0,255], key, index int32 [B]) -> images of the same kind.
Recolour = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

UNCHANGED = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Texture:
    """The ranges of the operations of `textured`, in the order in which they are applied.

    Attributes:
      brightness, contrast, saturation, sharpness: factors; 1 changes nothing.
      shadow: intensity of a random soft pattern; 0 changes nothing.
      noise: standard deviation in grey levels, a whole number in this range, both ends included.
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


# The probabilities of jitter and blur, and the range of the blur's sigma, in DACS (Tranheden et al.
# 2021, appendix), DAFormer and MIC.
JITTERED, BLURRED, BLUR = 0.8, 0.5, (0.15, 1.15)
STRENGTH = 0.25  # the factors of DACS lie within 1 +- this


def strong(
    images: jax.Array, key: jax.Array, index: jax.Array, *, once: jax.Array | None = None
) -> jax.Array:
    """Returns images with jittered brightness, contrast and saturation, then blurred.

    This is the jitter that the text of DACS describes, without its shift of the hue, computed with
    torchvision's operations. The jitter is applied with probability 0.8, the blur with 0.5.

    Args:
      images: [B,H,W,3] in [0,255]; H and W above 4.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      once: a key that decides for all images at once whether they are jittered and whether they
        are blurred; None decides for each image.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    uniform = _uniform(image_keys(key, index), 6)
    jitter, sigma, blur = 3, 4, 5  # the rows of `uniform` after those of the three factors
    if once is not None:
        uniform = uniform.at[jnp.array([jitter, blur])].set(jax.random.uniform(once, (2, 1)))
    factors = 1 + STRENGTH * (2 * uniform[:3] - 1)
    factors = jnp.where(uniform[jitter] < JITTERED, factors, 1.0)
    changed = photometric.brightness(images.astype(jnp.float32), factors[0])
    changed = photometric.contrast(changed, factors[1])
    changed = photometric.saturation(changed, factors[2])
    return _blurred(changed, uniform[blur], uniform[sigma])


def jittered(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    strength: float,
    once: jax.Array | None = None,
) -> jax.Array:
    """Returns images with jittered colours, then blurred, as in the code of DACS, DAFormer and MIC.

    The four operations are kornia's, in an order that is drawn for each image: brightness adds an
    amount, contrast is a factor, and saturation and hue are those of HSV. The jitter is applied
    with probability 0.8, the blur with 0.5; the original code decides both once for a batch.

    Args:
      images: [B,H,W,3] in [0,255]; H and W above 4. The code of DACS jitters BGR images, in which
        the hue turns the other way; both directions are equally likely.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      strength: the strength of each operation: the amount added lies within +- 255 strength,
        factors within 1 +- strength, and the hue turns by +- strength of the circle.
      once: a key that decides for all images at once whether they are jittered and whether they
        are blurred; None decides for each image.

    Returns:
      float32 [B,H,W,3] in [0,255].
    """
    draws, orders = jnp.moveaxis(jax.vmap(jax.random.split)(image_keys(key, index)), 1, 0)
    order = jax.vmap(lambda k: jax.random.permutation(k, 4))(orders)
    uniform = _uniform(draws, 7)
    jitter, blur, sigma = 4, 5, 6  # the rows of `uniform` after those of the four strengths
    if once is not None:
        uniform = uniform.at[jitter : blur + 1].set(jax.random.uniform(once, (2, 1)))
    amount, turn = strength * (2 * uniform[0] - 1), strength * (2 * uniform[1] - 1)
    by_contrast, by_saturation = 1 + strength * (2 * uniform[2:4] - 1)
    operations = (
        lambda x: photometric.offset(x, 255 * amount),
        lambda x: photometric.brightness(x, by_contrast),  # kornia's contrast
        lambda x: photometric.hsv_saturation(x, by_saturation),
        lambda x: photometric.hue(x, turn),
    )
    images = images.astype(jnp.float32)
    changed = images
    for place in range(4):
        number = order[:, place].reshape(-1, 1, 1, 1)
        changed = jnp.select(
            [number == k for k in range(4)], [operate(changed) for operate in operations]
        )
    changed = jnp.where((uniform[jitter] < JITTERED).reshape(-1, 1, 1, 1), changed, images)
    return _blurred(changed, uniform[blur], uniform[sigma])


def textured(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    texture: Texture,
    once: jax.Array | None = None,
) -> jax.Array:
    """Returns images with changed colours, shadows, noise and blur (TUFL).

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
        jax.vmap(lambda k: jax.random.split(k, 3))(image_keys(key, index)), 1, 0
    )
    uniform = _uniform(draws, 8)
    shadow, noise, blur, equalize = 4, 5, 6, 7  # the rows of `uniform` after the adjustments'
    if once is not None:
        uniform = uniform.at[noise : blur + 1].set(jax.random.uniform(once, (2, 1)))
    changed = images.astype(jnp.float32)
    adjustments = (
        (photometric.brightness, texture.brightness),
        (photometric.contrast, texture.contrast),
        (photometric.saturation, texture.saturation),
        (photometric.sharpness, texture.sharpness),
    )
    for number, (adjust, bounds) in enumerate(adjustments):
        if bounds != UNCHANGED:
            changed = adjust(changed, _between(uniform[number], bounds))
    height, width = images.shape[1:3]
    pattern = photometric.shadow_pattern(patterns, size=(height, width))
    changed = photometric.shadow(changed, pattern, _between(uniform[shadow], texture.shadow))
    low, high = texture.noise
    spread = jnp.floor(_between(uniform[noise], (low, high + 1)))
    changed = photometric.gaussian_noise(changed, grains, spread)
    sigma = _between(uniform[blur], texture.blur)
    changed = photometric.gaussian_blur(changed, sigma, radius=_radius(texture.blur, images))
    if texture.equalize:
        equalized = photometric.equalize(changed)
        chosen = (uniform[equalize] < texture.equalize).reshape(-1, 1, 1, 1)
        changed = jnp.where(chosen, equalized, changed)
    return changed


RECOLOURS: dict[str, Callable[..., jax.Array]] = {
    "none": unchanged,
    "strong": strong,
    "dacs_released": functools.partial(jittered, strength=0.25),
    "daformer": functools.partial(jittered, strength=0.2),  # of DAFormer, HRDA and MIC
    **{name: functools.partial(textured, texture=texture) for name, texture in TEXTURES.items()},
}

_FOR_ALL = 2**32 - 1  # no image has this number


def _for_each_image(name: str, seed: int) -> Recolour:
    del seed
    return RECOLOURS[name]


def _for_the_batch(name: str, seed: int) -> Recolour:
    del seed
    if name == "none":
        return unchanged
    require(
        "once" in inspect.signature(RECOLOURS[name]).parameters,
        f"augment.draw='batch' draws once for all images, but the change of colours {name!r} has "
        "no keyword `once`, the key of that draw: give it one, or set augment.draw='image'",
    )

    def recolour(images: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
        return RECOLOURS[name](images, key, index, once=jax.random.fold_in(key, _FOR_ALL))

    return recolour


def _for_the_run(name: str, seed: int) -> Recolour:
    if name not in TEXTURES:
        return RECOLOURS[name]
    once = jax.random.fold_in(jax.random.key(seed), list(TEXTURES).index(name))
    return functools.partial(RECOLOURS[name], once=once)


# How often the draws that `once` controls are made: functions (name, seed) -> Recolour.
DRAWS: dict[str, Callable[[str, int], Recolour]] = {
    "image": _for_each_image,
    "batch": _for_the_batch,  # the code of DACS, DAFormer and MIC
    "run": _for_the_run,  # the code of TUFL; only for textures, the others draw for each image
}


def recolour(name: str, *, draw: str, seed: int) -> Recolour:
    """Returns the change of colours with this name.

    Args:
      name: a key of `RECOLOURS`.
      draw: a key of `DRAWS`; the draws of "run" depend only on the seed and the name, so that a
        resumed run repeats them.
      seed: the seed of the run.
    """
    one_of(name, RECOLOURS, "change of colours")
    return lookup(DRAWS, draw, "augment.draw")(name, seed)


@dataclasses.dataclass(frozen=True)
class ColourOptions:
    """The fields of `config.augment` that change colours.

    Attributes:
      colour: probability that a source image changes its contrast and saturation.
      contrast, saturation: ranges (low, high) of the factors, those of Nikiforos's MBT.
      texture: the change of the source after classes have been cut from it, a key of `RECOLOURS`.
      strong: the change of the strong view, a key of `RECOLOURS`.
      draw: how often the program draws whether images are jittered and blurred, and how strong the
        noise and the blur of a texture are; a key of `DRAWS`.
    """

    colour: float = 0.0
    contrast: Range = (2.0, 6.0)
    saturation: Range = (1.0, 4.0)
    texture: str = "none"
    strong: str = "tufl_strong"
    draw: str = "image"

    def __post_init__(self) -> None:
        check_probability(self.colour, "augment.colour")
        for name in ("contrast", "saturation"):
            bounds = getattr(self, name)
            valid = len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]
            require(valid, f"augment.{name} must be a range (low, high) from 0, got {bounds}")
        one_of(self.texture, RECOLOURS, "augment.texture")
        one_of(self.strong, RECOLOURS, "augment.strong")
        one_of(self.draw, DRAWS, "augment.draw")


def colour(
    images: jax.Array, key: jax.Array, index: jax.Array, *, options: ColourOptions
) -> jax.Array:
    """Returns images after a random change of contrast, then saturation, in a share of them (MBT).

    The factors are drawn uniformly. Contrast and saturation are defined as in torchvision, without
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
    chance, by_contrast, by_saturation = _uniform(image_keys(key, index), 3)
    changed = photometric.contrast(images, _between(by_contrast, options.contrast))
    changed = photometric.saturation(changed, _between(by_saturation, options.saturation))
    return jnp.where((chance < options.colour).reshape(-1, 1, 1, 1), changed, images)


def _uniform(keys: jax.Array, count: int) -> jax.Array:
    """Returns `count` uniform numbers for each key [B], float32 [count,B] in [0,1)."""
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, (count,)))(keys), 1, 0)


def _blurred(images: jax.Array, chance: jax.Array, spread: jax.Array) -> jax.Array:
    """Blurs a share of BLURRED of the images by a sigma in BLUR; both numbers [B] are uniform."""
    sigma = jnp.where(chance < BLURRED, _between(spread, BLUR), 0.0)
    return photometric.gaussian_blur(images, sigma, radius=_radius(BLUR, images))


def _between(uniform: jax.Array, bounds: Range) -> jax.Array:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def _radius(blur: Range, images: jax.Array) -> int:
    """Returns the radius of a blur: three times the largest sigma, less than the images' sides."""
    return min(math.ceil(3 * blur[1]), *(side - 1 for side in images.shape[1:3]))
