"""Class mixing on the device: some classes of a source image are pasted onto a target image.

ClassMix (Olsson et al. 2021), DACS (Tranheden et al. 2021) and TUFL's cross-domain image mixing
with related classes and long-tail pasting. The random draws for an image depend only on the key of
the step and on the index of the image in its data set, not on the rest of the batch or on the
device that holds the image.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtda_jax.augment import Batch, image_keys
from rtda_jax.augment.classes import (
    AMONG,
    IGNORED,
    RELATED,
    families,
    half_of,
    mask_of,
    paste,
    present,
    related_classes,
    with_related,
)
from rtda_jax.augment.colour import RECOLOURS, Recolour
from rtda_jax.augment.photometric import gaussian_blur
from rtda_jax.errors import check_probability, one_of, require
from rtda_jax.losses import IGNORE


class Pasted(NamedTuple):
    """What is pasted onto a target image.

    Attributes:
      image: [B,H,W,3], a source image.
      label: [B,H,W], its classes.
      mask: bool [B,H,W], the pixels to paste.
    """

    image: jax.Array
    label: jax.Array
    mask: jax.Array


# A function (batch, key, theta) -> Pasted; theta is float32 [K], the adaptive threshold of each
# class, or None.
Cut = Callable[[Batch, jax.Array, jax.Array | None], Pasted]

# How many fewer classes are drawn from an image onto which rare classes are pasted (TUFL).
FEWER = 2


def _all_alike(theta: jax.Array | None) -> None:
    del theta


def _the_less_sure(theta: jax.Array | None) -> jax.Array:
    if theta is None:
        raise ValueError("long_tail.choice='threshold' needs the adaptive thresholds theta")
    return jnp.exp(1 / theta - (1 / theta).max())


# The probability that a candidate of each class is accepted: functions of theta [K] that return
# float32 [K], or None for 1.
CHOICES: dict[str, Callable[[jax.Array | None], jax.Array | None]] = {
    "uniform": _all_alike,
    "threshold": _the_less_sure,
}


@dataclasses.dataclass(frozen=True)
class MixOptions:
    """The fields of `config.mix`.

    Attributes:
      among: the classes that a half is drawn from, a key of `classes.AMONG`.
      colour: the change of colours of the mixed image, a key of `colour.RECOLOURS`.
      ignore: whether unlabelled pixels count as a class that can be cut out, a key of
        `classes.IGNORED`.
      related: the classes that are cut out together, a key of `classes.RELATED`.
      boundary: the distance in pixels from the seam within which pixels count twice; 0 for none.
      boundary_blur: the sigma of a blur of these pixels; 0 for none.
    """

    among: str = "image"
    colour: str = "strong"
    ignore: str = "never"
    related: str = "none"
    boundary: int = 0
    boundary_blur: float = 0.0

    def __post_init__(self) -> None:
        one_of(self.among, AMONG, "mix.among")
        one_of(self.colour, RECOLOURS, "mix.colour")
        one_of(self.ignore, IGNORED, "mix.ignore")
        one_of(self.related, RELATED, "mix.related")
        require(
            min(self.boundary, self.boundary_blur) >= 0,
            "mix.boundary and mix.boundary_blur must be 0 or more",
        )
        require(
            not self.boundary_blur or self.boundary > 0,
            "mix.boundary_blur blurs the pixels near the seam: it needs mix.boundary",
        )

    @property
    def blur_radius(self) -> int:
        """How many pixels away the blur reaches: three times its sigma."""
        return math.ceil(3 * self.boundary_blur)


@dataclasses.dataclass(frozen=True)
class LongTailOptions:
    """The fields of `config.long_tail`: rare classes pasted onto a source image (TUFL).

    Attributes:
      probability: the probability that an image is offered candidates; 0 switches the pasting
        off.
      slots: the number of candidates that the data layer offers such an image.
      count: the range (least, most) of the number of candidates that are pasted.
      choice: the classes that are preferred, a key of `CHOICES`.
      classes: the indices of the classes that candidates show; empty for all.
      related: the classes that are pasted with a class, a key of `classes.RELATED`.
      min_pixels: the least number of pixels with which an example contains a class.
    """

    probability: float = 0.0
    slots: int = 2
    count: tuple[int, int] = (2, 2)
    choice: str = "uniform"
    classes: tuple[int, ...] = ()
    related: str = "none"
    min_pixels: int = 1

    def __post_init__(self) -> None:
        check_probability(self.probability, "long_tail.probability")
        one_of(self.choice, CHOICES, "long_tail.choice")
        one_of(self.related, RELATED, "long_tail.related")
        least, most = self.count
        require(
            1 <= least <= most <= self.slots,
            f"long_tail.count {(least, most)} must be a range within 1..{self.slots}, "
            "the long_tail.slots",
        )


class Mixed(NamedTuple):
    """Mixed images.

    Attributes:
      image: float32 [B,H,W,3] in [0,255].
      label: [B,H,W], the source's label on pasted pixels and the teacher's elsewhere.
      weight: float32 [B,H,W]; 1 on source pixels and the weight of the teacher's label elsewhere;
        doubled near the seam if options.boundary is set.
    """

    image: jax.Array
    label: jax.Array
    weight: jax.Array


def mix(
    batch: Batch,
    key: jax.Array,
    *,
    options: MixOptions,
    cut: Cut,
    recolour: Recolour,
    theta: jax.Array | None = None,
) -> Mixed:
    """Returns target images onto which some of the source's classes are pasted (DACS, TUFL).

    Args:
      batch: source_image, source_label, source_index, target_image, teacher_label, teacher_weight
        and, where rare classes are pasted, candidate_images, candidate_labels and
        candidate_classes; images in [0,255].
      key: the random key of this step.
      options: the options of class mixing.
      cut: decides what is pasted, from `make_cut`.
      recolour: changes the colours of the mixed image, from `colour.recolour`.
      theta: float32 [K], the adaptive thresholds, or None.
    """
    draw, paint = jax.random.split(key)
    source, labels, mask = cut(batch, draw, theta)
    image = paste(mask, source, batch["target_image"])
    label = paste(mask, labels, batch["teacher_label"].astype(labels.dtype))
    weight = jnp.where(mask, 1.0, batch["teacher_weight"])
    if options.boundary:
        seam = boundary(mask, radius=options.boundary)
        weight = jnp.where(seam, 2 * weight, weight)
        if options.boundary_blur:
            sigma = jnp.full(len(image), options.boundary_blur)
            radius = options.blur_radius
            image = paste(seam, gaussian_blur(image, sigma, radius=radius), image)
    return Mixed(recolour(image, paint, batch["source_index"]), label, weight)


def make_cut(
    mix: MixOptions,
    long_tail: LongTailOptions,
    *,
    names: Sequence[str],
    axis_name: str | None = None,
) -> Cut:
    """Returns the function that cuts a random half of the classes out of a source image.

    If an image is offered candidates of rare classes, some of them are pasted on top of it, and
    fewer of its own classes are cut out.

    Args:
      mix: `ignore`, `among` and `related` are read.
      long_tail: which candidates are pasted.
      names: the names of the K classes.
      axis_name: the device axis, for mix.among="batch".
    """
    cut_half = functools.partial(half_of_source, options=mix, names=names, axis_name=axis_name)
    if long_tail.probability:
        return functools.partial(cut_with_rare, cut_half, options=long_tail, names=names)
    return lambda batch, key, theta: cut_half(batch, key)


def half_of_source(
    batch: Batch,
    key: jax.Array,
    *,
    fewer: jax.Array | int = 0,
    options: MixOptions,
    names: Sequence[str],
    axis_name: str | None,
) -> Pasted:
    """Cuts a random half of the classes, less `fewer` [B] of them, out of each source image."""
    labels, index = batch["source_label"], batch["source_index"]
    shown = present(labels, num_classes=len(names), ignore=options.ignore)
    shown = AMONG[options.among](shown, axis_name)
    chosen = half_of(shown, key, index, fewer=fewer)
    if options.related != "none":
        table = jnp.asarray(related_classes(options.related, names=names))
        chosen = with_related(chosen, shown, key, index, table=table)
    return Pasted(batch["source_image"], labels, mask_of(labels, chosen))


def cut_with_rare(
    cut_half: Callable[..., Pasted],
    batch: Batch,
    key: jax.Array,
    theta: jax.Array | None,
    *,
    options: LongTailOptions,
    names: Sequence[str],
) -> Pasted:
    """Cuts classes out of each source image and pastes candidates of rare classes on top of it."""
    draw, accept = jax.random.split(key)
    taken = accepted(
        batch["candidate_classes"],
        accept,
        batch["source_index"],
        count=options.count,
        odds=CHOICES[options.choice](theta),
    )
    return paste_candidates(
        *cut_half(batch, draw, fewer=jnp.where(taken.any(axis=1), FEWER, 0)),
        images=batch["candidate_images"],
        labels=batch["candidate_labels"],
        classes=batch["candidate_classes"],
        accepted=taken,
        table=jnp.asarray(related_classes(options.related, names=names)),
    )


def accepted(
    classes: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    count: tuple[int, int],
    odds: jax.Array | None = None,
) -> jax.Array:
    """Returns which candidates are pasted, bool [B,S].

    The host offers candidates: crops of source images that show a class drawn uniformly
    (`rtda_jax.data.Candidates`), a function of (seed, step). TUFL draws classes with probability
    softmax(1 / theta), where theta is the adaptive threshold, which is on the device. A candidate
    of class c is therefore accepted with probability exp(1 / theta_c - max 1 / theta). The accepted
    candidates follow TUFL's distribution exactly, and a resumed run draws the same ones. If too few
    are accepted, fewer are pasted. In short runs on `streets` 48 % are accepted, and an image that
    is offered six candidates and should get 2 to 4 gets 2.35 on average instead of 3.

    Args:
      classes: int [B,S], the class for which each candidate was drawn; 255 for none.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      count: the range (least, most) of the number of candidates that are pasted onto an image; the
        first accepted ones are used.
      odds: float32 [K], the probability that a candidate of each class is accepted, or None for 1.
    """

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        by_class, by_number = jax.random.split(key)
        lots = jax.random.uniform(by_class, classes.shape[1:])
        return lots, jax.random.randint(by_number, (), count[0], count[1] + 1)

    lots, wanted = jax.vmap(draw)(image_keys(key, index))
    there = classes != IGNORE
    if odds is not None:
        there &= lots < jnp.take(odds, jnp.where(there, classes, 0).astype(jnp.int32))
    return there & (jnp.cumsum(there, axis=1) <= wanted[:, None])


def paste_candidates(
    image: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    images: jax.Array,
    labels: jax.Array,
    classes: jax.Array,
    accepted: jax.Array,
    table: jax.Array,
) -> Pasted:
    """Returns image, label and mask with the accepted candidates' classes on top, the last topmost.

    Args:
      image: [B,H,W,3].
      label: [B,H,W].
      mask: bool [B,H,W]; becomes True wherever something is pasted.
      images: [B,S,H,W,3], the candidates.
      labels: [B,S,H,W].
      classes: int [B,S], the class each candidate was drawn for.
      accepted: bool [B,S].
      table: bool [K,K], the classes that are pasted together, from `classes.related_classes`.
    """
    known = table.shape[0]
    rows = families(table)
    for slot in range(classes.shape[1]):
        number = jnp.where(accepted[:, slot], classes[:, slot].astype(jnp.int32), known)
        number = jnp.minimum(number, known)
        over = mask_of(labels[:, slot], jnp.take(rows, number, axis=0))
        image = paste(over, images[:, slot].astype(image.dtype), image)
        label = paste(over, labels[:, slot].astype(label.dtype), label)
        mask = mask | over
    return Pasted(image, label, mask)


def boundary(mask: jax.Array, *, radius: int) -> jax.Array:
    """Returns the pixels within `radius` rows and columns of the mask's edge, [B,H,W]."""
    size = 2 * radius + 1

    def spread(side: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(
            side, False, jnp.logical_or, (1, size, size), (1, 1, 1), "SAME"
        )

    return spread(mask) & spread(~mask)
