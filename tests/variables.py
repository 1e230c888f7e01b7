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


def plausible_variables(model, seed=0, *, train=False):
    """Weights, affine parameters and statistics that a missed or wrong fold would betray."""
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if len(leaf.shape) == 4:
            spread = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return jnp.asarray(spread * rng.standard_normal(leaf.shape), jnp.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.3, 0.3)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def behind(prefix, name, variables):
    """The arrays whose public names begin with a prefix, by the rest of these names."""
    arrays = torch_arrays(variables, name)
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
