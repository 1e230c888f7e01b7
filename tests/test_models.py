import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.models import MODELS, create_model, trainable
from rtda_jax.models.bisenet_v1 import double
from rtda_jax.tools.cost import model_cost

FAST = ("bisenet_resnet18", "bisenet_lite0")

# The numbers of parameters in the published code, for 19 classes: all that are used, those of
# inference, and those of each module.
COUNTS = {
    "bisenet_resnet18": (
        12_068_672,
        12_054_042,
        {
            "spatial": 371_264,
            "backbone": 11_176_512,
            "arm16": 66_304,
            "arm32": 263_680,
            "aux16": 4_883,
            "aux32": 9_747,
            "ffm": 175_902,
            "ffm.convblock": 175_142,
            "classifier": 380,
        },
    ),
    "bisenet_resnet101": (
        48_752_192,
        48_693_786,
        {
            "spatial": 371_264,
            "backbone": 42_500_160,
            "arm16": 1_051_648,
            "arm32": 4_200_448,
            "aux16": 19_475,
            "aux32": 38_931,
            "ffm": 569_886,
            "ffm.convblock": 569_126,
            "classifier": 380,
        },
    ),
    "bisenet_mpg_resnet18": (12_126_246, None, {}),
    "bisenet_mpg_resnet101": (
        49_228_134,
        None,
        {
            "arm4": 66_304,
            "arm8": 263_680,
            "arm16": 1_051_648,
            "arm32": 4_200_448,
            "aux4": 4_883,
            "aux8": 9_747,
            "aux16": 19_475,
            "aux32": 38_931,
            "ffm": 701_214,
            "classifier": 380,
        },
    ),
    "bisenet_stdc1": (
        8_425_248,
        8_275_104,
        {
            "backbone": 5_318_304,
            "backbone.features_0": 928,
            "backbone.features_1": 18_560,
            "backbone.features_2": 111_488,
            "backbone.features_3": 134_656,
            "backbone.features_4": 474_880,
            "backbone.features_5": 537_600,
            "backbone.features_6": 1_891_840,
            "backbone.features_7": 2_148_352,
            "ffm": 131_584,
            "head": 595_200,
            "context.arm16": 606_720,
            "context.arm32": 1_196_544,
            "context.conv_head32": 147_712,
            "context.conv_head16": 147_712,
            "context.conv_avg": 131_328,
            "aux16": 75_072,
            "aux32": 75_072,
        },
    ),
    "bisenet_stdc2": (12_455_712, None, {}),
    "bisenet_tufl": (
        13_392_384,
        13_242_240,
        {
            "backbone": 11_176_512,
            "context.arm16": 311_808,
            "context.arm32": 606_720,
            "context.conv_head32": 147_712,
            "context.conv_head16": 147_712,
            "context.conv_avg": 65_792,
            "spatial": 91_968,
            "ffm": 98_816,
            "head": 595_200,
            "aux16": 75_072,
            "aux32": 75_072,
        },
    ),
    "bisenet_coincheung": (13_425_721, None, {"ffm": 132_096}),
    "bisenet_lite0": (
        4_157_241,
        4_007_059,
        {
            "backbone": 2_958_848,
            "context.arm16": 128 * 9 * 112 + 128 * 128 + 4 * 128,
            "context.arm32": 128 * 9 * 320 + 128 * 128 + 4 * 128,
            "ffm": 128 * (128 + 40) + 2 * 128 + 2 * 128 * 32,
            "head": 9 * 128 * 128 + 2 * 128 + 128 * 19 + 19,
            "aux16": 75_091,
            "aux32": 75_091,
        },
    ),
    "bisenet_lite1": (4_921_913, 4_771_731, {"backbone": 3_723_520}),
    "bisenet_lite2": (5_607_545, 5_457_363, {"backbone": 4_357_952}),
    "deeplab_resnet101": (43_901_068, 43_901_068, {}),
    "deeplab_resnet101_multi": (
        44_601_560,
        43_901_068,
        {"aux16": 700_492, "classifier": 1_400_908},
    ),
    "deeplab_vgg16": (29_573_004, 29_573_004, {"backbone": 28_872_512, "classifier": 700_492}),
}
cost = functools.cache(model_cost)


def test_every_network_is_counted():
    assert set(COUNTS) == set(MODELS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name):
    training, inference, modules = COUNTS[name]
    counted = cost(name, size=(64, 128))
    assert counted.training_parameters == training
    assert inference is None or counted.inference_parameters == inference
    for module, expected in modules.items():
        layers = [n for p, n in counted.modules.items() if f"{p}.".startswith(f"{module}.")]
        assert sum(layers) == expected, module


