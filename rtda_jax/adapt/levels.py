"""Where a discriminator looks: a view of one of the segmentation network's outputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from rtda_jax import losses
from rtda_jax.errors import lookup
from rtda_jax.ops.resize import upsample

Size = tuple[int, int]


class Level(NamedTuple):
    """One discriminator's place.

    Attributes:
      number: fixed, so that a level's initial weights do not depend on which others exist.
      head: the output it looks at.
      view: from that output [B,h,w,C] and the image size (H, W) to what the discriminator reads.
    """

    number: int
    head: str
    view: Callable[[jax.Array, Size], jax.Array]


def _softmax(logits: jax.Array, size: Size) -> jax.Array:
    del size
    return jax.nn.softmax(logits, axis=-1)


def _self_information(logits: jax.Array, size: Size) -> jax.Array:
    del size
    return losses.self_information(logits)


def _features(feature: jax.Array, size: Size) -> jax.Array:
    """The features in front of the classifier at image size (Tsai et al. 2018, feature level)."""
    return upsample(feature, size=size)


VIEWS = {
    "softmax": _softmax,  # Tsai et al. 2018
    "self_information": _self_information,  # AdvEnt, Vu et al. 2019
}


def levels(view: str) -> dict[str, Level]:
    """Every level by name; `view` is what discriminators of logits read, a key of `VIEWS`."""
    seen = lookup(VIEWS, view, "adversary.view")
    return {
        "aux16": Level(0, "aux16", seen),
        "aux32": Level(1, "aux32", seen),
        "output": Level(2, "logits", seen),
        "feature": Level(3, "feature", _features),
        "aux8": Level(4, "aux8", seen),
        "aux4": Level(5, "aux4", seen),
    }
