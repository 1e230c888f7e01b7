"""Variables of networks with random values, without compiling anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.models import DISCRIMINATORS, create_discriminator, create_model
from rtda_jax.weights import torch_arrays


@functools.cache
def shapes_of(name, num_classes, train):
    if name in DISCRIMINATORS:
        model, images = create_discriminator(name, num_classes), jnp.zeros((1, 32, 32, num_classes))
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    model, images = create_model(name, num_classes), jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)


def random_variables(name, num_classes=4, *, train=True, seed=0):
    """Variables of a network with random values, without compiling anything."""
    generator = np.random.default_rng(seed)
    shapes = shapes_of(name, num_classes, train)
    return jax.tree.map(lambda s: generator.random(s.shape, np.float32), shapes)


def behind(prefix, name, variables):
    """The arrays whose public names begin with a prefix, by the rest of these names."""
    arrays = torch_arrays(variables, name)
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