@pytest.mark.parametrize(
    ("name", "classes", "training", "inference"),
    [
        ("bisenet_resnet18", 13, 12_521_150 - 513_000, None),
        ("bisenet_resnet18", 16, 12_551_384 - 513_000, None),
        ("bisenet_resnet18", 32, 12_713_544 - 513_000, None),
        ("bisenet_stdc1", 16, 11_549_344 - 3_125_248, None),
        ("bisenet_stdc1", 13, 11_548_192 - 3_125_248, None),
        ("bisenet_tufl", 13, 13_390_080, 13_240_704),
        ("bisenet_tufl", 16, 13_391_232, 13_241_472),
    ],
)
def test_parameters_with_other_classes(name, classes, training, inference):
    counted = cost(name, num_classes=classes, size=(64, 128))
    assert counted.training_parameters == training
    assert inference in (None, counted.inference_parameters)


def test_detail_head_adds_its_parameters_in_training_only():
    counted = cost("bisenet_stdc1", size=(64, 128), detail_head=True)
    assert counted.training_parameters == 8_425_248 + 147_648
    assert counted.inference_parameters == 8_275_104


def variables_of(model, *, train=True, size=(64, 128)):
    images = jnp.zeros((2, *size, 3))
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)


AUX = {
    "bisenet_resnet18": {"aux16", "aux32"},
    "bisenet_mpg_resnet18": {"aux4", "aux8", "aux16", "aux32"},
    "bisenet_stdc1": {"aux16", "aux32", "detail"},
    "bisenet_coincheung": {"aux16", "aux32"},
    "bisenet_lite0": {"aux16", "aux32"},
    "deeplab_resnet101_multi": {"aux16"},
    "deeplab_vgg16": set(),
}
FEATURE = {
    "bisenet_resnet18": (9, 17, 5),
    "bisenet_mpg_resnet18": (9, 17, 5),
    "bisenet_stdc1": (9, 17, 256),
    "bisenet_coincheung": (9, 17, 256),
    "bisenet_lite0": (9, 17, 128),
    "deeplab_resnet101_multi": (9, 17, 2048),
    "deeplab_vgg16": (8, 16, 1024),
}


@pytest.mark.parametrize("name", AUX)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_outputs(name, dtype):
    options = {"detail_head": True} if name == "bisenet_stdc1" else {}
    model = create_model(name, 5, dtype=dtype, **options)
    variables = variables_of(model)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    images = jax.ShapeDtypeStruct((2, 65, 131, 3), jnp.float32)
    train, new = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images
    )
    infer = jax.eval_shape(model.apply, variables, images)
    coarse = {"coarse"} if name.startswith("deeplab") else set()
    assert set(infer) == {"logits", "feature", *coarse}
    assert set(train) == set(infer) | AUX[name]
    assert jax.tree.structure(new.get("batch_stats", {})) == jax.tree.structure(
        variables.get("batch_stats", {})
    )
    for key, value in train.items():
        assert value.dtype == jnp.float32
        if key in ("feature", "coarse"):
            side = FEATURE[name] if key == "feature" else (*FEATURE[name][:2], 5)
            assert value.shape == (2, *side)
        else:
            assert value.shape == (2, 65, 131, 1 if key == "detail" else 5)


@pytest.mark.parametrize("name", MODELS)
def test_inference_variables_are_the_subset_of_training_ones(name):
    full = variables_of(create_model(name, 3))
    part = variables_of(create_model(name, 3), train=False)
    heads = set(full["params"]) - set(part["params"])
    assert all(head.startswith("aux") for head in heads)
    for collection, modules in part.items():
        for module, tree in modules.items():
            assert tree == full[collection][module]


@functools.cache
def initialised(name, **options):
    model = create_model(name, 5, **options)
    images = jnp.zeros((2, 32, 32, 3))
    return jax.jit(lambda key: model.init(key, images, train=True))(jax.random.key(0))


def test_initial_values():
    params = initialised("bisenet_resnet18")["params"]
    kernel = params["ffm"]["convblock"]["conv"]["kernel"]
    assert np.std(kernel) == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.02)
    kernel = params["backbone"]["layer3_0"]["conv1"]["kernel"]
    assert np.std(kernel) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    bias = params["arm32"]["conv"]["bias"]
    assert 0.9 * 512**-0.5 < np.abs(bias).max() <= 512**-0.5


