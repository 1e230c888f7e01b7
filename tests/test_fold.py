import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.models import MODELS, create_model
from rtda_jax.ops.fold import fold

FAST = ("bisenet_resnet18", "bisenet_stdc1", "bisenet_lite0")
SIZE = (64, 96)


def random_variables(model, seed=0, *, train=False):
    """Weights, affine parameters and statistics that a missed or wrong fold would betray."""
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if len(leaf.shape) == 4:
            spread = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return jnp.asarray(spread * rng.standard_normal(leaf.shape), jnp.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.3, 0.3)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
)
def test_folded_networks_give_the_same_outputs(name):
    model = create_model(name, 5)
    variables = random_variables(model)
    folded, lighter = fold(model, variables)
    assert not lighter.get("batch_stats")
    assert "scale" not in {path[-1].key for path, _ in jax.tree.leaves_with_path(lighter)}
    wanted = jax.eval_shape(lambda: folded.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3))))
    assert jax.tree.structure(wanted) == jax.tree.structure(lighter)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SIZE, 3)), jnp.float32)
    expected = jax.jit(model.apply)(variables, images)
    outputs = jax.jit(folded.apply)(lighter, images)
    for key, value in expected.items():
        tolerance = 1e-5 * float(jnp.abs(value).max())
        np.testing.assert_allclose(outputs[key], value, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", FAST)
def test_what_training_leaves_is_folded_with_its_auxiliary_heads(name):
    model = create_model(name, 5)
    variables = random_variables(model, train=True)
    folded, lighter = fold(model, variables)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SIZE, 3)), jnp.float32)
    expected = jax.jit(model.apply)(variables, images)["logits"]
    tolerance = 1e-5 * float(jnp.abs(expected).max())
    logits = jax.jit(folded.apply)(lighter, images)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_what_is_folded_stays_as_it_is():
    model = create_model("bisenet_resnet18", 5)
    once = fold(model, random_variables(model))
    jax.tree.map(np.testing.assert_array_equal, fold(*once)[1], once[1])


def test_a_normalisation_without_convolution_is_named():
    model = create_model("bisenet_resnet18", 5)
    variables = random_variables(model)
    del variables["params"]["backbone"]["conv1"]
    with pytest.raises(ValueError, match="backbone/bn1 follows no convolution"):
        fold(model, variables)


def test_folded_networks_do_not_train():
    folded, variables = fold(model := create_model("bisenet_resnet18", 5), random_variables(model))
    with pytest.raises(ValueError, match="'folded' is for inference"):
        jax.eval_shape(lambda v: folded.apply(v, jnp.zeros((1, *SIZE, 3)), train=True), variables)
