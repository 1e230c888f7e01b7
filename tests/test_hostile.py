"""Files from elsewhere, mutilated: a named error or a result, in bounded memory and time."""

import collections
import contextlib
import copy
import hashlib
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import struct
import zipfile
import zlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_report
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save as to_safetensors

from configs import base
from rtda_jax import checkpoint, experiment, integrity, pictures
from rtda_jax.data import DataError, headers, load, splits, worker
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import class_set
from rtda_jax.data.pseudo import PseudoLabels, label_path, load_pseudo
from rtda_jax.deploy import networks
from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.models import create_discriminator
from rtda_jax.pretrained import load_pretrained, read_weights, torch_arrays
from rtda_jax.report import gallery, runs
from rtda_jax.report.contents import document
from rtda_jax.stages.plan import stages

STATM = pathlib.Path("/proc/self/statm")
ROOM = 512 << 20  # bytes of memory that reading a hostile file of a few KiB may take

fuzz = settings(
    max_examples=150,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@contextlib.contextmanager
def bounded():
    """More memory than `ROOM` is an error here, not a machine that swaps."""
    size = int(STATM.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def mutilated(draw, seeds):
    """One of the seeds, cut, with bytes changed, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "set", "insert", "cut", "remove", "number"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(max_size=9))
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + draw(st.integers(1, 9))]
            case "number":
                wide = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                data[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", wide)
    return bytes(data)


def encoded(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def images():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 12, 3), np.uint8)
    palette = Image.fromarray(rgb).quantize(8)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    return [
        encoded(rgb, "PNG"),
        encoded(rgb, "JPEG"),
        encoded(rgb, "WebP"),
        encoded(rgb, "WebP", lossless=True),
        encoded(rgb[..., 0], "PNG"),
        encoded(rgb[..., 0].astype(np.uint16), "PNG"),
        stream.getvalue(),
        b"",
    ]


class Bytes:
    """A reader of two given files."""

    def __init__(self, image, label):
        self.files = image, label

    def __len__(self):
        return 1

    def image(self, i):
        return self.files[0]

    def label(self, i):
        return self.files[1]

    def pair(self, i):
        return self.files

    def where(self, i):
        return "a/image", "a/label"


@fuzz
@given(mutilated(images()), mutilated(images()))
@pytest.mark.parametrize("labelling", ["cityscapes_ids", "synthia_ids", "camvid32_colours"])
def test_headers_of_images_and_labels(labelling, image, label):
    dataset = Dataset("set", ("a",), class_set("cityscapes19"), labelling, Bytes(image, label))
    with bounded(), contextlib.suppress(DataError):
        dataset.read(0)


@fuzz
@given(mutilated(images()))
def test_the_header_names_its_file(data):
    try:
        found = headers.probe(data, "somewhere/b.png")
    except DataError as error:
        assert "somewhere/b.png" in str(error)
    else:
        assert 0 < found.height * found.width <= headers.MOST_PIXELS


def bomb(width, height):
    """A valid PNG header of any size, and a few bytes of pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )  # fmt: skip


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: 60000x60000 pixels; an image has 1 to"):
        headers.probe(bomb(60000, 60000), "a.png")
    with pytest.raises(DataError, match="0x7 pixels"):
        headers.probe(bomb(0, 7), "a.png")
    helpers.write_folders(tmp_path)
    path = tmp_path / "source" / "images" / "001.png"
    path.write_bytes(bomb(60000, 60000))
    spec = {"name": "folders", "images": "source/images", "labels": "source/labels"}
    dataset = load(spec, data_dir=tmp_path, classes="cityscapes19")
    with bounded(), pytest.raises(DataError, match=r"001\.png: 60000x60000 pixels"):
        dataset.read(1)


# --- lists and manifests --------------------------------------------------------------------------

LIST = b"a/b\tbroken\n# note\nc d\n../../etc/passwd\n"


@fuzz
@given(st.one_of(st.binary(max_size=60), mutilated([LIST])))
def test_a_list_names_examples_that_exist_or_nothing(tmp_path, data):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    keys = ("a/b", "c", "d")
    with contextlib.suppress(DataError):
        assert splits.choose(keys, splits.read(path), what="list.txt") <= set(keys)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", "~/secret"])
def test_a_list_can_not_leave_the_root(name, tmp_path):
    """What a list names is looked up among the images below the root, never opened as a path."""
    helpers.write_folders(tmp_path / "data")
    Image.new("RGB", (80, 40)).save(tmp_path / "secret.png")
    (tmp_path / "data" / "list.txt").write_text(f"{name}\n")
    spec = {
        "name": "folders", "images": "source/images", "labels": "source/labels",
        "quarantine": "list.txt",
    }  # fmt: skip
    with pytest.raises(DataError, match="no image has that name"):
        load(spec, data_dir=tmp_path / "data", classes="cityscapes19")


MANIFESTS = [
    b'{"classes": "cityscapes19", "data": "x", "files": {"000": "00"}}',
    b'{"classes": "cityscapes19", "data": "x", "files": {"../../../etc/passwd": "00"}}',
    b'{"classes": 3, "data": [], "files": {"000": 7, "001": null, "002": {}, "003": []}}',
    b"[" * 100_000,
    b"null",
]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root = tmp_path_factory.mktemp("target")
    helpers.write_folders(root)
    spec = {"name": "folders", "images": "target/images", "use": "unlabelled"}
    return load(spec, data_dir=root, classes="cityscapes19")


@fuzz
@given(mutilated(MANIFESTS))
def test_manifests_of_pseudo_labels(tmp_path, target, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DataError):
        load_pseudo(tmp_path, target=target)


def small(value=0, size=(4, 6)):
    return encoded(np.full(size, value, np.uint8), "PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(60000, 60000), "60000x60000 pixels"),
        (small(size=(8, 6)), r"is 6x8, but .*000\.png is 6x4"),
        (encoded(np.zeros((4, 6, 3), np.uint8), "PNG"), "not a pseudo-label"),
        (encoded(np.zeros((4, 6), np.uint8), "JPEG"), "not a pseudo-label"),
        (b"", "zero bytes"),
    ],
    ids=["bomb", "size", "colour", "jpeg", "empty"],
)
def test_pseudo_labels_of_another(tmp_path, target, data, said):
    """The manifest is right about every file."""
    files = {}
    for key in target.keys:
        files[key] = data if key == target.keys[1] else small()
        path = pathlib.Path(label_path(tmp_path, key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[key])
    sums = {key: hashlib.sha256(content).hexdigest() for key, content in files.items()}
    manifest = {"classes": "cityscapes19", "data": target.name, "files": sums}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with bounded(), pytest.raises(DataError, match=rf"001\.png: .*{said}"):
        load_pseudo(tmp_path, target=target)


@fuzz
@given(mutilated([small(), small(19), *images()]))
def test_a_pseudo_label(tmp_path, data):
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.png").write_bytes(data)
    held = PseudoLabels(str(tmp_path), ("a",), (hashlib.sha256(data).hexdigest(),), 19)
    with bounded(), contextlib.suppress(DataError):
        label = held.examine(0)
        assert ((label < 19) | (label == 255)).all()


# --- weights --------------------------------------------------------------------------------------


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


# --- what a run wrote -----------------------------------------------------------------------------

JSONS = [b'{"a": {"b": 1}, "stages": {"train": {"miou": 0.5}}}', b"[]", b"null", b"[" * 100_000]


@fuzz
@given(mutilated(JSONS))
def test_config_json(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        checkpoint.claim(tmp_path, {"a": {"b": 1}}, free=())


@fuzz
@given(mutilated(JSONS))
def test_results_json(tmp_path, data):
    (tmp_path / "results.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        experiment.command(tmp_path)


ODD = [
    None, True, -1, 0, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "x", "a:b", "../x",
    "\ud800", [], [1], [[1]], [{}], ["x"], {}, {"x": {}}, {"x": "y"}, {"..": {}}, "[" * 2000,
]  # fmt: skip


def nested(depth):
    """Lists in one another."""
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


def places(tree):
    """Every (container, key) of a tree of JSON."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [p for key in keys for p in [(tree, key), *places(tree[key])]]


@st.composite
def changed(draw, text):
    """JSON, one to three of its values replaced, removed or moved to another place."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        # Few of its values are at the top, where most is decided.
        top = [(container, key) for container, key in found if len(places(container[key])) > 20]
        container, key = draw(st.sampled_from(draw(st.sampled_from([found, top or found]))))
        if isinstance(container, dict) and draw(st.booleans()):
            value = container.pop(key)
            if draw(st.booleans()):
                container["x"] = value
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from([*ODD, nested(90)])))
    return json.dumps(tree)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The records of a run, and what its results.json says."""
    folder = test_report.write_run(tmp_path_factory.mktemp("runs") / "run", "fda_mbt", 0, skill=0.4)
    return folder, (folder / "results.json").read_text()


@settings(fuzz, max_examples=100)
@given(st.data())
def test_results_of_another(finished, data):
    folder, text = finished
    (folder / "results.json").write_text(data.draw(changed(text)))
    with contextlib.suppress(ConfigError):
        document([runs.load(folder)], speeds={}, published=())


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"null", b'{"seed": 1e999}'])
@pytest.mark.parametrize("name", ["results.json", "config.json"])
def test_records_that_are_none(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"stages": [[1]]}, r"config: field 'stages\[0\]' must be str, found \[1\]"),
        ({"stages": nested(80)}, "more than 64 objects and lists in one another"),
    ],
)
def test_stages_of_a_record_are_names(finished, tmp_path, value, said):
    record = json.loads(finished[1])
    record["config"] |= value
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=said):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("models", [{}], r"eval_mbt: field 'models\[0\]' must be str"),
        ("confusion", [["1"] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("confusion", [[-1] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("seconds", float("nan"), "eval_mbt: field 'seconds' must be 0 or more"),
    ],
)
def test_fields_of_an_evaluation(finished, tmp_path, field, value, said):
    record = json.loads(finished[1])
    record["stages"]["eval_mbt"][field] = value
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=said):
        runs.load(tmp_path)


def test_a_stage_of_a_record_is_no_path(finished, tmp_path):
    record = json.loads(finished[1])
    record["stages"]["../elsewhere"] = record["stages"]["eval_mbt"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"'\.\./elsewhere' can not be the name of a stage"):
        runs.load(tmp_path)


@fuzz
@given(st.data())
def test_pictures_of_a_run(tmp_path, data):
    sheet = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    sheet.info[pictures.CELLS] = json.dumps({"titles": ["truth"], "rows": 1, "size": [8, 8]})
    pictures.save(sheet, tmp_path / "predictions.png")
    whole = (tmp_path / "predictions.png").read_bytes()
    (tmp_path / "predictions.png").write_bytes(data.draw(mutilated([whole])))
    with bounded(), contextlib.suppress(ConfigError):
        gallery.read_cells(tmp_path / "predictions.png")


@settings(fuzz, max_examples=150)
@given(st.data())
def test_configurations_of_another(tmp_path, data):
    config = json.dumps(experiment.plain(base.get_config()))
    (tmp_path / "config.json").write_text(data.draw(changed(config)))
    with contextlib.suppress(ConfigError):
        stages(networks.recorded(tmp_path, defaults=base.get_config))


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "x"},
        {"optim": 3},
        {"stages": [[1]]},
        {"seed": []},
        {"stages": ["../x"], "stage": {"../x": {"kind": "train"}}},
    ],
)
def test_the_file_of_a_configuration_is_named(tmp_path, change):
    config = experiment.plain(base.get_config()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json"):
        networks.recorded(tmp_path, defaults=base.get_config)


@fuzz
@given(mutilated([b'{"a": [1, "00"], "default/d/x": [3, "ff"]}', *JSONS]))
def test_seals(tmp_path, data):
    folder = tmp_path / "4"
    folder.mkdir(exist_ok=True)
    (folder / "a").write_bytes(b"x")
    (folder / integrity.MANIFEST).write_bytes(data)
    assert isinstance(integrity.problem(folder), str)


# A thread of orbax that comes too late says so to nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_without_a_seal(tmp_path):
    """What an earlier release left, or what comes from elsewhere: restored or a named error."""
    state = {"a": np.arange(40, dtype=np.float32).reshape(8, 5), "n": np.int32(3)}
    with checkpoint.manager(tmp_path / "whole", keep=2) as held:
        checkpoint.save(held, state, step=1)
    (tmp_path / "whole" / "1" / integrity.MANIFEST).unlink()
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = checkpoint.abstract(state, one)
    names = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")]
    names = sorted(n for n in names if (tmp_path / "whole" / n).is_file())

    @settings(fuzz, max_examples=60, deadline=None)
    @given(st.data())
    def check(data):
        folder = tmp_path / "torn"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / data.draw(st.sampled_from(names))
        path.write_bytes(data.draw(mutilated([path.read_bytes()])))
        with contextlib.suppress(CheckpointError), checkpoint.manager(folder, keep=2) as held:
            found = checkpoint.restore(held, wanted)
            assert found["a"].shape == (8, 5)

    check()
