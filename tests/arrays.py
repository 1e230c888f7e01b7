"""Arrays for the tests of operations, and the gradients of these."""

import jax
import numpy as np


def draw(*shape, seed=0):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_and_pull(function, *arrays):
    """Value of a function of all arrays but the last, and the last pulled back to each of them.

    Both are of one compilation.
    """
    *operands, dy = arrays

    def run(dy, *operands):
        y, pull = jax.vjp(function, *operands)
        return y, *pull(dy)

    return jax.jit(run)(dy, *operands)
