"""The ONNX converter: every rule and every network in onnxruntime against JAX."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from variables import plausible_variables

from rtda_jax import evaluate
from rtda_jax.deploy import export
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Model
from rtda_jax.models import MODELS, create_model
from rtda_jax.models.bisenet_v1 import double
from rtda_jax.models.fold import fold
from rtda_jax.ops.activations import argmax, leaky_relu
from rtda_jax.ops.conv import conv2d
from rtda_jax.ops.pool import max_pool
from rtda_jax.ops.resize import upsample

onnx = pytest.importorskip("rtda_jax.deploy.onnx")
pytest.importorskip("onnxruntime")

SIZE = (64, 96)
FAST = ("bisenet_resnet18", "bisenet_tufl")  # others are compared at an odd size, see below


def operators(model):
    return [node.op_type for node in model.graph.node]


def check(function, x, *, like=None, atol=1e-5):
    """Compares with JAX for a free and a fixed batch; returns the model of the free one."""
    (batch,) = jax.export.symbolic_shape("b")
    models = []
    for count in (batch, x.shape[0]):
        model = onnx.convert(function, jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype))
        expected = np.asarray(function(x))
        result = onnx.runner(model)(x)
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, atol=atol, rtol=1e-5)
        models.append(model)
    return models[0]


KERNEL, DEPTHWISE = draw(3, 3, 4, 5, seed=1), draw(3, 3, 1, 4, seed=2)
FUNCTIONS = {
    "arithmetic": lambda x: (2 - x) * x / 3 + jnp.exp(-x) - jnp.abs(x) ** 2 - jnp.square(x),
    "roots": lambda x: lax.rsqrt(jnp.abs(x) + 1) + jnp.sqrt(jnp.abs(x)) + jnp.log(x * x + 1),
    "activations": lambda x: nn.sigmoid(x) + nn.relu6(4 * x) + jnp.tanh(x) + nn.gelu(x),
    "leaky_relu": lambda x: leaky_relu(x, 0.01),
    "comparisons": lambda x: jnp.where((x > 0) & (x <= 1) | ~(x >= -1), x, x[..., :1]),
    "not_equal": lambda x: jnp.where(jnp.abs(x) != x, 1.0, x),
    "clamp": lambda x: lax.clamp(-0.5, x, 0.25) + jnp.minimum(x, 0.1) + jnp.maximum(x, 0.3),
    "cast": lambda x: (100 * jnp.abs(x)).astype(jnp.int32).astype(jnp.uint8),
    "softmax": lambda x: jax.nn.softmax(x, axis=-1),
    "mean": lambda x: x - x.mean((1, 2), keepdims=True) + x.max((1, 2), keepdims=True),
    "least": lambda x: x.min(-1),
    "named": lambda x: checkpoint_name(x, "x") + 1,
    "reverse": lambda x: lax.rev(x, (3,)) + lax.rev(x, (1, 2)),
    "transpose": lambda x: x.transpose(0, 2, 1, 3) + 1,
    "reshape": lambda x: x.reshape(x.shape[0], 2, 3, 8, 4).sum(2),
    "squeeze": lambda x: x[:, :1].squeeze(1) + x.mean((1, 2))[:, None, :],
    "slice": lambda x: x[:, 1:6:2, 2:, 1:3],
    "row": lambda x: x * x[:, :, 3, 1][..., None, None] + x[:, 2][:, None],
    "choice": lambda x: x[:, ::-2] + jnp.take(x, np.array([5, 0, 2]), axis=1),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)), constant_values=2.0),
    "crop": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (3, -2, 0), (0, 0, 0))),
    "concatenate": lambda x: jnp.concatenate([x, x.mean((1, 2), keepdims=True) + 0 * x], -1),
    "repeat": lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)], 1
    ),
    "stack": lambda x: jnp.stack([x, 2 * x, x**3]).mean(0) + jnp.stack([x, x], 2).sum(2),
    "product": lambda x: x @ KERNEL[0, 0] + 1,
    "convolution": lambda x: conv2d(x, KERNEL, stride=2, padding=1),
    "asymmetric": lambda x: lax.conv_general_dilated(
        x, KERNEL, (2, 1), ((0, 1), (2, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "dilated": lambda x: conv2d(x, KERNEL, padding=2, dilation=2),
    "depthwise": lambda x: conv2d(x, DEPTHWISE, padding=1, groups=4),
    "pointwise": lambda x: conv2d(x, KERNEL[:1, :1], stride=2),
    "max_pool": lambda x: max_pool(x, window=3, stride=2, padding=1),
    "max_pool_ceil": lambda x: max_pool(x, window=3, stride=2, padding=1, ceil_mode=True),
    "avg_pool": lambda x: nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "resize": lambda x: upsample(x, size=(11, 29)),
    "shrink": lambda x: upsample(x, size=(4, 5)),
    "eightfold": lambda x: upsample(x, size=(48, 64)),
    "corners": lambda x: upsample(x, size=(47, 63), align="corners"),
    "double": lambda x: double(x, size=(11, 16)),
    "argmax": argmax,
    "argmax_of_rows": lambda x: jnp.argmax(x, axis=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_gives_what_jax_gives(name):
    check(FUNCTIONS[name], draw(2, 6, 8, 4))


def test_a_chain_of_convolutions_needs_no_transpose_in_between():
    def function(x):
        y = jnp.maximum(conv2d(x, KERNEL[..., :4], padding=1) + draw(1, 1, 1, 4), 0)
        z = conv2d(y, DEPTHWISE, padding=1, groups=4)
        return upsample(y + z * z.mean((1, 2), keepdims=True), size=(12, 16))

    model = check(function, draw(2, 6, 8, 4))
    assert operators(model).count("Transpose") == 2  # into NCHW and out of it


def test_constants_added_to_a_convolution_become_its_bias():
    def function(x):
        return conv2d(x, KERNEL, padding=1) + draw(1, 1, 1, 5) + draw(1, 1, 1, 5, seed=3)

    assert "Add" not in operators(check(function, draw(2, 6, 8, 4)))

    def read_twice(x):
        y = conv2d(x, KERNEL, padding=1)
        return y * (y + draw(1, 1, 1, 5))

    check(read_twice, draw(2, 6, 8, 4))


def test_rectifiers_are_the_operators_that_runtimes_fuse():
    x = draw(2, 6, 8, 4)
    assert "LeakyRelu" in operators(check(FUNCTIONS["leaky_relu"], x))
    assert operators(check(nn.relu6, 4 * x)) == ["Clip", "Identity"]
    # Where looks alike but is another function.
    check(lambda x: jnp.where(x > 0.5, x, 0.1 * x), x)
    check(lambda x: jnp.where(x > 0, x, 0.1 * lax.rev(x, (1,))), x)


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (lambda x: jnp.sort(x, axis=1), "'sort'"),
        (lambda x: jnp.cumsum(x, axis=1), "'cumsum'"),
        (lambda x: lax.conv_transpose(x, KERNEL[..., :4], (2, 2), "SAME"), "conv_general_dilated"),
        (lambda x: lax.conv(x, x[:, :, :3, :3], (1, 1), "SAME"), "computed kernel"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general"),
    ],
)
def test_what_no_rule_translates_is_refused_by_its_primitive(function, primitive):
    with pytest.raises(ConfigError, match=f"ONNX.*{primitive}"):
        onnx.convert(function, jax.ShapeDtypeStruct((2, 4, 8, 4), jnp.float32))


def test_what_is_refused_is_placed_in_its_module():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jax.image.resize(x, (2, 8, 16, 4), "bilinear")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Head(name="up")(x)

    with pytest.raises(ConfigError, match=r"dot_general of .*\n  in Net/up/_resize$"):
        onnx.convert(lambda x: Net().apply({}, x), jax.ShapeDtypeStruct((2, 4, 8, 4), jnp.float32))


def models(*names, normalisation):
    for seed, name in enumerate(names):
        module = create_model(name)
        yield Model(*fold(module, plausible_variables(module, seed)), normalisation)


def compare(*names, normalisation, batches=(1, 4), size=SIZE):
    """Compares classes; one may differ only where two classes tie but for rounding."""
    networks = list(models(*names, normalisation=normalisation))
    variables = [network.variables for network in networks]
    segment = export.segmenter(networks, size=size, protocol=evaluate.Protocol())
    (batch,) = jax.export.symbolic_shape("b")
    model = onnx.convert(segment, jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8))
    run = onnx.runner(model)
    for count in batches:
        images = np.random.default_rng(count).integers(0, 256, (count, 9, 13, 3), np.uint8)
        images = images.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]]
        classes, expected = run(images), np.asarray(segment(images))
        assert classes.dtype == np.uint8
        assert len(np.unique(classes)) > 1
        other = np.nonzero(classes != expected)
        assert len(other[0]) <= 1e-4 * classes.size
        if len(other[0]):
            scores = np.asarray(
                jax.jit(partial(evaluate.class_scores, networks))(variables, images)
            )
            gap = scores[(*other, expected[other])] - scores[(*other, classes[other])]
            assert np.abs(gap).max() <= 1e-5 * np.abs(scores).max()
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
)
@pytest.mark.parametrize(
    "normalisation", ["imagenet", pytest.param("caffe_bgr", marks=pytest.mark.slow)]
)
def test_every_network_decides_every_pixel_alike(name, normalisation):
    model = compare(name, normalisation=normalisation)
    assert operators(model).count("Transpose") <= 1


@pytest.mark.parametrize(
    "name",
    ["bisenet_lite0", "bisenet_stdc1", pytest.param("deeplab_vgg16", marks=pytest.mark.slow)],
)
def test_a_size_that_is_no_multiple_of_the_stride_is_cropped_alike(name):
    compare(name, normalisation="imagenet", batches=(2,), size=(67, 99))


@pytest.mark.parametrize("normalisation", ["caffe_bgr", "cityscapes_bgr"])
def test_bgr_is_part_of_the_model(normalisation):
    compare("bisenet_resnet18", normalisation=normalisation, batches=(1,))


def test_a_fusion_of_two_networks_decides_by_the_mean_softmax():
    compare("bisenet_resnet18", "bisenet_stdc1", normalisation="caffe_bgr")