def batch_norm_affine(path):
    return any("bn" in key for key in path[:-1])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
)
def test_one_step_moves_what_it_should(name):
    options = {"aspp": "first_two"} if name.startswith("deeplab") else {}
    model = create_model(name, 5, **options)
    images = jax.random.normal(jax.random.key(1), (4, 64, 128, 3))
    labels = jax.random.randint(jax.random.key(2), (4, 64, 128), 0, 5)
    variables = initialised(name, **options)

    def loss(params):
        out, new = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        onehot = jax.nn.one_hot(labels, 5)
        heads = [v for v in out.values() if v.shape == onehot.shape]  # not DeepLab's coarse logits
        return -sum(jnp.mean(jnp.sum(onehot * jax.nn.log_softmax(v), -1)) for v in heads), new

    @jax.jit
    def step(params):
        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        trains = trainable(model, params)
        updates = jax.tree.map(lambda g, t: g if t else jnp.zeros_like(g), gradients, trains)
        return value, new, updates, jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)

    value, new, updates, params = step(variables["params"])
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, new)))
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        keys = [k.key for k in path]
        frozen = name.startswith("deeplab_resnet") and batch_norm_affine(keys)
        frozen |= "dilation18" in keys or "dilation24" in keys
        # A bias in front of a normalisation has no effect: its gradient is rounding noise.
        if keys[-2:] == ["conv", "bias"] and keys[0].startswith("arm"):
            continue
        assert np.any(update != 0) != frozen, keys
    for path, mean in jax.tree_util.tree_leaves_with_path(new):
        assert np.any(mean != (path[-1].key == "var")), path


def test_trainable():
    for name, expected in (
        ("deeplab_resnet101_multi", 44_496_216),
        ("deeplab_vgg16", 29_573_004),
        ("bisenet_resnet18", 12_068_672),
    ):
        model = create_model(name)
        params = variables_of(model)["params"]
        trains = trainable(model, params)
        counts = jax.tree.map(lambda p, t: int(np.prod(p.shape)) * t, params, trains)
        assert sum(jax.tree.leaves(counts)) == expected
    params = variables_of(model := create_model("deeplab_vgg16", aspp="first_two"))["params"]
    trains = trainable(model, params)["classifier"]
    assert {k for k, v in trains.items() if v["kernel"]} == {"dilation6", "dilation12"}


def test_frozen_batch_norm_keeps_its_statistics():
    model = create_model("bisenet_resnet18", 5, batch_norm="frozen")
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = initialised("bisenet_resnet18")
    run = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))
    outputs, new = run(variables)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
    expected = jax.jit(model.apply)(variables, images)["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    # With the same statistics, inference gives the same auxiliary logits if it is asked for them.
    always = create_model("bisenet_resnet18", 5, auxiliary="always")
    found = jax.jit(always.apply)(variables, images)
    assert set(found) == {"logits", "feature", "aux16", "aux32"}
    for head in found:
        np.testing.assert_allclose(found[head], outputs[head], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "heads"),
    [("bisenet_stdc1", {"aux16", "aux32"}), ("deeplab_resnet101_multi", {"aux16"}),
     ("bisenet_mpg_resnet18", {"aux4", "aux8", "aux16", "aux32"}), ("deeplab_vgg16", set())],
)  # fmt: skip
def test_auxiliary_logits_at_inference(name, heads):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = variables_of(create_model(name))
    for auxiliary, expected in (("training", set()), ("always", heads)):
        model = create_model(name, auxiliary=auxiliary)
        found = jax.eval_shape(model.apply, variables, images)
        assert set(found) - {"coarse"} == {"logits", "feature", *expected}


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"unknown model 'bisenet'; known: bisenet_coincheung, .*vgg16"
    ):
        create_model("bisenet")
    for name, stride in (("bisenet_resnet18", 32), ("bisenet_stdc1", 32), ("deeplab_vgg16", 8)):
        with pytest.raises(ValueError, match=f"smallest image is {stride}x{stride}, got 64x7"):
            variables_of(create_model(name), size=(64, 7))
    with pytest.raises(ValueError, match=r"expects \[B,H,W,3\]"):
        create_model("bisenet_resnet18").init(jax.random.key(0), jnp.zeros((2, 64, 64, 4)))
    for option, known in (
        ({"batch_norm": "sync"}, "batch, folded, frozen, last"),
        ({"auxiliary": "never"}, "always, training"),
        ({"activation": "gelu"}, "leaky_relu, relu"),
        ({"align": "left"}, "corners, half_pixel"),
        ({"attention": "none"}, "conv_norm, squeeze"),
    ):
        with pytest.raises(ValueError, match=f"unknown {next(iter(option))} .*{known}"):
            variables_of(create_model("bisenet_stdc1", **option))
    with pytest.raises(ValueError, match=r"unknown aspp 'some'; known: all, first_two"):
        variables_of(create_model("deeplab_vgg16", aspp="some"))


@pytest.mark.parametrize("large", [(8, 10), (7, 10), (8, 9), (7, 9)])
def test_doubling_is_pytorchs_nearest(large):
    """Nearest resizing reads the source index floor(i * in / out), for odd sizes too."""
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    rows, columns = ([i * n // m for i in range(m)] for n, m in zip((4, 5), large, strict=True))
    np.testing.assert_array_equal(double(jnp.asarray(x), size=large), x[:, rows][:, :, columns])
    with pytest.raises(ValueError, match="4x5 does not double to 9x10"):
        double(jnp.asarray(x), size=(9, 10))
