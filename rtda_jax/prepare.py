"""The device's half of the input: uint8 pixels to what the network reads, part by part.

A part is a pure function (batch, key, teacher) -> batch. The images are float [B,H,W,3] in
[0,255] until the last part normalises them; a part may add a view, `<view>_image`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rtda_jax import fda, mixing
from rtda_jax.augment import Augment
from rtda_jax.normalise import normalise

Batch = Mapping[str, jax.Array]
Part = Callable[[Batch, jax.Array, Any], dict[str, jax.Array]]


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


def stylise(*, beta: float) -> Part:
    """The source after the target of the same batch position (FDA)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del key, teacher
        image = fda.transfer(batch["source_image"], batch["target_image"], beta=beta)
        return {**batch, "source_image": image}

    return part


def class_mix(
    segment: Callable[[Any, jax.Array], jax.Array],
    *,
    num_classes: int,
    normalisation: str,
    threshold: float,
    recolour: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> Part:
    """Half of the source's classes pasted on the target, which the teacher labels (DACS).

    Adds the view `mixed`, its `mixed_label` uint8 [B,H,W] and `mixed_weight` float32 [B,H,W]: 1 on
    source pixels, elsewhere the share of the target's pixels that the teacher is sure of.

    Args:
      segment: (teacher, normalised images) -> logits [B,H,W,K].
      num_classes: K.
      normalisation: what the teacher reads.
      threshold: the teacher is sure from this probability on.
      recolour: (images, key, index) -> images, the strong colours of the mixed image.
    """

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        logits = segment(teacher, normalise(batch["target_image"], name=normalisation))
        p = jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))
        draw, paint = jax.random.split(key)
        labels, index = batch["source_label"], batch["source_index"]
        mask = mixing.class_mask(labels, draw, index, num_classes=num_classes, ignore="never")
        image = mixing.paste(mask, batch["source_image"], batch["target_image"])
        return {
            **batch,
            "mixed_image": recolour(image, paint, index),
            "mixed_label": mixing.paste(mask, labels, p.argmax(axis=-1).astype(labels.dtype)),
            "mixed_weight": mixing.pixel_weights(mask, mixing.confidence(p, threshold=threshold)),
        }

    return part


def normalised(*, normalisation: str) -> Part:
    """The last part: every view as the network reads it."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del key, teacher
        images = {name: normalise(x, name=normalisation) for name, x in _images(batch).items()}
        return {**batch, **images}

    return part
