"""Weights and pickles from elsewhere, mutilated: a named error or a result, in bounded memory."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from mutilate import bounded, fuzz, mutilated
from safetensors.numpy import save as to_safetensors

from rtda_jax.data import DataError, worker
from rtda_jax.models import create_discriminator
from rtda_jax.weights import load_pretrained, read_weights, torch_arrays


def weights():
    return {"conv.weight": np.ones((2, 3), np.float32), "n": np.arange(4)}


def npz(arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def write(folder, suffix, data):
    path = folder / f"weights{suffix}"
    path.write_bytes(data)
    return path


def read_or_named_error(path):
    with bounded():
        try:
            read_weights(path)
        except (ValueError, FileNotFoundError) as error:
            assert path.name in str(error)


@fuzz
@given(mutilated([to_safetensors(weights()), b"\0" * 8, b"\x02" + bytes(7) + b"[]"]))
def test_safetensors(tmp_path, data):
    read_or_named_error(write(tmp_path, ".safetensors", data))


@fuzz
@given(mutilated([npz(weights())]))
def test_npz(tmp_path, data):
    read_or_named_error(write(tmp_path, ".npz", data))


def torch_seeds():
    """A zip and a flat checkpoint; the zip unpacked as well, where mutations reach the pickle."""
    torch = pytest.importorskip("torch")
    made = []
    for new in (True, False):
        stream = io.BytesIO()
        tensors = {k: torch.from_numpy(v) for k, v in weights().items()}
        torch.save(tensors, stream, _use_new_zipfile_serialization=new)
        made.append(stream.getvalue())
    return made


def test_pth(tmp_path):
    @fuzz
    @given(mutilated(torch_seeds()))
    def check(data):
        read_or_named_error(write(tmp_path, ".pth", data))

    check()


def test_the_pickle_inside_pth(tmp_path):
    with zipfile.ZipFile(io.BytesIO(torch_seeds()[0])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (inside,) = (name for name in files if name.endswith("data.pkl"))

    @fuzz
    @given(mutilated([files[inside]]))
    def check(data):
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, data if name == inside else content)
        read_or_named_error(path)

    check()


class Runs:
    """Leaves `it_ran` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch it_ran",)


def zipped(pickled):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", pickled)
    return stream.getvalue()


def doubled(empty, begin, end):
    """Opcodes that make x = [x, x] sixty times over, memoised as 60: two to the sixty objects."""
    levels = (
        begin + b"h" + bytes([i]) + b"h" + bytes([i]) + end + b"q" + bytes([i + 1])
        for i in range(60)
    )
    return b"\x80\x02" + empty + b"q\x00" + b"".join(levels)


LISTS, TUPLES = doubled(b"]", b"](", b"e"), doubled(b")", b"(", b"t")


def tied(names, size):
    """A zip checkpoint of many names, all on one storage."""
    torch = pytest.importorskip("torch")
    stream, base = io.BytesIO(), torch.zeros(size)
    torch.save({f"w{i}": base.view(-1) for i in range(names)}, stream)
    return stream.getvalue()


def claims(data, packed):
    """The archive with another compressed size in all entries of its directory."""
    out = bytearray(data)
    at = out.find(b"PK\x01\x02")
    while at >= 0:
        out[at + 20 : at + 24] = struct.pack("<I", packed)
        at = out.find(b"PK\x01\x02", at + 4)
    return bytes(out)


def a_deflate_bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(1 << 28))
    return stream.getvalue()


BOMBS = {
    "code": (".pth", zipped(pickle.dumps(Runs())), "it would run"),
    "memo": (".pth", zipped(b"\x80\x02Nr" + struct.pack("<I", 0x0FFFFFFF) + b"."), "a NoneType"),
    "lists": (".pth", zipped(LISTS + b"}U\x01ah\x3cs."), "holds no tensors"),
    "a key": (".pth", zipped(TUPLES + b"}h\x3cNs."), "a tuple is the key of a dict"),
    "a storage": (".pth", zipped(TUPLES + b"(U\x01ah\x3cK\x00NK\x01tQ."), "not a storage"),
    "many objects": (".pth", b"\x80\x02(" + b"}" * 2**23 + b"t.", "longer than"),
    "tied": (".pth", lambda: tied(300, 1 << 20), "4 times as large as their storages"),
    "claimed": (".pth", claims(a_deflate_bomb(), 1 << 28), "no weights compress so well"),
    "deflate": (".pth", a_deflate_bomb(), "no weights compress so well"),
    "npz": (".npz", npz({"w": np.zeros(1 << 26, np.float32)}), "no weights compress so well"),
    "spans": (
        ".safetensors",
        (lambda head: struct.pack("<Q", len(head)) + head + bytes(8))(
            json.dumps(
                {f"t{i}": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]} for i in range(9)}
            ).encode()
        ),
        "do not fit",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name, tmp_path, monkeypatch):
    suffix, data, said = BOMBS[name]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, suffix, data if isinstance(data, bytes) else data())
    with bounded(), pytest.raises(ValueError, match=said):
        read_weights(path)
    assert os.listdir(tmp_path) == [path.name]


