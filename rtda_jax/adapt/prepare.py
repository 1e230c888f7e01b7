"""The device's half of the input: uint8 pixels to what the network reads, part by part.

A part is a pure function (batch, key, teacher) -> batch. The images are float [B,H,W,3] in
[0,255] until a part at the end normalises them; a part may add a view, `<view>_image`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rtda_jax import fda
from rtda_jax.augment import colour as colours
from rtda_jax.augment import geometry, mixing
from rtda_jax.augment.colour import Recolour
from rtda_jax.augment.normalise import normalise

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


def colour(options: colours.ColourOptions) -> Part:
    """The source in other colours (S1)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        image = colours.colour(batch["source_image"], key, batch["source_index"], options=options)
        return {**batch, "source_image": image}

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
    cut: mixing.Cut,
    normalisation: str,
    options: mixing.MixOptions,
    recolour: Recolour,
) -> Part:
    """Some of the source's classes pasted on the target, which the teacher labels (DACS, S4).

    Adds the view `mixed`, its `mixed_label` uint8 [B,H,W] and `mixed_weight` float32 [B,H,W].

    Args:
      segment: (teacher, normalised images) -> logits [B,H,W,K].
      cut: what is pasted, from `mixing.make_cut`.
      normalisation: what the teacher reads.
      options: of `mixing.mix`.
      recolour: the strong colours of the mixed image.
    """

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        logits = segment(teacher, normalise(batch["target_image"], name=normalisation))
        mixed = mixing.mix(
            batch,
            logits,
            key,
            options=options,
            cut=cut,
            recolour=recolour,
            theta=batch.get("theta"),
        )
        return {
            **batch,
            "mixed_image": mixed.image,
            "mixed_label": mixed.label,
            "mixed_weight": mixed.weight,
        }

    return part


def texture(recolour: Recolour) -> Part:
    """The source in other colours and textures, after it has been cut from (S4)."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        image = recolour(batch["source_image"], key, batch["source_index"])
        return {**batch, "source_image": image}

    return part


def strong_view(recolour: Recolour, options: geometry.AffineOptions) -> Part:
    """Adds the view `strong`, the target in other colours, and where `move_strong` will move it."""

    def part(batch: Batch, key: jax.Array, teacher: Any) -> dict[str, jax.Array]:
        del teacher
        paint, move = jax.random.split(key)
        index = batch["target_index"]
        return {
            **batch,
            "strong_image": recolour(batch["target_image"], paint, index),
            "strong_affine": geometry.matrices(move, index, options=options),
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
