"""Public weights are loaded into networks, written from them, or refused with a reason."""

import itertools

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from variables import assert_same, behind, random_variables, shapes_of

from rtda_jax.errors import ConfigError
from rtda_jax.models import DISCRIMINATORS, MODELS
from rtda_jax.weights import export_pretrained, load_pretrained, torch_arrays, write_weights

FAST = (
    *("bisenet_resnet18", "bisenet_stdc1", "bisenet_tufl", "bisenet_coincheung"),
    *("bisenet_lite0", "fcd", "fcd_light"),
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FAST else pytest.mark.slow)
        for n in (*MODELS, *DISCRIMINATORS)
    ],
)
def test_export_and_import_are_inverse(name, tmp_path):
    variables = random_variables(name)
    path = tmp_path / "weights.safetensors"
    export_pretrained(variables, name, path, normalisation="caffe_bgr")
    loaded, report = load_pretrained(path, name, random_variables(name, seed=1), part="all")
    assert_same(loaded, variables)
    assert report.missing == ()
    assert report.normalisation == "caffe_bgr"
    assert all(n.endswith("num_batches_tracked") for n in report.unused)
    assert len(report.matched) == len(jax.tree.leaves(variables))


def test_export_reads_with_the_safetensors_package(tmp_path):
    variables = random_variables("fcd")
    export_pretrained(variables, "fcd", tmp_path / "d.safetensors")
    arrays = load_file(tmp_path / "d.safetensors")
    kernel = variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(arrays["conv1.weight"], kernel.transpose(3, 2, 0, 1))


def test_weights_in_half_the_precision_are_rounded_or_refused(tmp_path):
    variables = random_variables("fcd")
    path = tmp_path / "half.safetensors"
    export_pretrained(variables, "fcd", path, precision="float16")
    assert all(array.dtype in (np.float16, np.int64) for array in load_file(path).values())
    loaded, _ = load_pretrained(path, "fcd", random_variables("fcd", seed=1), part="all")
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(np.float16).astype(np.float32), variables)
    assert_same(loaded, rounded)
    variables["params"]["conv1"]["kernel"] = np.full_like(rounded["params"]["conv1"]["kernel"], 1e5)
    with pytest.raises(ConfigError, match=r"conv1\.weight has numbers that float16 cannot hold"):
        export_pretrained(variables, "fcd", tmp_path / "other.safetensors", precision="float16")
    with pytest.raises(ConfigError, match="unknown precision 'int8'; known: float16, float32"):
        export_pretrained(variables, "fcd", path, precision="int8")


@pytest.fixture(scope="module")
def trunk():
    """Returns weights of a ResNet-18 by torchvision's names, and the same variables by ours."""
    variables = random_variables("bisenet_resnet18")
    arrays = behind("context_path.", "bisenet_resnet18", variables)
    arrays["fc.weight"] = np.zeros((1000, 512), np.float32)
    return variables, arrays


