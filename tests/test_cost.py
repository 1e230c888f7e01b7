import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from rtda_jax.models import DISCRIMINATORS, MODELS
from rtda_jax.tools import cost
from rtda_jax.tools.cost import CONVENTIONS, cost_table, discriminator_cost, model_cost, summary


def test_discriminators_cost_what_the_papers_print():
    brunstein, bartoletti = CONVENTIONS["brunstein"], CONVENTIONS["bartoletti"]
    full, light = discriminator_cost("fcd"), discriminator_cost("fcd_light")
    assert full.macs == 15_439_233_024
    assert brunstein(full) == 30_878_466_048
    assert light.macs == 1_067_712_512
    assert brunstein(light) == 2_135_425_024
    assert bartoletti(discriminator_cost("fcd", output_stride=1)) == 30_952_915_968
    assert (
        bartoletti(discriminator_cost("fcd_light", use_bias=False, output_stride=1))
        == 2_178_416_640
    )


def test_elements_of_the_second_convention():
    rows = discriminator_cost("fcd", output_stride=1).rows
    assert sum(r.bias_adds for r in rows) == 15_729_152
    assert sum(r.leaky_relus for r in rows) == 15_728_640
    assert sum(r.upsampled for r in rows) == 524_288


def test_the_portrait_input_of_brunstein_costs_the_same():
    assert discriminator_cost("fcd", size=(1024, 512)).macs == 15_439_233_024


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("bisenet_resnet18", 25_632_244_434),
        pytest.param("bisenet_resnet101", 91_410_137_810, marks=pytest.mark.slow),
    ],
)
def test_bisenet_macs(name, published):
    # The original classifies at full resolution; the commuted classifier here works at 1/8.
    moved = 19 * 19 * (512 * 1024 - 64 * 128)
    assert model_cost(name).macs == published - moved


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("bisenet_resnet18", 12_581_672),
        ("bisenet_mpg_resnet18", 12_639_246),
        ("bisenet_stdc1", 11_550_496),
        ("bisenet_stdc2", 16_079_392),
        pytest.param("bisenet_resnet101", 50_801_192, marks=pytest.mark.slow),
        pytest.param("bisenet_mpg_resnet101", 51_277_134, marks=pytest.mark.slow),
    ],
)
def test_pytorch_totals(name, total):
    assert model_cost(name, size=(64, 64)).pytorch_parameters == total


def test_a_convolution_by_hand():
    (row,) = [r for r in model_cost("bisenet_resnet18").rows if r.path == "backbone.conv1"]
    assert row.output == (256, 512, 64)
    assert row.macs == 256 * 512 * 64 * 7 * 7 * 3
    (row,) = [r for r in discriminator_cost("fcd_light").rows if r.path == "conv2_depthwise"]
    assert row.macs == 128 * 256 * 64 * 4 * 4


@pytest.mark.parametrize(
    "name",
    [
        *DISCRIMINATORS,
        *(pytest.param(n, marks=() if n == "bisenet_stdc1" else pytest.mark.slow) for n in MODELS),
    ],
)
def test_every_network_has_a_summary(name):
    lines = [line.split() for line in summary(name, size=(64, 128)).splitlines()]
    rows, last = lines[1:-1], lines[-1]
    parameters = [row[2] if "x" in row[1] else row[1] for row in rows]
    total = sum(int(count.replace(",", "")) for count in parameters)
    assert last[:2] == [f"{name}:", f"{total:,}"]
    macs = sum(int(row[3].replace(",", "")) for row in rows if "x" in row[1])
    assert f"{macs:,} MACs on 64x128" in " ".join(last)


def test_summary():
    lines = [line.split() for line in summary("bisenet_resnet18", depth=1).splitlines()]
    assert ["backbone", "16x32x512", "11,176,512", "18,949,865,472"] in lines
    assert ["aux16", "4,883"] in lines
    assert lines[-1][:2] == ["bisenet_resnet18:", "12,068,672"]
    with pytest.raises(
        ValueError, match=r"unknown network 'x'; known: bisenet_coincheung.*fcd_light"
    ):
        summary("x")


@pytest.mark.slow
def test_table():
    rows = [line.split(" | ") for line in cost_table().splitlines()]
    (full,) = [row for row in rows if row[0] == "| fcd"]
    assert full[1] == "2,781,121"
    assert full[5] == "30,878,466,048"


class Plain(nn.Module):
    """A network of Flax's own layers."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(8, (3, 5), strides=2)(images)
        x = nn.Conv(8, (3, 3), feature_group_count=4, use_bias=False)(x)
        x = nn.ConvTranspose(8, (4, 2), strides=(2, 1))(x)[:, ::2]
        return nn.Dense(5)(nn.relu(nn.GroupNorm(2)(x)))


def test_layers_of_flax_are_counted():
    images = jax.ShapeDtypeStruct((1, 16, 32, 3), jnp.float32)
    variables = jax.eval_shape(Plain().init, jax.random.key(0), images)
    rows = cost._rows(Plain(), variables, images)
    pixels = 8 * 16
    assert [row.macs for row in rows] == [
        *(pixels * 8 * 15 * 3, pixels * 8 * 9 * 2),
        pixels * 8 * 8 * 8,  # every value of the input goes to 4 x 2 places of 8 channels
        pixels * 5 * 8,
    ]
    assert [row.bias_adds for row in rows] == [pixels * 8, 0, 2 * pixels * 8, pixels * 5]
