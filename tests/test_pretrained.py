import functools
import itertools
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.models import DISCRIMINATORS, MODELS, create_discriminator, create_model
from rtda_jax.weights import (
    export_pretrained,
    load_pretrained,
    read_weights,
    torch_arrays,
    write_weights,
)

FAST = ("bisenet_resnet18", "bisenet_stdc1", "bisenet_tufl", "bisenet_coincheung")


@functools.cache
def shapes_of(name, num_classes, train):
    if name in DISCRIMINATORS:
        model, images = create_discriminator(name, num_classes), jnp.zeros((1, 32, 32, num_classes))
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    model, images = create_model(name, num_classes), jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)


def random_variables(name, num_classes=4, *, train=True, seed=0):
    """Variables of a network with random values, without compiling anything."""
    generator = np.random.default_rng(seed)
    shapes = shapes_of(name, num_classes, train)
    return jax.tree.map(lambda s: generator.random(s.shape, np.float32), shapes)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in FAST or n in DISCRIMINATORS else pytest.mark.slow)
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
    numpy_reader = pytest.importorskip("safetensors.numpy")
    variables = random_variables("fcd")
    export_pretrained(variables, "fcd", tmp_path / "d.safetensors")
    arrays = numpy_reader.load_file(tmp_path / "d.safetensors")
    kernel = variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(arrays["conv1.weight"], kernel.transpose(3, 2, 0, 1))


@pytest.fixture(scope="module")
def trunk():
    """Weights of an ImageNet ResNet-18 in torchvision's names, and the variables they stand for."""
    variables = random_variables("bisenet_resnet18")
    arrays = {
        name.removeprefix("context_path."): value
        for name, value in torch_arrays(variables, "bisenet_resnet18").items()
        if name.startswith("context_path.")
    }
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
    path = tmp_path / f"resnet18{suffix}"
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
    assert report.unused == ("fc.weight",)
    assert "params.ffm.conv1.kernel" in report.missing
    assert len(report.matched) + len(report.missing) == len(jax.tree.leaves(before))
    assert "100 matched" in str(report)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_torch_files_equal_torch(zipped, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator).to(getattr(torch, dtype))
    state = {
        "a": base,
        "transposed": base.T,
        "slice": base[2:5, 1:],
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
    }
    path = tmp_path / "x.tar"
    torch.save({"state_dict": state, "epoch": 1}, path, _use_new_zipfile_serialization=zipped)
    arrays = read_weights(path).arrays
    assert set(arrays) == set(state)
    for name, value in state.items():
        value = value.detach()
        want = value.float().numpy() if value.is_floating_point() else value.numpy()
        np.testing.assert_array_equal(arrays[name], want)
        assert arrays[name].dtype == want.dtype


class Evil:
    def __reduce__(self):
        return os.system, ("echo > must_not_exist",)


def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        path = tmp_path / f"evil{zipped}.pth"
        torch.save({"w": Evil()}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=rf"evil{zipped}.pth: .*would run \w+.system"):
            read_weights(path)
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps({"w": Evil()}))
    with pytest.raises(ValueError, match=r"plain.pth"):
        read_weights(path)
    assert not os.path.exists("must_not_exist")


@pytest.mark.parametrize("kind", ["zip.pth", "flat.pth", "a.safetensors", "a.npz"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused_by_name(kind, keep, tmp_path):
    arrays = {f"conv{i}.weight": np.ones((40, i, 3, 3), np.float32) for i in range(1, 5)}
    path = tmp_path / kind
    if kind.endswith(".pth"):
        torch = pytest.importorskip("torch")
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=kind.startswith("zip"))
    elif kind.endswith(".npz"):
        np.savez(path, **arrays)
    else:
        write_weights(path, arrays, {})
    assert set(read_weights(path).arrays) == set(arrays)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=kind):
        read_weights(path)


