"""The device's half of the input: uint8 pixels to what the network reads, part by part.

A part is a pure function (batch, key, teacher) -> batch. The images are float [B,H,W,3] in
[0,255] until a part at the end normalises them; a part may add a view, `<view>_image`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rtda_jax import fda
from rtda_jax.augment import geometry, mixing, photometric
from rtda_jax.augment.colour import Augment
from rtda_jax.augment.cuts import Cut
from rtda_jax.augment.normalise import normalise

Batch = Mapping[str, jax.Array]
Part = Callable[[Batch, jax.Array, Any], dict[str, jax.Array]]
Recolour = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of (images, key, index)


def in_order(parts: Sequence[Part]) -> Part:
    """The parts one after the other, each with a key of its own."""

    def prepare(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        for number, part in enumerate(parts):
            batch = part(batch, jax.random.fold_in(key, number), teacher)
        return dict(batch)

    return prepare


def _images(batch: Batch) -> dict[str, jax.Array]:
    return {name: array for name, array in batch.items() if name.endswith("_image")}


def as_floats(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
    """The first part: bytes become float32."""
    del key, teacher
    return {**batch, **{name: x.astype(jnp.float32) for name, x in _images(batch).items()}}


def colour(augment: Augment) -> Part:
    """The source in other colours (S1)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        return augment(batch, key)

    return part


def stylise(*, beta: float, window: str) -> Part:
    """The source after the target of the same batch position (FDA)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del key, teacher
        image = fda.transfer(batch["source_image"], batch["target_image"], beta=beta, window=window)
        return {**batch, "source_image": image}

    return part


def class_mix(
    segment: Callable[[Any, jax.Array], jax.Array],
    *,
    cut: Cut,
    normalisation: str,
    threshold: float,
    recolour: Recolour,
    boundary: int = 0,
    boundary_blur: float = 0.0,
) -> Part:
    """Some of the source's classes pasted on the target, which the teacher labels (DACS, S4).

    Adds the view `mixed`, its `mixed_label` uint8 [B,H,W] and `mixed_weight` float32 [B,H,W]: 1 on
    source pixels, elsewhere the share of the target's pixels that the teacher is sure of.

    Args:
      segment: (teacher, normalised images) -> logits [B,H,W,K].
      cut: what is pasted, from `cuts.make_cut`.
      normalisation: what the teacher reads.
      threshold: the teacher is sure from this probability on.
      recolour: the strong colours of the mixed image.
      boundary: pixels this near to the seam count twice; 0: none.
      boundary_blur: sigma of a blur of these pixels; 0: none.
    """

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        logits = segment(teacher, normalise(batch["target_image"], name=normalisation))
        p = jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))
        draw, paint = jax.random.split(key)
        source, labels, mask = cut(batch, draw)
        image = mixing.paste(mask, source, batch["target_image"])
        weight = mixing.pixel_weights(mask, mixing.confidence(p, threshold=threshold))
        if boundary:
            seam = mixing.boundary(mask, radius=boundary)
            weight = jnp.where(seam, 2 * weight, weight)
            if boundary_blur:
                sigma = jnp.full(len(image), boundary_blur)
                radius = math.ceil(3 * boundary_blur)
                soft = photometric.gaussian_blur(image, sigma, radius=radius)
                image = mixing.paste(seam, soft, image)
        return {
            **batch,
            "mixed_image": recolour(image, paint, batch["source_index"]),
            "mixed_label": mixing.paste(mask, labels, p.argmax(axis=-1).astype(labels.dtype)),
            "mixed_weight": weight,
        }

    return part


def texture(recolour: Recolour) -> Part:
    """The source in other colours and textures, after it has been cut from (S4)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        image = recolour(batch["source_image"], key, batch["source_index"])
        return {**batch, "source_image": image}

    return part


def strong_view(recolour: Recolour, ranges: geometry.Ranges) -> Part:
    """Adds the view `strong`, the target in other colours, and where `move_strong` will move it."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        paint, move = jax.random.split(key)
        index = batch["target_index"]
        return {
            **batch,
            "strong_image": recolour(batch["target_image"], paint, index),
            "strong_affine": geometry.matrices(move, index, ranges=ranges),
        }

    return part


def move_strong(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
    """The normalised strong view as its matrix moves it: what comes from outside is zero."""
    del key, teacher
    return {**batch, "strong_image": geometry.warp(batch["strong_image"], batch["strong_affine"])}


def normalised(*, normalisation: str) -> Part:
    """The last part but for moves: every view as the network reads it."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del key, teacher
        images = {name: normalise(x, name=normalisation) for name, x in _images(batch).items()}
        return {**batch, **images}

    return part
