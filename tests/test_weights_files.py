"""Weight files of every kind: which parts are read, and which files are refused."""

import collections
import io
import json
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from mutilate import bounded, fuzz, mutilated, read_or_named_error
from safetensors.numpy import save

from rtda_jax.errors import ConfigError
from rtda_jax.weights import read_weights, write_weights


def write(folder, suffix, data):
    path = folder / f"weights{suffix}"
    path.write_bytes(data)
    return path


def npz(arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def weights():
    return {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(4)}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == array.dtype


# Kinds of files.


def test_npz(tmp_path):
    assert_same(read_weights(write(tmp_path, ".npz", npz(weights()))).arrays, weights())


def test_safetensors_are_written_and_read(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, weights(), {"naming": "tufl"})
    file = read_weights(path)
    assert_same(file.arrays, weights())
    assert file.metadata == {"format": "pt", "naming": "tufl"}
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with pytest.raises(ConfigError, match=r"w.pth: weights are exported to .safetensors"):
        write_weights(tmp_path / "w.pth", weights(), {})


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_numbers_of_other_precisions_become_float32(dtype, tmp_path):
    values = np.float32([1.5, -2, 1 / 3]).astype(dtype)
    for suffix, data in ((".safetensors", save({"w": values})), (".npz", npz({"w": values}))):
        if suffix == ".npz" and dtype == ml_dtypes.bfloat16:
            continue  # NumPy does not know it
        array = read_weights(write(tmp_path, suffix, data)).arrays["w"]
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, values.astype(np.float32))


def test_what_is_no_weight_is_left_out(tmp_path):
    arrays = {**weights(), "text": np.array(["a"]), "complex": np.ones(2, np.complex64)}
    assert read_weights(write(tmp_path, ".npz", npz(arrays))).arrays.keys() == weights().keys()
    with pytest.raises(ConfigError, match=r"weights.npz: holds no tensors"):
        read_weights(write(tmp_path, ".npz", npz({"text": np.array(["a"])})))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".PTH"])
def test_suffixes_of_pytorch(suffix, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / f"w{suffix}"
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    assert_same(read_weights(path).arrays, {"w": np.ones(2, np.float32)})


def test_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, ".npz", npz(weights()))
    assert read_weights("~/weights.npz").path == tmp_path / "weights.npz"


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"w.h5: unknown kind of weight file; known: .pth"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(ConfigError, match=r"w.pth does not exist"):
        read_weights(tmp_path / "w.pth")
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "fifo.pth")
    for name in ("folder.pth", "fifo.pth"):
        with pytest.raises(ConfigError, match=f"{name} is not a file"):
            read_weights(tmp_path / name)


# Parts of a file.


