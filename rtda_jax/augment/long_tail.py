"""Long-tail class pasting: rare classes of other source images pasted onto a source image (S4).

The host offers candidates, the device takes some of them. A candidate is a crop of a source image
that shows a class drawn uniformly; `rtda_jax.data.candidates` makes them a function of
(seed, step). In the original a class is drawn with probability softmax(1 / theta), theta being
the adaptive threshold, which lives on the device: a candidate is therefore accepted with
probability exp(1 / theta_c - max 1 / theta), and the accepted ones have that distribution exactly,
while the data stay what (seed, step) says and a resumed run draws the same. The first `count`
accepted are pasted. Often fewer are accepted, then fewer are pasted: with the thetas of short runs
on `streets` 48 % of the candidates are accepted, and 40 to 42 % of the images that are offered six
get fewer than they want (2 to 4), 2.35 on average instead of 3.
"""

import jax
import jax.numpy as jnp

from rtda_jax.augment import mixing
from rtda_jax.losses import IGNORE


def accepted(
    classes: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    count: tuple[int, int],
    theta: jax.Array | None = None,
) -> jax.Array:
    """Which candidates are pasted, bool [B,S].

    Args:
      classes: int [B,S], what each candidate was drawn for; 255: there is none.
      key: of the step.
      index: int32 [B], which image of its set each one is.
      count: least and greatest number of classes pasted on an image.
      theta: float [K]; None takes every candidate.
    """

    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        by_class, by_number = jax.random.split(jax.random.fold_in(key, i))
        lots = jax.random.uniform(by_class, classes.shape[1:])
        return lots, jax.random.randint(by_number, (), count[0], count[1] + 1)

    lots, wanted = jax.vmap(draw)(index)
    there = classes != IGNORE
    if theta is not None:
        odds = jnp.exp(1 / theta - (1 / theta).max())
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
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Image, label and mask with the accepted candidates' classes on top, the last one uppermost.

    Args:
      image: [B,H,W,3].
      label: [B,H,W].
      mask: bool [B,H,W]; True wherever something is pasted.
      images: [B,S,H,W,3].
      labels: [B,S,H,W].
      classes: int [B,S].
      accepted: bool [B,S].
      table: bool [K,K], the classes pasted along.
    """
    known = table.shape[0]
    rows = jnp.pad(table | jnp.eye(known, dtype=bool), ((0, 1), (0, 1))).at[known].set(False)
    for slot in range(classes.shape[1]):
        number = jnp.where(accepted[:, slot], classes[:, slot].astype(jnp.int32), known)
        number = jnp.minimum(number, known)
        over = mixing.mask_of(labels[:, slot], jnp.take(rows, number, axis=0))
        image = mixing.paste(over, images[:, slot].astype(image.dtype), image)
        label = mixing.paste(over, labels[:, slot].astype(label.dtype), label)
        mask = mask | over
    return image, label, mask
