"""AdaBN: the average of the batches' statistics, stated in NumPy layer by layer."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.augment.normalise import normalise
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Model
from rtda_jax.models.layers import batch_norm_layer
from rtda_jax.stages import statistics


class TwoNorms(nn.Module):
    batch_norm: str = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train):
        norm = batch_norm_layer(self.batch_norm, axis_name=self.axis_name, dtype=jnp.float32)
        x = norm(name="first")(x, train=train)
        return {"logits": norm(name="second")(jnp.square(x), train=train)}


class NoNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return {"logits": nn.Dense(2)(x)}


def images(number):
    return np.random.default_rng(number).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)


@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
def test_every_layer_holds_the_mean_of_the_batches_statistics(batch_norm):
    variables = {
        "params": {
            "first": {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, -1.0, 1.0])},
            "second": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        },
        "batch_stats": {
            name: {"mean": jnp.full(3, 7.0), "var": jnp.full(3, 9.0)}
            for name in ("first", "second")
        },
    }
    model = Model(TwoNorms(batch_norm), variables, "imagenet")
    found = statistics.measure(model, (images(n) for n in range(4)))
    expected = {name: {"mean": 0, "var": 0} for name in ("first", "second")}
    for n in range(4):
        x = np.asarray(normalise(jnp.float32(images(n)), name="imagenet"), np.float64)
        x = x.reshape(-1, 3)
        for name in ("first", "second"):
            expected[name]["mean"] += x.mean(0) / 4
            expected[name]["var"] += x.var(0, ddof=1) / 4
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            scale, bias = (np.asarray(variables["params"][name][k]) for k in ("scale", "bias"))
            x = (x * scale + bias) ** 2
    for name in expected:
        for kind in ("mean", "var"):
            np.testing.assert_allclose(
                found[name][kind], expected[name][kind], rtol=1e-4, atol=1e-5
            )


def test_a_network_without_batch_normalisation_is_refused():
    with pytest.raises(ConfigError, match="needs a network with batch normalisation"):
        statistics.measure(Model(NoNorm(), {"params": {}}, "imagenet"), [images(0)])
