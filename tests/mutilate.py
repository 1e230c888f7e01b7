"""Mutilated bytes and JSON for the tests of files from elsewhere, and a bound on their memory."""

import contextlib
import copy
import io
import json
import pathlib
import resource
import struct
import zipfile
import zlib
from typing import Any

import data_files
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from rtda_jax.errors import ConfigError, DataError

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


def read_or_named_error(read, path):
    """A file from elsewhere is read within `ROOM`, or refused by its name."""
    with bounded():
        try:
            read(path)
        except (ConfigError, DataError) as error:
            assert path.name in str(error)


def encoded(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


JSONS = [b'{"a": {"b": 1}, "stages": {"train": {"miou": 0.5}}}', b"[]", b"null", b"[" * 100_000]
ODD: list[Any] = [
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
        if not found:  # nothing is left
            break
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


@st.composite
def mutilated_members(draw, data: bytes) -> bytes:
    """Draws an archive, one of whose members is mutilated, deflated or not."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    members[name] = draw(mutilated([members[name]]))
    stream = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@st.composite
def mutilated_chunks(draw, pictures: list[bytes]) -> bytes:
    """Draws one of the PNGs, one of whose chunks is mutilated, with the right checksums."""
    data = draw(st.sampled_from(pictures))
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    number = draw(st.integers(0, len(chunks) - 1))
    name, body = chunks[number]
    if name == b"IDAT" and draw(st.booleans()):
        body = zlib.compress(draw(mutilated([zlib.decompress(body)])))
    else:
        body = draw(mutilated([body]))
    other = draw(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"acTL"]))
    chunks[number] = (draw(st.sampled_from([name, name, other])), body)
    return data[:8] + b"".join(data_files.chunk(*chunk) for chunk in chunks)