def test_weights_that_are_shared_are_read(tmp_path):
    arrays = read_weights(write(tmp_path, ".pth", tied(3, 8))).arrays
    assert sorted(arrays) == ["w0", "w1", "w2"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_is_read(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    tensors = collections.OrderedDict(w=torch.ones(2), v=torch.zeros(3))
    tensors._metadata = {"": {"version": 1}}
    torch.save({"net": tensors, "epoch": 3}, stream, pickle_protocol=protocol)
    assert set(read_weights(write(tmp_path, ".pth", stream.getvalue())).arrays) == {"w", "v"}


def test_dicts_of_python_2_are_read(tmp_path):
    """They are made of a list of pairs."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02\x85K\x01\x85tR"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        pairs = b"](](U\x01w" + tensor + b"ee"
        archive.writestr("x/data.pkl", b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R.")
        archive.writestr("x/data/0", np.float32([1, 2]).tobytes())
    (array,) = read_weights(write(tmp_path, ".pth", stream.getvalue())).arrays.values()
    np.testing.assert_array_equal(array, [1, 2])


@pytest.fixture(scope="module")
def network():
    """Of a discriminator, whose weights are few, with zeros for weights."""
    model, images = create_discriminator("fcd", 4), jnp.zeros((1, 32, 32, 4))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def headed(header, body=bytes(64)):
    return struct.pack("<Q", len(header)) + header + body


def tensor(dtype, *shape):
    size = np.dtype({"F32": np.float32, "I64": np.int64}[dtype]).itemsize
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size * int(np.prod(shape))]}


def load_or_named_error(path, variables):
    with bounded():
        try:
            load_pretrained(path, "fcd", variables, part="all")
        except ValueError as error:
            assert path.name in str(error)


SAFETENSORS = [
    json.dumps(header).encode()
    for header in (
        {"__metadata__": {"naming": "adaptsegnet", "model": "fcd"}, "conv1.bias": tensor("F32")},
        {"conv1.weight": tensor("F32", 2, 2, 2, 2), "classifier.weight": tensor("F32", 2)},
        {"classifier.weight": tensor("F32"), "conv1.bias": tensor("I64", 4)},
        {"__metadata__": {"naming": [1]}, "conv1.bias": tensor("F32")},
        {"__metadata__": {"model": None}, "conv1.bias": tensor("F32")},
        {"__metadata__": ["naming"], "conv1.bias": tensor("F32")},
        {"__metadata__": "naming", "conv1.bias": tensor("F32")},
        {"conv1.bias": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 0]}},
        {"conv1.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
        {"conv1.bias": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}},
    )
]


@pytest.mark.parametrize("header", SAFETENSORS)
def test_headers_of_safetensors_into_a_network(header, tmp_path, network):
    load_or_named_error(write(tmp_path, ".safetensors", headed(header)), network)


@fuzz
@given(mutilated(SAFETENSORS))
def test_mutilated_headers_into_a_network(tmp_path, network, header):
    load_or_named_error(write(tmp_path, ".safetensors", headed(header)), network)


@pytest.mark.parametrize("dtype", ["U1", "S1", "M8[s]", "c8", "i4,f4", "?", "V3"])
def test_arrays_that_are_no_weights_into_a_network(dtype, tmp_path, network):
    arrays = {
        name: np.zeros(value.shape, dtype)
        for name, value in torch_arrays(network, "fcd").items()
        if value.ndim == 1
    }
    arrays["classifier.weight"] = np.zeros((), np.float32)
    load_or_named_error(write(tmp_path, ".npz", npz(arrays)), network)


def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path):
    """A stride of 0 makes terabytes out of four bytes."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1).expand(1 << 14, 1 << 14)}, path)
    with bounded(), pytest.raises(ValueError, match="4 times as large as their storages"):
        read_weights(path)


def test_a_part_of_a_data_set_runs_no_code(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(pickle.dumps([("key", b"image", Runs())]))
    with pytest.raises(DataError, match="part: not a part of a data set: it would run"):
        worker.read_part(path)
    path.write_bytes(pickle.dumps([("key", b"image", b"label")]))
    assert worker.read_part(path) == [("key", b"image", b"label")]
