"""Reads files of torch.save without PyTorch: the zip archive, and the flat file before version 1.6.

`unpickle` reads the pickle of a file first. Tensors remain descriptions until their values are
requested, and only the storages of those tensors are read. All memory for unpacked, shared and
converted data counts against one budget.
"""

import contextlib
import dataclasses
import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from rtda_jax.errors import ConfigError
from rtda_jax.run.files import Budget
from rtda_jax.weights import unpickle
from rtda_jax.weights.unpickle import Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

# Errors that the libraries used here raise for a damaged file.
_DAMAGE = (
    *(ValueError, OSError, EOFError, KeyError, OverflowError, MemoryError),
    *(RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass
class Checkpoint:
    """An open file of torch.save.

    Attributes:
      tree: its dicts and lists, with `Tensor` and `Opaque` in place of other objects.
    """

    tree: Any
    _read: Callable[[Storage], bytes]
    _budget: Budget
    _data: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def array(self, tensor: Tensor) -> np.ndarray:
        """Returns the values of a tensor, in float32 if they are floating point numbers.

        Raises:
          ValueError: the tensor lies outside its storage, or the budget is spent.
        """
        storage = tensor.storage
        dtype = np.dtype(np.float32) if tensor.is_float else storage.dtype
        self._budget.spend(math.prod(tensor.shape) * dtype.itemsize)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        if storage.key not in self._data:
            self._budget.spend(storage.size * storage.dtype.itemsize)
            content = self._read(storage)
            self._data[storage.key] = np.frombuffer(content, storage.dtype, storage.size)
        data = self._data[storage.key]
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((count - 1) * stride for count, stride in steps)
        if last >= data.size or math.prod(tensor.shape) > data.size:
            raise ValueError(f"a tensor reaches outside its storage {storage.key!r}")
        strides = [stride * data.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(
            data[tensor.offset :], tensor.shape, strides, writeable=False
        )
        return view.astype(dtype)


@contextlib.contextmanager
def open_checkpoint(path: pathlib.Path) -> Iterator[Checkpoint]:
    """Opens a file of torch.save; the checkpoint can be read until the context ends.

    Raises:
      ConfigError: names the file, if it is damaged, takes more work or memory than weights need, or
        would run code; this can also happen inside the context.
    """
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        try:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            is_archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if is_archive:
                archive = stack.enter_context(zipfile.ZipFile(file))
                yield _open_archive(archive, Budget(size))
            else:
                yield _open_flat(file, size)
        except ConfigError:
            raise
        except _DAMAGE as error:
            raise ConfigError(f"{path}: cannot be read as a PyTorch checkpoint: {error}") from error


def _open_archive(archive: zipfile.ZipFile, budget: Budget) -> Checkpoint:
    budget.check_archive(archive)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("the archive has no data.pkl")
    # PyTorch does not compress the pickle; in a repacked archive it may be longer than the file.
    longest = min(unpickle.LONGEST, 4 * budget.file_size + 2**16)
    if archive.getinfo(pickles[0]).file_size > longest:
        raise ValueError(f"its pickle is longer than {longest} bytes")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.getinfo(order).file_size < 9:
        _check_order(archive.read(order) == b"little")
    tree, _ = unpickle.load(archive.read(pickles[0]), {})
    return Checkpoint(tree, lambda storage: archive.read(f"{root}data/{storage.key}"), budget)


def _open_flat(file: IO[bytes], file_size: int) -> Checkpoint:
    storages: dict[str, Storage] = {}

    def load() -> Any:
        begin = file.tell()
        data = file.read(unpickle.LONGEST)
        try:
            tree, length = unpickle.load(data, storages)
        except ValueError as error:
            if len(data) == unpickle.LONGEST:
                raise ValueError(f"{error}, in the first {len(data)} bytes") from error
            raise
        file.seek(begin + length)
        return tree

    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("it does not begin like one")
    system = load()
    _check_order(isinstance(system, dict) and system.get("little_endian") is True)
    tree = load()
    keys = load()
    positions: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise ValueError("a storage belongs to no tensor")
        (count,) = struct.unpack("<q", file.read(8))
        positions[key] = file.tell()
        end = file.tell() + count * storages[key].dtype.itemsize
        if count != storages[key].size or end > file_size:
            raise ValueError(f"the storage {key!r} is truncated")
        file.seek(end)

    def read(storage: Storage) -> bytes:
        file.seek(positions[storage.key])
        return file.read(storage.size * storage.dtype.itemsize)

    return Checkpoint(tree, read, Budget(file_size))


def _check_order(little: bool) -> None:
    if not little:
        raise ValueError("its numbers are big-endian, which is not supported")
