"""What of a source image is pasted on the target: half of its classes, and rare ones on top."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rtda_jax.augment import long_tail, mixing

Batch = Mapping[str, jax.Array]
# (batch, key) -> image [B,H,W,3], label [B,H,W] and the mask of what is pasted, bool [B,H,W]
Cut = Callable[[Batch, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]

FEWER = 2  # classes drawn less from an image that rare classes are pasted on (S4)


def make_cut(
    *,
    num_classes: int,
    ignore: str,
    related: jax.Array | None = None,
    pasted: tuple[int, int] | None = None,
    pasted_related: jax.Array | None = None,
    choice: str = "uniform",
) -> Cut:
    """A cut of a random half of the classes.

    Args:
      num_classes: K.
      ignore: whether 255 is a class, a name of `mixing.IGNORED`.
      related: bool [K,K], the classes cut along with each; None: none.
      pasted: least and greatest number of candidates pasted; None: the batch has none.
      pasted_related: bool [K,K], the classes pasted along with each candidate's.
      choice: "uniform", or by "threshold": rather the classes of low batch["theta"].
    """

    def half(batch: Batch, key: jax.Array, fewer: jax.Array | int) -> jax.Array:
        labels, index = batch["source_label"], batch["source_index"]
        seen = mixing.present(labels, num_classes=num_classes, ignore=ignore)
        chosen = mixing.half_of(seen, key, index, fewer=fewer)
        if related is not None:
            chosen = mixing.with_related(chosen, seen, key, index, table=related)
        return mixing.mask_of(labels, chosen)

    def plain(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return batch["source_image"], batch["source_label"], half(batch, key, 0)

    def with_rare(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        assert pasted is not None
        draw, accept = jax.random.split(key)
        classes = batch["candidate_classes"]
        theta = batch["theta"] if choice == "threshold" else None
        taken = long_tail.accepted(
            classes, accept, batch["source_index"], count=pasted, theta=theta
        )
        fewer = jnp.where(taken.any(axis=1), FEWER, 0)
        none = jnp.zeros((num_classes, num_classes), bool)
        return long_tail.paste_candidates(
            batch["source_image"],
            batch["source_label"],
            half(batch, draw, fewer),
            images=batch["candidate_images"],
            labels=batch["candidate_labels"],
            classes=classes,
            accepted=taken,
            table=none if pasted_related is None else pasted_related,
        )

    return plain if pasted is None else with_rare
