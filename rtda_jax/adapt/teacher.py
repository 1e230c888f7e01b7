"""The teacher: a second set of weights that labels target images, and how it follows the student.

A teacher is {"params", "batch_stats"}: an average over parameters alone would leave it with running
statistics of other weights. Without one it is the empty dict, which no checkpoint stores.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Follow = Callable[[Any, Any, jax.Array], Any]


def stay(teacher: Any, student: Any, step: jax.Array) -> Any:
    """A teacher that does not move: frozen, or none at all."""
    del student, step
    return teacher


def average(*, decay: float) -> Follow:
    """The exponential moving average, decay min(1 - 1/(t+1), decay) at step t = 0, 1, ... (DACS).

    Raises:
      ValueError: a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"teacher.decay must lie in [0, 1), got {decay:g}")

    def follow(teacher: Any, student: Any, step: jax.Array) -> Any:
        kept = jnp.minimum(1 - 1 / (step + 1), decay).astype(jnp.float32)
        return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, teacher, student)

    return follow
