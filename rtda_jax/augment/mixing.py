"""Class mixing on the device: the pixels of some classes of one image pasted over another.

(Olsson et al., ClassMix, 2021; Tranheden et al., DACS, 2021; S4's cross-domain image mixing.) The
randomness of an image depends on the key and on which image of its set it is: neither the batch
it lies in nor the device that holds it matters.
"""

import jax
import jax.numpy as jnp

from rtda_jax.losses import valid

# Is the unlabelled a class that can be drawn? In S4 it is, in DACS it never is.
IGNORED = ("class", "never")


def present(labels: jax.Array, *, num_classes: int, ignore: str = "class") -> jax.Array:
    """Which classes each image shows, bool [B,K+1] of labels [B,H,W]; the last column is 255.

    ignore: "class" counts the unlabelled as one more class, "never" leaves that column False.
    """
    if ignore not in IGNORED:
        raise ValueError(f"unknown treatment of ignored pixels {ignore!r}; known: class, never")
    numbers = _numbers(labels, num_classes)
    seen = (numbers[..., None] == jnp.arange(num_classes + 1).reshape(1, 1, 1, -1)).any((1, 2))
    return seen if ignore == "class" else seen.at[:, num_classes].set(False)


def half_of(
    present: jax.Array, key: jax.Array, index: jax.Array, *, fewer: jax.Array | int = 0
) -> jax.Array:
    """A random half of each image's classes, bool [B,K+1] of bool [B,K+1].

    Of n classes (n + n mod 2)/2 are drawn, less `fewer` but at least one.

    Args:
      present: from `present`.
      key: of the step.
      index: int32 [B], which image of its set each one is.
      fewer: int or int32 [B] (S4 draws 2 fewer where it pastes rare classes as well).
    """
    count = present.sum(axis=1, dtype=jnp.int32)
    wanted = jnp.maximum((count + 1) // 2 - fewer, 1)
    return present & (_ranks(present, key, index) < wanted[:, None])


def with_related(
    chosen: jax.Array, present: jax.Array, key: jax.Array, index: jax.Array, *, table: jax.Array
) -> jax.Array:
    """The chosen classes and those of the image that belong to them, bool [B,K+1] (S4).

    Classes join in the order they were drawn in, each with its relatives, until they are half of
    the classes present, rounded down; the unlabelled never joins.

    Args:
      chosen: bool [B,K+1], of `half_of`.
      present: bool [B,K+1], of `present`.
      key, index: those `half_of` was given.
      table: bool [K,K]; row c marks what is pasted along with c, see `classes.table`.
    """
    classes = table.shape[0]
    enough = present.sum(axis=1, dtype=jnp.int32) // 2
    rows = jnp.pad(table | jnp.eye(classes, dtype=bool), ((0, 1), (0, 1)))
    ranks = _ranks(present, key, index)

    def join(rank: jax.Array, joined: jax.Array) -> jax.Array:
        here = (ranks == rank) & chosen
        family = (here[:, :, None] & rows[None]).any(axis=1) & present
        count = joined.sum(axis=1, dtype=jnp.int32)
        return joined | (family & ((count < enough) | (count == 0))[:, None])

    return jax.lax.fori_loop(0, classes + 1, join, jnp.zeros_like(present))


def _ranks(present: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Each image's classes in random order: int32 [B,K+1], the present ones before the absent."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    lots = jax.vmap(lambda k: jax.random.uniform(k, present.shape[1:]))(keys)
    return jnp.argsort(jnp.argsort(jnp.where(present, lots, 2.0), axis=1), axis=1)


def mask_of(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """The pixels of the chosen classes, bool [B,H,W] of labels [B,H,W] and bool [B,K+1]."""
    numbers = _numbers(labels, chosen.shape[1] - 1)
    return jax.vmap(lambda row, classes: jnp.take(classes, row))(numbers, chosen)


def paste(mask: jax.Array, over: jax.Array, under: jax.Array) -> jax.Array:
    """`over` where the mask [B,H,W] is True, else `under`; images [B,H,W,3] or labels [B,H,W]."""
    return jnp.where(mask if over.ndim == mask.ndim else mask[..., None], over, under)


def confidence(probabilities: jax.Array, *, threshold: float = 0.968) -> jax.Array:
    """Share of the pixels whose highest probability is at least the threshold, float32 [B].

    The weight of a teacher's labels (French et al. 2020; DACS takes the share of the whole batch,
    which is the same for one image). Input [B,H,W,K].
    """
    sure = probabilities.max(axis=-1) >= threshold
    return sure.mean(axis=(1, 2), dtype=jnp.float32)


def pixel_weights(mask: jax.Array, share: jax.Array) -> jax.Array:
    """Weights of a mixed image's pixels: 1 on the mask [B,H,W], the teacher's share [B] beside."""
    return jnp.where(mask, 1.0, share[:, None, None])


def boundary(mask: jax.Array, *, radius: int) -> jax.Array:
    """Pixels within `radius` rows and columns of the other side of the mask, bool [B,H,W]."""
    size = 2 * radius + 1

    def spread(side: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(
            side, False, jnp.logical_or, (1, size, size), (1, 1, 1), "SAME"
        )

    return spread(mask) & spread(~mask)


def _numbers(labels: jax.Array, num_classes: int) -> jax.Array:
    return jnp.where(valid(labels), labels.astype(jnp.int32), num_classes)
