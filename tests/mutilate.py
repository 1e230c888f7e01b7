"""Mutilated bytes for the tests of files from elsewhere, and a bound on the memory they take."""

import contextlib
import io
import pathlib
import resource
import struct

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
