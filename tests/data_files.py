"""Tiny data sets in the true file layouts, written by the tests that read them."""

import contextlib
import dataclasses
import pathlib
import resource
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from rtda_jax.data.stream import Frame, MoveOptions, StreamOptions, train_stream

SIZE = (24, 32)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond a size: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A random image, uint8 [H,W,3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def smooth(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An image without sharp edges, uint8 [H,W,3], which lossy formats keep nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def ids(seed: int, among, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A random label, uint8 [H,W], of the ids given."""
    return np.random.default_rng(seed).choice(np.array(list(among), np.uint8), size)


def save(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_palette(path: pathlib.Path, pixels: np.ndarray, bits: int = 8) -> pathlib.Path:
    """Mode P with a palette whose colours say nothing about the indices, as GTA5 has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    colours = np.random.default_rng(0).integers(0, 256, (2**bits, 3))
    image.putpalette(colours.ravel().tolist())
    image.save(path, bits=bits)
    return path


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def save_16bit(path: pathlib.Path, channels: np.ndarray) -> pathlib.Path:
    """uint16 [H,W,1..4] as PNG, which Pillow cannot write: SYNTHIA's (class, instance, 0)."""
    height, width, count = channels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = channels.astype(">u2").reshape(height, -1)
    return _save_png(path, rows.view(np.uint8), (width, height, 16, kind))


def save_grey(path: pathlib.Path, pixels: np.ndarray, bits: int) -> pathlib.Path:
    """uint8 [H,W] of values below 2**bits as a greyscale PNG of 1, 2 or 4 bits."""
    height, width = pixels.shape
    planes = np.unpackbits(pixels[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(planes.reshape(height, -1), axis=-1)
    return _save_png(path, rows, (width, height, bits, 0))


def _save_png(
    path: pathlib.Path, rows: np.ndarray, header: tuple[int, int, int, int]
) -> pathlib.Path:
    """Rows of bytes, uint8 [H,B], as a PNG of (width, height, bits, colour type)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    return path


def folders(
    root: pathlib.Path, *, count: int = 6, among=range(34), size: tuple[int, int] = SIZE
) -> dict:
    """Plain folders images/ and labels/ below root; the spec that reads them."""
    for i in range(count):
        save(root / "images" / f"{i:03d}.png", picture(i, size))
        save(root / "labels" / f"{i:03d}.png", ids(i, among, size))
    return {"name": "folders", "images": str(root / "images"), "labels": str(root / "labels")}


def stream(*sets, **fields):
    """Returns the training stream of sets; fields of its option classes are given by their names.

    Nothing is mirrored unless the fields say so.
    """
    fields = {"flip": False, **fields}
    options = {
        name: cls(
            **{f.name: fields.pop(f.name) for f in dataclasses.fields(cls) if f.name in fields}
        )
        for name, cls in (("frame", Frame), ("moves", MoveOptions), ("options", StreamOptions))
    }
    return train_stream(*sets, **options, **fields)
