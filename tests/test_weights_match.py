"""In which naming a file is, behind which prefix, and how its normalisations are read."""

import jax
import numpy as np
import pytest
from variables import assert_same, behind, random_variables

from rtda_jax.errors import ConfigError
from rtda_jax.weights import load_pretrained, torch_arrays, write_weights

NAME = "bisenet_resnet18"


@pytest.fixture(scope="module")
def trunk():
    """Weights of an ImageNet ResNet-18 in torchvision's names, and the variables they stand for."""
    variables = random_variables(NAME)
    return variables, behind("context_path.", NAME, variables)


def load(arrays, tmp_path, name=NAME, **options):
    write_weights(tmp_path / "w.safetensors", arrays, {})
    variables = random_variables(name, seed=1)
    return load_pretrained(tmp_path / "w.safetensors", name, variables, **options)


def prefixed(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "backbone.", "module.model.", "_orig_mod.", "net.encoder."]
)
def test_prefixes_of_wrappers(prefix, trunk, tmp_path):
    variables, arrays = trunk
    others = {"criterion.weight": np.ones(19, np.float32), "decode_head.weight": np.ones((2, 3))}
    loaded, report = load({**prefixed(prefix, arrays), **others}, tmp_path)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert report.naming == "torchvision"
    assert set(report.unused) == set(others)
    taken = prefix.replace("_orig_mod.", "").removesuffix(".")
    assert report.notes == ((f"taken from {taken}",) if taken else ())


def test_the_trained_network_is_taken_before_its_average(trunk, tmp_path):
    variables, arrays = trunk
    average = {name: array + 1 for name, array in arrays.items()}
    both = {**prefixed("teacher.", average), **prefixed("student.", arrays)}
    loaded, report = load(both, tmp_path)
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert "taken from student and not from teacher" in str(report)
    loaded, report = load(both, tmp_path, key="teacher")
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kernel + 1)
    assert "taken from teacher" in str(report)


def test_a_prefix_that_is_no_wrapper_is_a_name(trunk, tmp_path):
    """Another network's trunk may have seen other images than those of torchvision."""
    _, arrays = trunk
    with pytest.raises(ConfigError, match="fit none of the known namings"):
        load(prefixed("context_path.", arrays), tmp_path, "bisenet_coincheung")
    _, report = load(prefixed("context_path.", arrays), tmp_path)
    assert (report.naming, report.normalisation) == ("brunstein", "caffe_bgr")


@pytest.mark.parametrize("part", ["backbone", "all"])
def test_bystanders_of_a_state_dict_are_ignored(part, tmp_path):
    arrays = torch_arrays(random_variables(NAME), NAME)
    others = {
        "criterion.weight": np.ones(19, np.float32),
        "loss_seg.class_weight": np.ones(19, np.float32),
        "total_ops": np.ones(1, np.float32),
        "context_path.conv1.total_params": np.ones(1, np.float32),
        "context_path.bn1.num_batches_tracked": np.array(3),
    }
    _, report = load({**arrays, **others}, tmp_path, part=part)
    assert set(others) <= set(report.unused)


def test_names_that_are_not_of_the_network_are_not_ignored(tmp_path):
    arrays = torch_arrays(random_variables(NAME), NAME)
    with pytest.raises(ConfigError, match=r"bisenet_resnet18 has no decoder.weight"):
        load({**arrays, "decoder.weight": np.ones(3, np.float32)}, tmp_path, part="all")


def test_many_prefixes_cost_little(tmp_path, trunk):
    _, arrays = trunk
    wrappers = ("module", "model", "net", "ema", "teacher", "student", "backbone", "encoder")
    others = {
        f"{a}.{b}.{c}.{d}.conv1.weight": np.zeros(1, np.float32)
        for a in wrappers
        for b in wrappers
        for c in wrappers
        for d in wrappers
    }
    _, report = load({**others, **arrays}, tmp_path)
    assert len(report.matched) == len(arrays)


# Batch normalisation and inplace_abn.


def counted(arrays):
    """The arrays with the batch counts that PyTorch and inplace_abn 1.1 write."""
    counts = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7)
        for name in arrays
        if name.endswith("running_mean")
    }
    return {**arrays, **counts}


def shifted(name, by):
    """Arrays of the network with scales moved by a number, and the variables they stand for."""
    shifts = {"scale": np.float32(by), "bias": np.float32(-0.5), "mean": np.float32(-0.5)}
    moved = jax.tree_util.tree_map_with_path(
        lambda path, value: value + shifts.get(path[-1].key, 0), random_variables(name)
    )
    return torch_arrays(moved, name), moved


def magnitude(name, variables):
    """Variables whose scales outside a plain trunk are those of inplace_abn."""
    plain = "backbone" if name == "bisenet_stdc1" else ""

    def effective(path, value):
        if path[-1].key != "scale" or path[1].key == plain:
            return value
        return np.abs(value) + np.float32(1e-5)

    return jax.tree_util.tree_map_with_path(effective, variables)


@pytest.mark.parametrize("name", ["bisenet_tufl", "bisenet_stdc1"])
def test_without_counts_scales_are_magnitudes(name, tmp_path):
    arrays, variables = shifted(name, -0.5)
    loaded, report = load(arrays, tmp_path, name, part="all")
    assert report.naming.endswith("_inplace_abn")
    assert_same(loaded, magnitude(name, variables))


def test_counts_and_positive_scales_are_of_the_authors_code(tmp_path):
    arrays, variables = shifted("bisenet_tufl", 0.1)
    loaded, report = load(counted(arrays), tmp_path, "bisenet_tufl", part="all")
    assert_same(loaded, magnitude("bisenet_tufl", variables))
    assert "read as inplace_abn's |scale| + 1e-5 (in the naming tufl they are not)" in str(report)
    arrays, variables = shifted("bisenet_stdc1", 0.1)
    loaded, report = load(counted(arrays), tmp_path, "bisenet_stdc1", part="all")
    assert_same(loaded, variables)
    assert "read as plain scales (in the naming stdc_seg_inplace_abn they are not)" in str(report)


@pytest.mark.parametrize("name", ["bisenet_tufl", "bisenet_stdc1"])
def test_counts_and_negative_scales_are_asked_about(name, tmp_path):
    arrays, variables = shifted(name, -0.5)
    plain = name.replace("bisenet_", "").replace("stdc1", "stdc_seg")
    with pytest.raises(ConfigError, match=rf"negative scales, .* {plain} or {plain}_inplace"):
        load(counted(arrays), tmp_path, name, part="all")
    loaded, report = load(counted(arrays), tmp_path, name, part="all", naming=plain)
    assert_same(loaded, variables)
    assert report.notes == ()
    abn = f"{plain}_inplace_abn"
    loaded, report = load(counted(arrays), tmp_path, name, part="all", naming=abn)
    assert_same(loaded, magnitude(name, variables))


def test_a_plain_trunk_is_not_asked_about(tmp_path):
    """STDC's trunk has plain normalisations whatever the rest of the network has."""
    arrays, variables = shifted("bisenet_stdc1", -0.5)
    loaded, report = load(counted(arrays), tmp_path, "bisenet_stdc1")
    assert_same(loaded["params"]["backbone"], variables["params"]["backbone"])
    assert report.notes == ()
