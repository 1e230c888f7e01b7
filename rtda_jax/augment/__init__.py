"""Pixel operations on the device: colours, textures, geometry, class mixing.

All of them draw separately for each image, with keys from `image_keys`.
"""

from collections.abc import Mapping

import jax

# A batch on the device. `data.stream.Batch` lists the keys that come from the host, and
# `adapt/views.py` those that the step adds.
Batch = Mapping[str, jax.Array]


def image_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns a key for each image, [B], which does not depend on the batch or the device.

    Args:
      key: the random key of this step.
      index: int32 [B], the number of each image in its data set.
    """
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
