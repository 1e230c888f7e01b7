"""Folded networks against whole ones, also those that our naming of layers does not reach."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, folder_fields, normalised, write_folders
from PIL import Image
from variables import plausible_variables

from rtda_jax import experiment, models
from rtda_jax.adapt.state import output_shapes
from rtda_jax.deploy import export, networks
from rtda_jax.errors import ConfigError
from rtda_jax.models import MODELS, create_model
from rtda_jax.models.fold import Unfoldable, fold, fold_or_keep
from rtda_jax.models.layers import Network
from rtda_jax.ops.norm import BatchNorm
from rtda_jax.ops.resize import upsample

FAST = ("bisenet_resnet18", "bisenet_stdc1", "bisenet_lite0")
SIZE = (64, 96)  # of images for whole networks


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
)
def test_folded_networks_give_the_same_outputs(name):
    model = create_model(name, 5)
    variables = plausible_variables(model)
    folded, lighter = fold(model, variables)
    assert not lighter.get("batch_stats")
    assert "scale" not in {path[-1].key for path, _ in jax.tree.leaves_with_path(lighter)}
    wanted = jax.eval_shape(lambda: folded.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3))))
    assert jax.tree.structure(wanted) == jax.tree.structure(lighter)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SIZE, 3)), jnp.float32)
    expected = jax.jit(model.apply)(variables, images)
    outputs = jax.jit(folded.apply)(lighter, images)
    for key, value in expected.items():
        # Whole networks as deep as Lite2 are up to 1.5e-5 of the largest value from float64.
        tolerance = 3e-5 * float(jnp.abs(value).max())
        np.testing.assert_allclose(outputs[key], value, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", FAST)
def test_what_training_leaves_is_folded_with_its_auxiliary_heads(name):
    model = create_model(name, 5)
    variables = plausible_variables(model, train=True)
    folded, lighter = fold(model, variables)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SIZE, 3)), jnp.float32)
    expected = jax.jit(model.apply)(variables, images)["logits"]
    tolerance = 1e-5 * float(jnp.abs(expected).max())
    logits = jax.jit(folded.apply)(lighter, images)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_what_is_folded_stays_as_it_is():
    model = create_model("bisenet_resnet18", 5)
    once = fold(model, plausible_variables(model))
    jax.tree.map(np.testing.assert_array_equal, fold(*once)[1], once[1])


def test_folded_networks_do_not_train():
    model = create_model("bisenet_resnet18", 5)
    folded, variables = fold(model, plausible_variables(model))
    with pytest.raises(ValueError, match="'folded' is for inference"):
        jax.eval_shape(lambda v: folded.apply(v, jnp.zeros((1, *SIZE, 3)), train=True), variables)


class Trial(Network):
    """A network whose layers are called and arranged in other ways than ours."""

    arrangement: str = "odd names"

    @nn.compact
    def __call__(self, images, *, train=False):
        arrange, norm = ARRANGEMENTS[self.arrangement], self.norm_layer()
        x = nn.Conv(6, (3, 3), strides=2, name="look", bias_init=nn.initializers.ones)(images)
        x = arrange(x, norm, train)
        logits = nn.Conv(self.num_classes, (1, 1), name="scores")(x)
        return {"logits": upsample(logits, size=images.shape[1:3]), "feature": x}


class Block(nn.Module):
    norm: type

    @nn.compact
    def __call__(self, x, train):
        return self.norm(name="squash")(nn.Conv(6, (3, 3), name="again")(x), train=train)


def unnamed(x, norm, train):
    for _ in range(2):
        x = nn.relu(norm()(nn.Conv(6, (3, 3))(x), train=train))
    return x


def of_flax(x, norm, train):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, name="squash")(x)


def of_its_own(x, norm, train):
    return BatchNorm(name="squash")(x, train=train)


def behind_an_activation(x, norm, train):
    return norm(name="squash")(nn.relu(x), train=train)


def beside_a_skip(x, norm, train):
    return x + norm(name="squash")(x, train=train)


def two_of_one(x, norm, train):
    return norm(name="other")(x, train=train) * norm(name="squash")(x, train=train)


def shared(x, norm, train):
    again = nn.Conv(6, (1, 1), name="again")
    return again(norm(name="squash")(again(x), train=train))


ARRANGEMENTS = {
    "odd names": lambda x, norm, train: nn.relu(norm(name="squash")(x, train=train)),
    "dense": lambda x, norm, train: norm(name="bn")(nn.Dense(6, name="again")(x), train=train),
    "recomputed": lambda x, norm, train: nn.remat(Block, static_argnums=2)(norm)(x, train),
    "unnormalised": lambda x, norm, train: nn.relu(x),
    "unnamed": unnamed,
    "of Flax": of_flax,
    "of its own": of_its_own,
    "behind an activation": behind_an_activation,
    "beside a skip": beside_a_skip,
    "two of one": two_of_one,
    "shared": shared,
}


@pytest.mark.parametrize("arrangement", ["odd names", "dense", "recomputed", "unnamed"])
def test_names_do_not_matter(arrangement):
    model = Trial(5, arrangement=arrangement)
    variables = plausible_variables(model)
    folded, lighter = fold(model, variables)
    assert not lighter.get("batch_stats")
    images = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SIZE, 3)), jnp.float32)
    expected = model.apply(variables, images)["logits"]
    np.testing.assert_allclose(folded.apply(lighter, images)["logits"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arrangement", "reason"),
    [
        ("of Flax", "squash does not come from Network.norm_layer"),
        ("of its own", "squash does not come from Network.norm_layer"),
        ("behind an activation", "squash does not read a convolution that nothing else reads"),
        ("beside a skip", "squash does not read a convolution that nothing else reads"),
        ("two of one", "other does not read a convolution that nothing else reads"),
        ("shared", "squash does not read a convolution that nothing else reads"),
    ],
)
def test_what_cannot_be_folded_is_evaluated_as_it_is(arrangement, reason, capsys):
    module = Trial(5, arrangement=arrangement)
    variables = plausible_variables(module)
    with pytest.raises(Unfoldable, match=reason):
        fold(module, variables)
    assert fold_or_keep(module, variables, say=print) == (module, variables)
    assert capsys.readouterr().out == f"  Trial keeps its batch normalisations: {reason}\n"


@pytest.mark.parametrize("arrangement", ["of Flax", "of its own"])
def test_a_normalisation_that_does_not_obey_the_network_is_not_trained(arrangement):
    output_shapes(Trial(5, "devices"), size=SIZE)
    with pytest.raises(ConfigError, match="Trial: the normalisation squash does not come from Net"):
        output_shapes(Trial(5, "devices", arrangement=arrangement), size=SIZE)


@pytest.mark.parametrize("arrangement", ["odd names", "behind an activation", "unnormalised"])
def test_a_trial_network_is_trained_evaluated_and_exported(arrangement, tmp_path, monkeypatch):
    def trial(num_classes, **options):
        return Trial(num_classes, arrangement=arrangement, **options)

    monkeypatch.setitem(models.MODELS, "trial", trial)
    write_folders(tmp_path)
    made = config("source_only", "folders", steps=2, batch_size=2, model__name="trial")
    made.update_from_flattened_dict(folder_fields(tmp_path))
    made.objective.seg_aux16 = made.objective.seg_aux32 = 0.0
    workdir = tmp_path / "run"
    results = experiment.run(made.lock(), workdir)
    assert results["stages"]["evaluate"]["miou"] is not None
    chosen = networks.choose(made, workdir)
    export.run(chosen, out=tmp_path / "export")
    program = jax.export.deserialize(bytearray((tmp_path / "export/model.stablehlo").read_bytes()))
    with Image.open(tmp_path / "target" / "images" / "000.png") as picture:
        image = np.asarray(picture.resize((64, 32)))
    (model,) = chosen.models
    scores = model.module.apply(model.variables, normalised(image[None]))["logits"]
    scores, classes = np.asarray(scores), np.asarray(program.call(image[None]), np.int64)
    # Another class is right only where the two tie but for rounding.
    chosen_scores = np.take_along_axis(scores, classes[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen_scores, scores.max(-1), atol=1e-4)