def test_public_names(trunk):
    _, arrays = trunk
    assert arrays["conv1.weight"].shape == (64, 3, 7, 7)
    assert arrays["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert arrays["layer2.0.downsample.1.running_var"].shape == (128,)
    assert arrays["layer4.1.bn2.bias"].shape == (512,)
    whole = {name: torch_arrays(random_variables(name), name) for name in FAST}
    assert {
        "saptial_path.convblock1.conv1.weight",
        "saptial_path.convblock3.bn.running_mean",
        "context_path.bn1.weight",
        "attention_refinement_module1.conv.bias",
        "attention_refinement_module2.bn.weight",
        "supervision2.weight",
        "feature_fusion_module.convblock.conv1.weight",
        "feature_fusion_module.conv2.bias",
        "conv.bias",
    } <= set(whole["bisenet_resnet18"])
    assert {
        "cp.backbone.features.0.conv.weight",
        "cp.backbone.features.2.conv_list.3.bn.running_var",
        "cp.backbone.features.4.avd_layer.0.weight",
        "cp.backbone.features.4.avd_layer.1.bias",
        "cp.arm32.conv.conv.weight",
        "cp.arm16.conv_atten.weight",
        "cp.arm16.bn_atten.weight",
        "cp.conv_head32.conv.weight",
        "cp.conv_avg.bn.weight",
        "ffm.convblk.conv.weight",
        "ffm.conv1.weight",
        "conv_out.conv.conv.weight",
        "conv_out.conv_out.weight",
        "conv_out16.conv_out.weight",
    } <= set(whole["bisenet_stdc1"])
    assert {
        "cp.resnet.layer3.0.downsample_conv.weight",
        "cp.resnet.layer3.0.downsample_bn.weight",
        "sp.conv_out.conv.weight",
    } <= set(whole["bisenet_tufl"])
    assert {
        "cp.resnet.layer3.0.downsample.0.weight",
        "ffm.conv.weight",
        "ffm.bn.running_mean",
        "conv_out32.conv_out.bias",
    } <= set(whole["bisenet_coincheung"])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_trunk_in_every_kind_of_file(suffix, trunk, tmp_path):
    variables, arrays = trunk
    path, prefix = tmp_path / f"resnet18{suffix}", "module." if suffix == ".pth" else ""
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".safetensors":
        write_weights(path, arrays, {})
    else:
        torch = pytest.importorskip("torch")
        tensors = {f"module.{k}": torch.from_numpy(v.copy()) for k, v in arrays.items()}
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    before = random_variables("bisenet_resnet18", seed=1)
    loaded, report = load_pretrained(path, "bisenet_resnet18", before)
    for collection in ("params", "batch_stats"):
        assert_same(loaded[collection]["backbone"], variables[collection]["backbone"])
    assert_same(loaded["params"]["ffm"], before["params"]["ffm"])
    assert (report.naming, report.normalisation) == ("torchvision", "imagenet")
    assert report.unused == (f"{prefix}fc.weight",)
    assert "params.ffm.conv1.kernel" in report.missing
    assert len(report.matched) + len(report.missing) == len(jax.tree.leaves(before))
    assert "100 matched" in str(report)


def saved(arrays, tmp_path, metadata=None):
    write_weights(tmp_path / "w.safetensors", arrays, metadata or {})
    return tmp_path / "w.safetensors"


def test_shuffled_names_are_refused(trunk, tmp_path):
    variables, arrays = trunk
    names = np.random.default_rng(0).permutation(list(arrays))
    path = saved(dict(zip(names, arrays.values(), strict=True)), tmp_path)
    with pytest.raises(ConfigError, match=r"w.safetensors: .* has shape .* needs"):
        load_pretrained(path, "bisenet_resnet18", variables)
    path = saved({f"{n[::-1]}": v for n, v in arrays.items()}, tmp_path)
    with pytest.raises(ConfigError, match=r"w.safetensors: its names fit none of"):
        load_pretrained(path, "bisenet_resnet18", variables)


def test_incomplete_and_larger_trunks_are_refused(trunk, tmp_path):
    variables, arrays = trunk
    lacking = {n: v for n, v in arrays.items() if n != "layer3.1.conv2.weight"}
    with pytest.raises(ConfigError, match=r"has no layer3.1.conv2.weight"):
        load_pretrained(saved(lacking, tmp_path), "bisenet_resnet18", variables)
    # ResNet-34 has all parameters of ResNet-18, and more.
    larger = {**arrays, "layer3.2.conv1.weight": arrays["layer3.1.conv1.weight"]}
    with pytest.raises(ConfigError, match=r"bisenet_resnet18 has no layer3.2.conv1.weight"):
        load_pretrained(saved(larger, tmp_path), "bisenet_resnet18", variables)


def test_whole_networks_must_match_wholly(tmp_path):
    name = "bisenet_resnet18"
    variables = random_variables(name)
    arrays = torch_arrays(variables, name)
    biased = {**arrays, "saptial_path.convblock1.conv1.bias": np.zeros(64, np.float32)}
    path = saved(biased, tmp_path)
    with pytest.raises(ConfigError, match=r"has no saptial_path.convblock1.conv1.bias"):
        load_pretrained(path, name, variables, part="all")
    loaded, report = load_pretrained(path, name, random_variables(name, seed=1))
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert (report.naming, report.normalisation) == ("brunstein", "caffe_bgr")
    inference = random_variables(name, train=False, seed=1)
    _, report = load_pretrained(saved(arrays, tmp_path), name, inference, part="all")
    assert report.missing == ()
    assert {n.split(".")[0] for n in report.unused} == {"supervision1", "supervision2"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bisenet_resnet18", {"classifier", "ffm", "aux16", "aux32"}),  # its fusion has K features
        ("bisenet_stdc1", {"head", "aux16", "aux32"}),
        ("bisenet_lite0", {"head", "aux16", "aux32"}),
        ("deeplab_resnet101", {"classifier"}),
    ],
)
def test_another_number_of_classes_leaves_the_classifier(name, kept, tmp_path):
    path = tmp_path / "w.safetensors"
    theirs, ours = random_variables(name, 13), random_variables(name, 7, seed=1)
    export_pretrained(theirs, name, path)
    loaded, report = load_pretrained(path, name, ours, part="all")
    assert {leaf.split(".")[1] for leaf in report.missing} == kept
    initial = dict(jax.tree_util.tree_leaves_with_path(ours))
    exported = dict(jax.tree_util.tree_leaves_with_path(theirs))
    left = 0
    for leaf, value in jax.tree_util.tree_leaves_with_path(loaded):
        same_shape = value.shape == exported[leaf].shape
        left += not same_shape
        np.testing.assert_array_equal(value, exported[leaf] if same_shape else initial[leaf])
    assert left == len(report.missing)
    assert "the file has 13 classes and the network 7" in str(report)


