"""conv2d and its gradients against XLA's plain convolution, and against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw, value_and_pull

from rtda_jax.ops import conv
from rtda_jax.ops.conv import Geometry, conv2d, plain_conv2d

CASES = {
    # name: (x shape, features, kernel, stride, padding, dilation, groups)
    "stem": ((2, 18, 22, 3), 8, 7, 2, 3, 1, 1),
    "trunk": ((2, 9, 11, 64), 64, 3, 1, 1, 1, 1),
    "trunk_stride": ((2, 10, 12, 64), 96, 3, 2, 1, 1, 1),
    "trunk_stride_odd": ((2, 11, 13, 48), 64, 3, 2, 1, 1, 1),
    "shortcut": ((2, 10, 12, 64), 96, 1, 2, 0, 1, 1),
    "shortcut_odd": ((2, 11, 13, 40), 48, 1, 2, 0, 1, 1),
    "shallow": ((2, 17, 16, 3), 12, 3, 2, 1, 1, 1),
    "fusion": ((2, 6, 9, 160), 19, 3, 1, 1, 1, 1),
    "fusion_dilated": ((2, 9, 8, 130), 19, 3, 1, 2, 2, 1),
    "trunk_same": ((2, 10, 13, 48), 64, 3, 2, ((0, 1), (1, 1)), 1, 1),
    "fusion_same": ((2, 6, 9, 160), 19, 4, 1, ((1, 2), (1, 2)), 1, 1),
    "fusion_unpadded": ((2, 6, 7, 130), 7, 3, 1, 0, 1, 1),
    "fusion_overpadded": ((2, 6, 7, 130), 7, 3, 1, 3, 1, 1),
    "head": ((2, 8, 9, 19), 19, 1, 1, 0, 1, 1),
    "attention": ((3, 1, 1, 64), 64, 1, 1, 0, 1, 1),
    "pointwise_padded": ((2, 5, 6, 40), 40, 1, 1, 1, 1, 1),
    "discriminator": ((2, 32, 48, 19), 64, 4, 2, 1, 1, 1),
    "discriminator_deep": ((2, 32, 34, 64), 40, 4, 2, 1, 1, 1),
    "discriminator_odd": ((2, 31, 35, 40), 36, 4, 2, 1, 1, 1),
    "discriminator_last": ((2, 8, 16, 64), 1, 4, 2, 1, 1, 1),
    "small_map": ((2, 2, 4, 64), 48, 3, 1, 1, 1, 1),
    "small_map_stride": ((2, 3, 2, 64), 48, 3, 2, 1, 1, 1),
    "one_pixel": ((4, 1, 1, 40), 48, 3, 1, 1, 1, 1),
    "atrous": ((2, 9, 10, 64), 48, 3, 1, 4, 4, 1),
    "atrous_stride": ((2, 11, 10, 40), 40, 3, 2, 2, 2, 1),
    "aspp": ((2, 9, 10, 64), 48, 3, 1, 12, 12, 1),
    "depthwise": ((2, 9, 11, 16), 16, 3, 1, 1, 1, 16),
    "depthwise_stride": ((2, 10, 11, 16), 16, 3, 2, 1, 1, 16),
    "depthwise_even": ((2, 12, 15, 19), 19, 4, 2, 1, 1, 19),
    "depthwise_same": ((2, 12, 15, 16), 16, 5, 2, ((1, 2), (2, 2)), 1, 16),
    "depthwise_dilated": ((2, 12, 15, 8), 8, 3, 2, 3, 3, 8),
    "multiplier": ((2, 8, 9, 4), 8, 3, 1, 1, 1, 4),
    "groups": ((2, 8, 9, 16), 24, 3, 2, 1, 1, 4),
    "rectangle": ((2, 12, 13, 40), 36, (2, 6), (2, 3), (0, 2), 1, 1),
    "rectangle_depthwise": ((2, 12, 13, 8), 8, (3, 2), (1, 3), (2, 1), (2, 1), 8),
    "single_channel": ((2, 8, 9, 1), 1, 3, 1, 1, 1, 1),
}


def pair(value):
    return (value, value) if isinstance(value, int) else value


def build(name, dtype=jnp.float32):
    """Geometry, input, kernel and cotangent of a case, ours and the plain convolution."""
    shape, features, size, stride, padding, dilation, groups = CASES[name]
    sides = tuple(map(pair, pair(padding)))
    g = Geometry(pair(size), pair(stride), sides, pair(dilation), groups)
    x = draw(*shape)
    kernel = draw(*g.size, shape[3] // groups, features, seed=1)
    dy = draw(shape[0], *g.output(*shape[1:3]), features, seed=2)
    ours = functools.partial(
        conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    plain = functools.partial(plain_conv2d, geometry=g)
    return g, tuple(jnp.asarray(v, dtype) for v in (x, kernel, dy)), ours, plain


def assert_equal(got, expected, tolerance):
    for name, a, b in zip(("y", "dx", "dkernel"), got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_the_plain_convolutions(name):
    _, arrays, ours, plain = build(name)
    assert_equal(value_and_pull(ours, *arrays), value_and_pull(plain, *arrays), 1e-5)


@pytest.mark.parametrize("name", ["stem", "discriminator", "trunk_stride", "trunk"])
def test_one_image_at_a_time_is_equal(name, monkeypatch):
    monkeypatch.setattr(conv, "PATCH_LIMIT", 0)
    _, arrays, ours, plain = build(name)
    assert_equal(value_and_pull(ours, *arrays), value_and_pull(plain, *arrays), 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "stem",
        "trunk_stride_odd",
        "fusion",
        "discriminator_odd",
        "small_map",
        "depthwise_same",
        "trunk_same",
        "fusion_same",
        "atrous_stride",
        "depthwise_even",
        "groups",
        "rectangle",
    ],
)
def test_value_and_gradients_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    g, (x, kernel, dy), ours, _ = build(name)
    t = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).requires_grad_()
    k = torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1).requires_grad_()
    (top, bottom), (left, right) = g.padding
    padded = torch.nn.functional.pad(t, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, k, None, g.stride, 0, g.dilation, g.groups)
    y.backward(torch.from_numpy(np.array(dy)).permute(0, 3, 1, 2))
    expected = (
        y.detach().permute(0, 2, 3, 1),
        t.grad.permute(0, 2, 3, 1),
        k.grad.permute(2, 3, 1, 0),
    )
    got = value_and_pull(ours, x, kernel, dy)
    assert_equal([np.asarray(v) for v in got], [v.numpy() for v in expected], 1e-5)


@pytest.mark.parametrize("name", ["stem", "discriminator", "depthwise_stride", "fusion"])
def test_bfloat16_is_the_plain_convolution(name):
    _, arrays, ours, plain = build(name, jnp.bfloat16)
    assert_equal(value_and_pull(ours, *arrays), value_and_pull(plain, *arrays), 2e-2)


@pytest.mark.parametrize("name", ["discriminator_deep", "fusion", "trunk_stride"])
def test_under_pmap(name):
    _, (x, kernel, dy), ours, plain = build(name)
    x, dy = (v.reshape(2, 1, *v.shape[1:]) for v in (x, dy))

    def run(function, x, kernel, dy):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(dy)

    got, expected = (
        jax.pmap(functools.partial(run, f), in_axes=(0, None, 0))(x, kernel, dy)
        for f in (ours, plain)
    )
    assert_equal(got, expected, 1e-5)


def test_other_platforms_get_the_plain_convolution():
    _, (x, kernel, _), ours, plain = build("fusion")
    lowered = [
        jax.jit(f).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
        for f in (ours, plain)
    ]
    assert all("stablehlo.convolution" in text for text in lowered)
    assert "dot_general" not in lowered[0]


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_tensorflows(size, stride):
    for height, width in ((8, 9), (5, 16), (1, 2), (7, 7)):
        expected = jax.lax.padtype_to_pads(
            (height, width), (size, size), (stride, stride), padding="SAME"
        )
        assert conv.same_padding(height, width, size=size, stride=stride) == tuple(expected)


def test_mismatched_shapes_are_named():
    with pytest.raises(ValueError, match=r"groups=2"):
        conv2d(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 4)), groups=2)
    with pytest.raises(ValueError, match=r"larger than padded"):
        conv2d(jnp.zeros((1, 2, 2, 3)), jnp.zeros((5, 5, 3, 4)))
