import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.models import create_discriminator
from rtda_jax.tools.cost import discriminator_cost
from rtda_jax.weights import load_pretrained


@pytest.mark.parametrize(
    ("name", "channels", "options", "expected"),
    [
        ("fcd", 19, {}, 2_781_121),
        ("fcd", 16, {}, 2_778_049),
        ("fcd", 13, {}, 2_774_977),
        ("fcd", 11, {}, 2_772_929),
        ("fcd_light", 19, {}, 191_364),
        ("fcd_light", 19, {"use_bias": False}, 189_424),
    ],
)
def test_parameters(name, channels, options, expected):
    counted = discriminator_cost(name, in_channels=channels, size=(64, 64), **options)
    assert counted.training_parameters == expected


def test_parameters_by_layer():
    full = discriminator_cost("fcd", size=(64, 64)).modules
    assert list(full.values()) == [8_193, 19_520, 131_200, 524_544, 2_097_664]
    light = discriminator_cost("fcd_light", size=(64, 64)).modules
    assert light["conv1_depthwise"] == 323
    assert light["conv1_pointwise"] == 1_280
    assert light["conv4_depthwise"] == 4_352
    assert light["conv4_pointwise"] == 131_584
    assert light["classifier_depthwise"] == 8_704
    assert light["classifier_pointwise"] == 513


@pytest.mark.parametrize(("stride", "shape"), [(32, (2, 3, 4, 1)), (1, (2, 96, 128, 1))])
def test_output_shape_and_dtype(stride, shape):
    model = create_discriminator("fcd_light", 5, output_stride=stride, dtype=jnp.bfloat16)
    maps = jnp.zeros((2, 96, 128, 5))
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), maps)
    assert logits.shape == shape
    assert logits.dtype == jnp.float32


def test_initial_values_are_pytorchs():
    model = create_discriminator("fcd")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 19)))["params"]
    for name, fan_in in (("conv1", 19 * 16), ("conv4", 256 * 16)):
        for leaf in ("kernel", "bias"):
            extreme = np.abs(params[name][leaf]).max()
            assert 0.9 * fan_in**-0.5 < extreme <= fan_in**-0.5


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"unknown discriminator 'patch'; known: fcd, fcd_light"):
        create_discriminator("patch")
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"expects \[B,H,W,19\]"):
        create_discriminator("fcd").init(key, jnp.zeros((1, 64, 64, 13)))
    with pytest.raises(ValueError, match=r"smallest image is 32x32, got 31x64"):
        create_discriminator("fcd").init(key, jnp.zeros((1, 31, 64, 19)))
    with pytest.raises(ValueError, match="output_stride must be 1 or 32, got 8"):
        create_discriminator("fcd", output_stride=8).init(key, jnp.zeros((1, 32, 32, 19)))


def brunsteins(name):
    """conv1_depthwise.weight is conv1_1.weight in his code, conv1_pointwise.weight conv1_2."""
    return name.replace("_depthwise", "_1").replace("_pointwise", "_2")


def bartolettis(name):
    """conv1_depthwise.weight is depthwise1.weight in his code; the classifier has the number c."""
    return re.sub(r"(?:conv(\d)|(c)lassifier)_(\w+)", r"\3\1\2", name)


@pytest.mark.parametrize(
    ("name", "published", "options"),
    [
        ("fcd", str, {}),
        ("fcd", str, {"output_stride": 1}),
        ("fcd_light", brunsteins, {}),
        ("fcd_light", bartolettis, {"use_bias": False, "output_stride": 1}),
    ],
)
def test_equals_pytorch(name, published, options, tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_twins import DISCRIMINATORS

    torch.manual_seed(0)
    reference = DISCRIMINATORS[name](5)
    if not options.get("use_bias", True):
        for module in reference.children():
            module.bias = None
    weights = {published(key): value for key, value in reference.state_dict().items()}
    torch.save(weights, tmp_path / "d.pth")
    x = np.random.default_rng(0).normal(size=(2, 70, 101, 5)).astype(np.float32)
    model = create_discriminator(name, 5, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    variables, report = load_pretrained(tmp_path / "d.pth", name, variables, part="all")
    assert report.missing == () == report.unused
    xt = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).requires_grad_()
    expected = reference(xt)
    if "output_stride" in options:
        expected = torch.nn.functional.interpolate(expected, scale_factor=32, mode="bilinear")
    expected.square().mean().backward()

    @jax.jit
    def run(x):
        loss = lambda x: jnp.mean(model.apply(variables, x) ** 2)  # noqa: E731
        return model.apply(variables, x), jax.grad(loss)(x)

    logits, gradient = run(x)
    np.testing.assert_allclose(
        logits, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5
    )
    want = xt.grad.numpy().transpose(0, 2, 3, 1)
    assert np.linalg.norm(gradient - want) <= 1e-3 * np.linalg.norm(want)