def saved(tree, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save(tree, path)
    return path


def tensors(value):
    torch = pytest.importorskip("torch")
    return collections.OrderedDict(w=torch.full((2,), float(value)), n=torch.tensor(value))


def taken(tree, tmp_path, **options):
    file = read_weights(saved(tree, tmp_path), **options)
    return file.taken, file.others, float(file.arrays["w"][0])


@pytest.mark.parametrize(
    ("tree", "part", "others"),
    [
        ({"model": 1, "ema_model": 2}, "model", ("ema_model",)),
        ({"ema_model": 2, "model": 1}, "model", ("ema_model",)),
        ({"teacher": 2, "student": 1}, "student", ("teacher",)),
        ({"ema_state_dict": 1, "epoch": "text"}, "ema_state_dict", ()),
        ({"state_dict": {"model": 1, "ema": 2}}, "state_dict.model", ("state_dict.ema",)),
        ({"backbone": 1}, "backbone", ()),
        ({"anything": 1}, "anything", ()),
    ],
)
def test_the_trained_network_is_taken_and_said(tree, part, others, tmp_path):
    def build(node):
        if isinstance(node, dict):
            return {key: build(value) for key, value in node.items()}
        return tensors(node) if isinstance(node, int) else node

    assert taken(build(tree), tmp_path) == (part, others, 1.0)


def test_state_dicts_are_found_beside_other_things(tmp_path):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    tree = {
        "net": tensors(1),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "best": torch.tensor(0.4),
        "epoch": 3,
    }
    assert taken(tree, tmp_path) == ("net", (), 1.0)
    assert taken({**tensors(1), "epoch": 3, "history": {"loss": [1.0]}}, tmp_path)[0] == ""


def test_a_key_chooses(tmp_path):
    tree = {"model": tensors(1), "ema": {"module": tensors(2)}, **tensors(3)}
    assert taken(tree, tmp_path)[0] == "model"
    assert taken(tree, tmp_path, key="model") == ("model", ("ema.module",), 1.0)
    assert taken(tree, tmp_path, key="ema.module") == ("ema.module", ("model",), 2.0)
    with pytest.raises(ConfigError, match=r"has no weights 'teacher'; known: model, ema.module, n"):
        taken(tree, tmp_path, key="teacher")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_a_key_chooses_by_the_beginning_of_names(suffix, tmp_path):
    arrays = {f"{who}.w": np.full(2, n, np.float32) for n, who in enumerate(("student", "teacher"))}
    if suffix == ".pth":
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        path = saved({"state_dict": state}, tmp_path)
    else:
        path = write(tmp_path, suffix, npz(arrays) if suffix == ".npz" else save(arrays))
    assert read_weights(path, key="teacher").arrays["w"][0] == 1
    with pytest.raises(ConfigError, match=r"has no weights 'ema'; known: .*student, teacher"):
        read_weights(path, key="ema")


def test_several_unknown_parts_must_be_told_apart(tmp_path):
    tree = {"G_A": tensors(1), "G_B": tensors(2)}
    with pytest.raises(ConfigError, match=r"several sets of weights; .*key to one of: G_A, G_B"):
        taken(tree, tmp_path)
    assert taken(tree, tmp_path, key="G_B") == ("G_B", ("G_A",), 2.0)


def test_names_of_compiled_networks_are_those_of_the_network(tmp_path):
    state = {"_orig_mod.a.w": tensors(1)["w"], "b._orig_mod.w": tensors(1)["w"]}
    assert read_weights(saved(state, tmp_path)).arrays.keys() == {"a.w", "b.w"}


class Network:
    def __init__(self):
        self.weights = [1.0]


def test_pickled_networks_are_explained(tmp_path):
    with pytest.raises(
        ConfigError, match=r"of class test_weights_files.Network, .* state_dict\(\)"
    ):
        read_weights(saved(Network(), tmp_path))
    with pytest.raises(ConfigError, match="holds no tensors"):
        read_weights(saved({"model": Network()}, tmp_path))


# Files from elsewhere.


def headed(header, body=bytes(64), length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def tensor(begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


SAFETENSORS = {
    "nothing": (b"", "header too small"),
    "no header": (headed({}, length=2**40), "its header claims 1099511627776 bytes"),
    "a long header": (headed(b" " * (2**22 + 1)), "its header claims 4194305 bytes"),
    "no object": (headed(b"[]"), "invalid JSON"),
    "deep": (headed(b"[" * 10**6), "invalid JSON"),
    "overlapping": (headed({"a": tensor(0, 64), "b": tensor(0, 64)}), "invalid offset"),
    "holed": (headed({"a": tensor(0, 32), "b": tensor(48, 64)}), "invalid offset"),
    "uncovered": (headed({"a": tensor(0, 32)}), "not fully covered"),
    "truncated": (headed({"a": tensor(0, 128)}), "not fully covered"),
    "a huge shape": (
        headed({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 64]}}),
        "overflow",
    ),
    "too many axes": (
        headed({"a": {"dtype": "F32", "shape": [16] + [1] * 99, "data_offsets": [0, 64]}}),
        "dimension",
    ),
    "an unknown dtype": (headed({"a": tensor(0, 64, "F7")}), "unknown variant `F7`"),
    "a dtype of few bits": (
        headed({"a": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}),
        "float8_e4m3fn",
    ),
    "metadata of numbers": (headed({"__metadata__": {"a": 1}, "b": tensor(0, 64)}), "a string"),
    "metadata of a list": (headed({"__metadata__": ["a"], "b": tensor(0, 64)}), "expected a map"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_refused_safetensors(name, tmp_path):
    data, sentence = SAFETENSORS[name]
    with bounded(), pytest.raises(ConfigError, match=rf"weights.safetensors: .*{sentence}"):
        read_weights(write(tmp_path, ".safetensors", data))


@pytest.mark.parametrize(
    ("suffix", "data"), [(".safetensors", save(weights())), (".npz", npz(weights()))]
)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused_by_name(suffix, data, keep, tmp_path):
    path = write(tmp_path, suffix, data[: int(len(data) * keep)])
    with pytest.raises(ConfigError, match=f"weights{suffix}: cannot be read"):
        read_weights(path)


@fuzz
@given(mutilated([save(weights()), b"\0" * 8, b"\x02" + bytes(7) + b"[]"]))
def test_mutilated_safetensors(tmp_path, data):
    read_or_named_error(read_weights, write(tmp_path, ".safetensors", data))


@fuzz
@given(mutilated([json.dumps({"__metadata__": {"a": "b"}, "c": tensor(0, 64)}).encode()]))
def test_mutilated_headers(tmp_path, header):
    read_or_named_error(read_weights, write(tmp_path, ".safetensors", headed(header)))


@fuzz
@given(mutilated([npz(weights())]))
def test_mutilated_npz(tmp_path, data):
    read_or_named_error(read_weights, write(tmp_path, ".npz", data))


def test_npz_that_unpack_to_much_more_are_refused(tmp_path):
    data = npz({"w": np.zeros(1 << 26, np.float32)})
    with bounded(), pytest.raises(ConfigError, match="unpacks to more than 64 MiB"):
        read_weights(write(tmp_path, ".npz", data))


def test_npz_with_objects_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", stream.getvalue())
    with pytest.raises(ConfigError, match=r"w.npz: cannot be read as .npz: .*allow_pickle"):
        read_weights(tmp_path / "w.npz")


def test_names_are_safe_to_print(tmp_path):
    arrays = {"a\x1b[2J.w": np.ones(2, np.float32)}
    with pytest.raises(ConfigError, match=r"known: a\\x1b\[2J"):
        read_weights(write(tmp_path, ".npz", npz(arrays)), key="b")
