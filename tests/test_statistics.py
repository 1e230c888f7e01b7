"""AdaBN: the average of the batches' statistics, stated in NumPy layer by layer."""

import flax.linen as nn
import helpers
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


def test_a_network_without_batch_normalisation_is_refused_before_it_is_trained():
    config = helpers.config("adabn", model__name="deeplab_vgg16")
    config.objective.update({"seg_aux16": 0.0, "seg_aux32": 0.0})
    message = r"stage adabn: .* needs a network with batch normalisation; source_only has none"
    with pytest.raises(ConfigError, match=message):
        helpers.stages(config)


def test_a_batch_of_one_image_is_refused_where_a_layer_sees_one_value_of_each():
    config = helpers.config("adabn")
    config.stage.adabn.batch_size = 1
    with pytest.raises(ConfigError, match=r"stage adabn: .*one value"):
        helpers.stages(config)


@pytest.mark.parametrize(
    "fields", [{"normalisation": "caffe_bgr"}, {"dtype": "bfloat16"}, {"model": {"name": "x"}}]
)
def test_what_the_measured_network_decides_is_not_a_field_of_the_stage(fields):
    config = helpers.config("adabn")
    config.stage.adabn.update({**fields, "batch_size": 2, "threads": 1})
    message = r"stage adabn: (normalisation|dtype|model\.name): the network of `models` decides"
    with pytest.raises(ConfigError, match=message):
        helpers.stages(config)


@pytest.fixture
def target_of_seven(monkeypatch):
    """Seven images that are told apart by their first pixel, and what was asked of the stream."""
    asked = []

    class Set:
        def __len__(self):
            return 7

        def unlabelled(self):
            return "without labels"

    def stream(dataset, *, order, **options):
        asked.append((dataset, options))
        return iter([{"image": np.full((2, 3, 3), i, np.uint8)} for i in order])

    monkeypatch.setattr(statistics, "target_set", lambda config: Set())
    monkeypatch.setattr(statistics, "eval_stream", stream)
    return asked


@pytest.mark.parametrize(("asked_for", "count"), [(0, 3), (1, 1), (3, 3), (9, 9)])
def test_batches_are_whole_epochs_of_the_target_in_an_order_of_the_seed(
    target_of_seven, asked_for, count
):
    made = helpers.config("adabn", seed=5, batch_size=2, statistics__batches=asked_for)
    made.benchmark.size, made.benchmark.resize, made.threads = (24, 40), "bicubic", 3
    random = np.random.default_rng(5)
    order = np.concatenate([random.permutation(7) for _ in range(3)])[: 2 * count]
    found, batches = statistics.target_batches(made)
    drawn = np.stack(list(batches))
    assert found == count and drawn.shape == (count, 2, 2, 3, 3)
    np.testing.assert_array_equal(drawn[..., 0, 0, 0].ravel(), order)
    options = {"size": (24, 40), "resize": "bicubic", "threads": 3}
    assert target_of_seven == [("without labels", options)]
    for process in range(2):  # each takes every second batch
        both, share = statistics.target_batches(made, process=process, processes=2)
        numbers = [batch[:, 0, 0, 0].tolist() for batch in share]
        assert both == count and numbers == order.reshape(count, 2)[process::2].tolist()


def test_fewer_images_than_a_batch_are_one_batch(target_of_seven):
    made = helpers.config("adabn", batch_size=9)
    count, batches = statistics.target_batches(made)
    assert count == 1 and [batch.shape for batch in batches] == [(9, 2, 3, 3)]


def test_numbers_of_batches_start_at_zero():
    statistics.StatisticsOptions(0)
    with pytest.raises(ConfigError, match=r"statistics\.batches must be at least 0, got -1"):
        statistics.StatisticsOptions(-1)
