"""Files of torch.save: what PyTorch reads from them, and attacks on time and memory."""

import collections
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from limited import Reader
from mutilate import fuzz, mutilated, read_or_named_error

from rtda_jax.errors import ConfigError
from rtda_jax.weights import read_weights

torch = pytest.importorskip("torch")


def write(folder, data):
    path = folder / "weights.pth"
    path.write_bytes(data)
    return path


def saved(tree, **options):
    stream = io.BytesIO()
    torch.save(tree, stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_values_equal_those_of_pytorch(zipped, dtype, tmp_path):
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
    tree = {"state_dict": state, "epoch": 1}
    path = write(tmp_path, saved(tree, _use_new_zipfile_serialization=zipped))
    arrays = read_weights(path).arrays
    assert set(arrays) == set(state)
    for name, value in state.items():
        value = value.detach()
        want = value.float().numpy() if value.is_floating_point() else value.numpy()
        np.testing.assert_array_equal(arrays[name], want)
        assert arrays[name].dtype == want.dtype


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_is_read(protocol, tmp_path):
    tensors = collections.OrderedDict(w=torch.ones(2), v=torch.zeros(3))
    tensors._metadata = {"": {"version": 1}}
    path = write(tmp_path, saved({"net": tensors, "epoch": 3}, pickle_protocol=protocol))
    assert set(read_weights(path).arrays) == {"w", "v"}


@pytest.mark.parametrize("change", [b"K\x01K\x02\x85", b"K\x00K\x03\x85", b"K\x00K\x01K\x05\x86"])
def test_tensors_outside_their_storage_are_refused(change, tmp_path):
    """Of a storage of two: from the second on, three of them, a row of five."""
    strides = b"K\x01K\x01\x86" if change.endswith(b"\x86") else b"K\x01\x85"
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02NtQ"
    opcodes = b"ctorch._utils\n_rebuild_tensor\n(" + storage + change + strides + b"tR"
    data = packed(b"\x80\x02}U\x01a" + opcodes + b"s.", bytes(8))
    with pytest.raises(ConfigError, match="a tensor reaches outside its storage '0'"):
        read_weights(write(tmp_path, data))


def test_tied_weights_are_read(tmp_path):
    base = torch.arange(8.0)
    arrays = read_weights(write(tmp_path, saved({f"w{i}": base.view(-1) for i in range(3)}))).arrays
    assert sorted(arrays) == ["w0", "w1", "w2"]
    for array in arrays.values():
        np.testing.assert_array_equal(array, np.arange(8))


def test_storages_of_other_parts_are_not_read(tmp_path):
    """An optimizer's state may be missing, and costs neither time nor memory."""
    data = saved({"model": {"w": torch.ones(2)}, "optimizer": {"exp_avg": torch.ones(3)}})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if not name.endswith("data/1"):
                archive.writestr(name, content)
    np.testing.assert_array_equal(read_weights(path).arrays["w"], [1, 1])
    with pytest.raises(ConfigError, match=r"weights.pth: cannot be read .*data/1"):
        read_weights(path, key="optimizer")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused_by_name(zipped, keep, tmp_path):
    data = saved({"w": torch.ones(40, 3)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"weights.pth: cannot be read as a PyTorch checkpoint"):
        read_weights(write(tmp_path, data[: int(len(data) * keep)]))


def test_big_endian_files_are_refused(tmp_path):
    data = saved({"w": torch.ones(2)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    with pytest.raises(ConfigError, match="big-endian"):
        read_weights(path)


def seeds():
    tensors = {"conv.weight": torch.ones(2, 3), "n": torch.arange(4)}
    return [saved(tensors, _use_new_zipfile_serialization=zipped) for zipped in (True, False)]


@fuzz
@given(mutilated(seeds()))
def test_mutilated_files(tmp_path, data):
    read_or_named_error(read_weights, write(tmp_path, data))


@fuzz
@given(mutilated([zipfile.ZipFile(io.BytesIO(seeds()[0])).read("archive/data.pkl")]))
def test_mutilated_pickles_inside(tmp_path, data):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", np.ones(6, np.float32).tobytes())
        archive.writestr("archive/data/1", np.arange(4).tobytes())
    read_or_named_error(read_weights, path)


# Attacks on time and memory.


def packed(pickled, *storages, filler=0):
    """An archive with a deflated pickle and storages 0, 1, ..., and bytes that do not deflate."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", pickled)
        for i, storage in enumerate(storages):
            archive.writestr(f"weights/data/{i}", storage)
        archive.writestr("weights/filler", np.random.default_rng(0).bytes(filler))
    return stream.getvalue()


def flat(pickled):
    """A file of before PyTorch 1.6, where a pickle is as long as the file."""
    begin = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    return begin + b"\x80\x02}U\x0dlittle_endian\x88s." + pickled + b"\x80\x02]."


def repeated(setup, opcodes, length=2**20):
    """A pickle that does the same again and again."""
    begin = b"\x80\x02" + setup + b"("
    return begin + opcodes * ((length - len(begin)) // len(opcodes)) + b"t."


def tensor(kind, size):
    """Opcodes of a tensor, a view of all of storage 0."""
    count = b"J" + struct.pack("<i", size)
    storage = b"(U\x07storagectorch\n%s\nU\x010U\x03cpu%sNtQ" % (kind, count)
    return b"ctorch._utils\n_rebuild_tensor\n(%sK\x00%s\x85K\x01\x85tR" % (storage, count)


def tied(first, count):
    """A pickle of a dict in which many names have one value, that of the first opcodes."""
    names = b"".join(b"U\x05%05dh\x01" % i for i in range(count))
    return b"\x80\x02" + first + b"q\x01}(" + names + b"u."


def numbers_of_one_hash(count):
    keys = (i * (2**61 - 1) + 1 for i in range(1, count))
    return b"".join(b"\x8a\x0c" + key.to_bytes(12, "little") + b"N" for key in keys)


MANY = b"N" * 2**16
PERSISTENT = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02" + MANY + b"tq\x00"
PAIRS = b"](" + b"](U\x01aNe" * 2**12 + b"e\x85q\x00ccollections\nOrderedDict\nq\x01"
NAMES = b"".join(b"X" + struct.pack("<i", 2**20) + b"a" * 2**20 + b"q" + i for i in (b"\0", b"\1"))
EMPTY = b"".join(b"U\x05%05dN" % i for i in range(40_000))
ATTACKS = {
    "shared persistent ids": flat(repeated(PERSISTENT, b"h\x00Q")),
    "shared arguments": flat(
        repeated(b"(" + MANY + b"tq\x00ctorch._utils\n_rebuild_parameter\nq\x01", b"h\x01h\x00R")
    ),
    "shared pairs": flat(repeated(PAIRS, b"h\x01h\x00R")),
    "one hash": flat(b"\x80\x02}(" + numbers_of_one_hash(60_000) + b"u."),
    "equal long names": flat(b"\x80\x02" + NAMES + b"}" + b"h\x00Nsh\x01Ns" * 2**17 + b"."),
    "shared dicts": flat(tied(b"}(" + EMPTY + b"u", 2**16)),
    "many instructions": flat(repeated(b"", b"N", 2**22 - 2**12)),
    "many objects": flat(b"\x80\x02(" + b"}" * (2**22 - 8) + b"t."),
    "many marks": flat(b"\x80\x02" + b"(" * (2**22 - 8) + b"."),
    "reads of an archive": packed(repeated(b"", b"N", 2**22 - 2**12), filler=2**16),
    "a deflated pickle": packed(bytes(2**28)),
    "a large memo": packed(b"\x80\x02Nr" + struct.pack("<I", 0x0FFFFFFF) + b"."),
    "a long storage": packed(b"\x80\x02}U\x01a" + tensor(b"FloatStorage", 2**30) + b"s.", bytes(9)),
    "inflation": packed(tied(tensor(b"FloatStorage", 2**26), 1), bytes(2**28), filler=2**22),
    "sharing": packed(tied(tensor(b"FloatStorage", 2**23), 99), bytes(2**25), filler=2**20),
    "conversion": packed(tied(tensor(b"HalfStorage", 2**26), 1), bytes(2**27), filler=2**21),
    "their product": packed(tied(tensor(b"HalfStorage", 10**8), 4), bytes(2 * 10**8), filler=2**21),
}


@pytest.fixture(scope="module")
def reader():
    reader = Reader()
    yield reader
    reader.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_within_seconds_and_megabytes(name, reader, tmp_path):
    answer = reader.read(write(tmp_path, ATTACKS[name]), seconds=4, mebibytes=300)
    assert answer.startswith(f"{tmp_path / 'weights.pth'}: ")


def test_a_small_file_costs_little_time(reader, tmp_path):
    """A pickle may not be much longer than its archive, where it is not compressed."""
    for name in ("reads of an archive", "a deflated pickle"):
        answer = reader.read(write(tmp_path, ATTACKS[name]), seconds=1)
        assert "its pickle is longer than" in answer or "unpacks to more" in answer


def test_a_tensor_that_repeats_its_storage_is_refused(reader, tmp_path):
    """A stride of 0 makes terabytes out of four bytes."""
    data = saved({"w": torch.zeros(1).expand(1 << 14, 1 << 14)})
    assert "more than 64 MiB of memory" in reader.read(write(tmp_path, data))


def test_claims_of_the_directory_are_not_believed(reader, tmp_path):
    """An entry that says it was not compressed."""
    data = bytearray(packed(bytes(2**28)))
    at = data.find(b"PK\x01\x02")
    data[at + 20 : at + 24] = struct.pack("<I", 2**28)
    assert "unpacks to more than 64 MiB" in reader.read(write(tmp_path, bytes(data)))


def test_a_checkpoint_of_a_real_size_is_within_the_budget(reader, tmp_path):
    """ResNet-101 in half precision with its average and an optimizer of two moments."""
    weights = {f"layer{i}.weight": torch.zeros(64, 64, 3, 3).half() for i in range(300)}
    moments = {i: {"exp_avg": w, "exp_avg_sq": w} for i, w in enumerate(weights.values())}
    data = saved({"model": weights, "ema": weights, "optimizer": {"state": moments}})
    answer = reader.read(write(tmp_path, data), seconds=5, mebibytes=1000)
    assert answer == "holds 300 arrays"