def test_unknown_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"w.h5: unknown kind of weight file; known: .pth"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(FileNotFoundError, match=r"w.pth"):
        read_weights(tmp_path / "w.pth")
    header = json.dumps({"x": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(ValueError, match=r"w.safetensors: not a safetensors file: x has dtype F8"):
        read_weights(path)


def saved(arrays, tmp_path, metadata=None):
    write_weights(tmp_path / "w.safetensors", arrays, metadata or {})
    return tmp_path / "w.safetensors"


def test_shuffled_names_are_refused(trunk, tmp_path):
    variables, arrays = trunk
    names = np.random.default_rng(0).permutation(list(arrays))
    path = saved(dict(zip(names, arrays.values(), strict=True)), tmp_path)
    with pytest.raises(ValueError, match=r"w.safetensors: .* has shape .* needs"):
        load_pretrained(path, "bisenet_resnet18", variables)
    path = saved({f"{n[::-1]}": v for n, v in arrays.items()}, tmp_path)
    with pytest.raises(ValueError, match=r"w.safetensors: its names fit none of the known namings"):
        load_pretrained(path, "bisenet_resnet18", variables)


def test_incomplete_and_larger_trunks_are_refused(trunk, tmp_path):
    variables, arrays = trunk
    lacking = {n: v for n, v in arrays.items() if n != "layer3.1.conv2.weight"}
    with pytest.raises(ValueError, match=r"has no layer3.1.conv2.weight"):
        load_pretrained(saved(lacking, tmp_path), "bisenet_resnet18", variables)
    # ResNet-34 has all that ResNet-18 has, and more.
    larger = {**arrays, "layer3.2.conv1.weight": arrays["layer3.1.conv1.weight"]}
    with pytest.raises(ValueError, match=r"bisenet_resnet18 has no layer3.2.conv1.weight"):
        load_pretrained(saved(larger, tmp_path), "bisenet_resnet18", variables)


def test_whole_networks_must_match_wholly(tmp_path):
    name = "bisenet_resnet18"
    variables = random_variables(name)
    arrays = torch_arrays(variables, name)
    biased = {**arrays, "saptial_path.convblock1.conv1.bias": np.zeros(64, np.float32)}
    path = saved(biased, tmp_path)
    with pytest.raises(ValueError, match=r"has no saptial_path.convblock1.conv1.bias"):
        load_pretrained(path, name, variables, part="all")
    loaded, report = load_pretrained(path, name, random_variables(name, seed=1))
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert (report.naming, report.normalisation) == ("s0", "caffe_bgr")
    inference = random_variables(name, train=False, seed=1)
    _, report = load_pretrained(saved(arrays, tmp_path), name, inference, part="all")
    assert report.missing == ()
    assert {n.split(".")[0] for n in report.unused} == {"supervision1", "supervision2"}


@pytest.mark.parametrize("name", ["bisenet_resnet18", "bisenet_stdc1", "bisenet_tufl"])
def test_another_number_of_classes_names_both(name, tmp_path):
    path = tmp_path / "w.safetensors"
    export_pretrained(random_variables(name, 13), name, path)
    with pytest.raises(ValueError, match=r"the checkpoint has 13 classes .*the network 19"):
        load_pretrained(path, name, random_variables(name, 19), part="all")


def test_wrong_arguments_name_the_known(tmp_path):
    variables = random_variables("fcd")
    path = tmp_path / "w.safetensors"
    export_pretrained(variables, "fcd", path)
    with pytest.raises(ValueError, match=r"unknown model 'x'; known: bisenet_resnet18"):
        load_pretrained(path, "x", variables)
    with pytest.raises(ValueError, match=r"unknown part 'head'; known: backbone, all"):
        load_pretrained(path, "fcd", variables, part="head")
    with pytest.raises(ValueError, match=r"unknown naming 'caffe'; known: adaptsegnet"):
        load_pretrained(path, "fcd", variables, part="all", naming="caffe")
    with pytest.raises(ValueError, match=r"fcd has no part 'backbone'"):
        load_pretrained(path, "fcd", variables)
    with pytest.raises(ValueError, match=r"exported from fcd, not from fcd_light"):
        load_pretrained(path, "fcd_light", random_variables("fcd_light"), part="all")
    with pytest.raises(ValueError, match=r"w.pth: weights are exported to .safetensors"):
        export_pretrained(variables, "fcd", tmp_path / "w.pth")


def test_stdc_trunk_and_its_known_unused_names(tmp_path):
    variables = random_variables("bisenet_stdc1")
    arrays = {
        n.removeprefix("cp.backbone."): v
        for n, v in torch_arrays(variables, "bisenet_stdc1").items()
        if n.startswith("cp.backbone.")
    }
    arrays["conv_last.conv.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    arrays["x2.0.0.conv.weight"] = arrays["features.0.conv.weight"]
    arrays["linear.weight"] = np.zeros((4, 4), np.float32)
    loaded, report = load_pretrained(
        saved(arrays, tmp_path), "bisenet_stdc1", random_variables("bisenet_stdc1", seed=1)
    )
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert report.naming == "stdcnet"
    assert set(report.unused) == {"conv_last.conv.weight", "x2.0.0.conv.weight", "linear.weight"}


@pytest.mark.parametrize(("name", "plain"), [("bisenet_tufl", ""), ("bisenet_stdc1", "backbone")])
def test_inplace_abn_has_the_magnitude_of_its_scale(name, plain, tmp_path):
    variables = random_variables(name)
    arrays = {n: v - 0.5 for n, v in torch_arrays(variables, name).items()}
    loaded, report = load_pretrained(saved(arrays, tmp_path), name, variables, part="all")
    assert report.naming.endswith("_inplace_abn")
    flat = jax.tree_util.tree_leaves_with_path(loaded["params"])
    original = dict(jax.tree_util.tree_leaves_with_path(variables["params"]))
    for path, value in flat:
        want = original[path] - np.float32(0.5)
        if path[-1].key == "scale" and path[0].key != plain:
            want = np.abs(want) + np.float32(1e-5)
        np.testing.assert_array_equal(value, want)


def test_vgg_of_two_origins_must_be_told_apart(tmp_path):
    name = "deeplab_vgg16"
    variables = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes_of(name, 2, True))
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    widths = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    arrays = {"classifier.0.weight": np.zeros((4, 4), np.float32)}
    for i, (cin, cout) in zip(indices, itertools.pairwise(widths), strict=True):
        arrays[f"features.{i}.weight"] = np.full((cout, cin, 3, 3), i, np.float32)
        arrays[f"features.{i}.bias"] = np.full((cout,), i, np.float32)
    path = saved(arrays, tmp_path)
    with pytest.raises(ValueError, match=r"fit the namings torchvision, caffe.*naming="):
        load_pretrained(path, name, variables)
    for naming, normalisation in (("torchvision", "imagenet"), ("caffe", "caffe_bgr")):
        loaded, report = load_pretrained(path, name, variables, naming=naming)
        assert report.normalisation == normalisation
        assert loaded["params"]["backbone"]["conv5_3"]["bias"][0] == 28
        assert "params.backbone.fc6.kernel" in report.missing
