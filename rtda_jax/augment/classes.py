"""Sets of classes: those that an image shows, a random half of them, related classes, their pixels.

A set is bool [B,K+1], one row for each image; the last column stands for unlabelled pixels (255).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.augment import image_keys
from rtda_jax.errors import lookup
from rtda_jax.losses import valid

# Whether unlabelled pixels are a class that can be drawn.
IGNORED = {"never": False, "class": True}  # "class" as in the code of DACS, DAFormer and TUFL


def _of_the_batch(shown: jax.Array, axis_name: str | None) -> jax.Array:
    images = shown.sum(axis=0, keepdims=True, dtype=jnp.int32)
    everywhere = images if axis_name is None else jax.lax.psum(images, axis_name)
    return jnp.broadcast_to(everywhere > 0, shown.shape)


# The classes of which half are drawn: functions (shown bool [B,K+1], axis_name) -> bool [B,K+1].
AMONG: dict[str, Callable[[jax.Array, str | None], jax.Array]] = {
    "image": lambda shown, axis_name: shown,  # those that the image shows: ClassMix, DACS, TUFL
    "batch": _of_the_batch,  # those that the images of all devices show: DAFormer, MIC
}

_POSTS = ("pole", "traffic light", "traffic sign")
_TWO_WHEELS = ("rider", "motorcycle", "bicycle")

# The classes that are pasted along with a class, so that objects stay whole. These are TUFL's
# tables; classes that a class set lacks are left out. (For the 13 classes of CrossCity, TUFL reuses
# the numbers of SYNTHIA's 16 classes, which mean other classes there, so that road is pasted with
# buses but not with cars. Here classes are identified by name.)
RELATED: dict[str, dict[str, tuple[str, ...]]] = {
    "none": {},
    "gta5": {
        "road": ("terrain", *_TWO_WHEELS, "car", "truck", "bus", "train"),
        "sidewalk": ("terrain", "person"),
        "wall": ("fence",),
        "fence": ("wall",),
        "vegetation": ("terrain",),
        "terrain": ("vegetation",),
        **dict.fromkeys(_POSTS, _POSTS),
        **dict.fromkeys(_TWO_WHEELS, _TWO_WHEELS),
    },
    "synthia": {
        "road": ("person", *_TWO_WHEELS, "car", "bus"),
        "sidewalk": ("person", *_TWO_WHEELS),
        "building": _POSTS,
        **dict.fromkeys(_POSTS, _POSTS),
        **dict.fromkeys(_TWO_WHEELS, _TWO_WHEELS),
    },
}


def present(labels: jax.Array, *, num_classes: int, ignore: str = "class") -> jax.Array:
    """Returns which classes each image shows, bool [B,K+1]; the last column is for unlabelled 255.

    Args:
      labels: [B,H,W], 0..K-1 or 255.
      num_classes: K.
      ignore: a key of `IGNORED`; with "never" the last column is False.
    """
    counted = lookup(IGNORED, ignore, "mix.ignore")
    numbers = _numbers(labels, num_classes)
    shown = (numbers[..., None] == jnp.arange(num_classes + 1).reshape(1, 1, 1, -1)).any((1, 2))
    return shown if counted else shown.at[:, num_classes].set(False)


def half_of(
    shown: jax.Array, key: jax.Array, index: jax.Array, *, fewer: jax.Array | int = 0
) -> jax.Array:
    """Returns a random half of each image's classes, bool [B,K+1].

    Half of n classes is n/2 rounded up, minus `fewer`, but at least one.

    Args:
      shown: bool [B,K+1], the classes of each image, of `present`.
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
      fewer: int or int32 [B].
    """
    count = shown.sum(axis=1, dtype=jnp.int32)
    wanted = jnp.maximum((count + 1) // 2 - fewer, 1)
    return shown & (_ranks(shown, key, index) < wanted[:, None])


def with_related(
    chosen: jax.Array, shown: jax.Array, key: jax.Array, index: jax.Array, *, table: jax.Array
) -> jax.Array:
    """Returns the chosen classes with related classes of the image, bool [B,K+1] (TUFL).

    Classes are added in the order in which they were drawn, each with its related classes, until
    half of the classes in the image, rounded down, have been added. Unlabelled pixels are never
    added.

    Args:
      chosen: bool [B,K+1], of `half_of`.
      shown: bool [B,K+1], the classes of each image, of `present`.
      key, index: the arguments of `half_of`.
      table: bool [K,K], from `related_classes`.
    """
    classes = table.shape[0]
    enough = shown.sum(axis=1, dtype=jnp.int32) // 2
    rows = families(table)
    ranks = _ranks(shown, key, index)

    def join(rank: jax.Array, joined: jax.Array) -> jax.Array:
        here = (ranks == rank) & chosen
        family = (here[:, :, None] & rows[None]).any(axis=1) & shown
        count = joined.sum(axis=1, dtype=jnp.int32)
        return joined | (family & ((count < enough) | (count == 0))[:, None])

    return jax.lax.fori_loop(0, classes + 1, join, jnp.zeros_like(shown))


def related_classes(name: str, *, names: Sequence[str]) -> np.ndarray:
    """Returns bool [K,K]; row c marks the classes pasted along with class c, except c itself.

    Args:
      name: a key of `RELATED`.
      names: the names of the K classes.
    """
    relatives = lookup(RELATED, name, "table of related classes")
    table = np.zeros((len(names), len(names)), bool)
    for c, owner in enumerate(names):
        for other in relatives.get(owner, ()):
            if other in names and other != owner:
                table[c, names.index(other)] = True
    return table


def families(table: jax.Array) -> jax.Array:
    """Returns bool [K+1,K+1]; row c marks class c and those pasted with it, the last row nothing.

    Args:
      table: bool [K,K], of `related_classes`.
    """
    return jnp.pad(table | jnp.eye(len(table), dtype=bool), ((0, 1), (0, 1)))


def mask_of(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Returns the pixels of the chosen classes bool [B,K+1] in labels [B,H,W], bool [B,H,W]."""
    numbers = _numbers(labels, chosen.shape[1] - 1)
    return jax.vmap(lambda row, classes: jnp.take(classes, row))(numbers, chosen)


def paste(mask: jax.Array, over: jax.Array, under: jax.Array) -> jax.Array:
    """Returns `over` where the mask [B,H,W] is True, else `under`; [B,H,W,3] or [B,H,W]."""
    return jnp.where(mask if over.ndim == mask.ndim else mask[..., None], over, under)


def _ranks(shown: jax.Array, key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns each image's classes in random order, int32 [B,K+1], the absent ones last."""
    keys = image_keys(key, index)
    lots = jax.vmap(lambda k: jax.random.uniform(k, shown.shape[1:]))(keys)
    return jnp.argsort(jnp.argsort(jnp.where(shown, lots, 2.0), axis=1), axis=1)


def _numbers(labels: jax.Array, num_classes: int) -> jax.Array:
    return jnp.where(valid(labels), labels.astype(jnp.int32), num_classes)