def test_another_size_is_not_another_number_of_classes(tmp_path):
    name = "bisenet_resnet18"
    arrays = torch_arrays(random_variables(name, 13), name)
    arrays["supervision1.weight"] = np.zeros((12, 256, 1, 1), np.float32)
    with pytest.raises(ConfigError, match=r"supervision1.weight has shape \(12, 256, 1, 1\)"):
        load_pretrained(saved(arrays, tmp_path), name, random_variables(name, 7), part="all")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, trunk, tmp_path):
    variables, arrays = trunk
    broken = {**arrays, "layer1.0.bn1.bias": np.full(64, value, np.float32)}
    with pytest.raises(ConfigError, match=r"w.safetensors: layer1.0.bn1.bias is not finite"):
        load_pretrained(saved(broken, tmp_path), "bisenet_resnet18", variables)
    broken = {**arrays, "fc.weight": np.full((2, 2), value, np.float32)}
    load_pretrained(saved(broken, tmp_path), "bisenet_resnet18", variables)


def test_negative_variances_are_refused(trunk, tmp_path):
    variables, arrays = trunk
    broken = {**arrays, "bn1.running_var": -arrays["bn1.running_var"]}
    with pytest.raises(ConfigError, match=r"bn1.running_var, a variance, is negative"):
        load_pretrained(saved(broken, tmp_path), "bisenet_resnet18", variables)


def test_wrong_arguments_name_the_known(tmp_path):
    variables = random_variables("fcd")
    path = tmp_path / "w.safetensors"
    export_pretrained(variables, "fcd", path)
    with pytest.raises(ConfigError, match=r"unknown model 'x'; known: bisenet_coin"):
        load_pretrained(path, "x", variables)
    with pytest.raises(ConfigError, match=r"unknown part 'head'; known: all, backbone"):
        load_pretrained(path, "fcd", variables, part="head")
    with pytest.raises(ConfigError, match=r"unknown naming 'caffe'; known: adaptsegnet"):
        load_pretrained(path, "fcd", variables, part="all", naming="caffe")
    with pytest.raises(ConfigError, match=r"fcd has no part 'backbone'"):
        load_pretrained(path, "fcd", variables)
    with pytest.raises(ConfigError, match=r"exported from fcd, not from fcd_light"):
        load_pretrained(path, "fcd_light", random_variables("fcd_light"), part="all")
    with pytest.raises(ConfigError, match=r"w.pth: weights are exported to .safetensors"):
        export_pretrained(variables, "fcd", tmp_path / "w.pth")


def test_stdc_trunk_and_its_known_unused_names(tmp_path):
    variables = random_variables("bisenet_stdc1")
    arrays = behind("cp.backbone.", "bisenet_stdc1", variables)
    arrays["conv_last.conv.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    arrays["x2.0.0.conv.weight"] = arrays["features.0.conv.weight"]
    arrays["linear.weight"] = np.zeros((4, 4), np.float32)
    loaded, report = load_pretrained(
        saved(arrays, tmp_path), "bisenet_stdc1", random_variables("bisenet_stdc1", seed=1)
    )
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert report.naming == "stdcnet"
    assert set(report.unused) == {"conv_last.conv.weight", "x2.0.0.conv.weight", "linear.weight"}


def test_vgg_of_two_origins_must_be_told_apart(tmp_path):
    name = "deeplab_vgg16"
    variables = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes_of(name, 2, True))
    variables = {**variables, "batch_stats": {}}  # as in a state of a network without normalisation
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    widths = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    arrays = {"classifier.0.weight": np.zeros((4, 4), np.float32)}
    for i, (cin, cout) in zip(indices, itertools.pairwise(widths), strict=True):
        arrays[f"features.{i}.weight"] = np.full((cout, cin, 3, 3), i, np.float32)
        arrays[f"features.{i}.bias"] = np.full((cout,), i, np.float32)
    path = saved(arrays, tmp_path)
    with pytest.raises(ConfigError, match=r"fit the namings caffe, torchvision.*pretrained_naming"):
        load_pretrained(path, name, variables)
    for naming, normalisation in (("torchvision", "imagenet"), ("caffe", "caffe_bgr")):
        loaded, report = load_pretrained(path, name, variables, naming=naming)
        assert report.normalisation == normalisation
        assert loaded["params"]["backbone"]["conv5_3"]["bias"][0] == 28
        assert loaded["batch_stats"] == {}
        assert "params.backbone.fc6.kernel" in report.missing


def test_the_trunk_of_one_exported_network_starts_another(tmp_path):
    path = tmp_path / "weights.safetensors"
    variables = random_variables("bisenet_resnet18")
    other = random_variables("bisenet_mpg_resnet18", seed=1)
    export_pretrained(variables, "bisenet_resnet18", path)
    loaded, _ = load_pretrained(path, "bisenet_mpg_resnet18", other, part="backbone")
    for group in ("params", "batch_stats"):
        assert_same(loaded[group]["backbone"], variables[group]["backbone"])
        rest = (
            {name: v for name, v in tree[group].items() if name != "backbone"}
            for tree in (loaded, other)
        )
        assert_same(*rest)
