"""Tensors out of PyTorch checkpoints without PyTorch and without running code from the file.

Two layouts: the zip archive (PyTorch 1.6 and later) and the flat one before it. A pickle names the
functions that rebuild its objects; only the handful that rebuild tensors is known here, and any
other name is refused.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_INFLATION = 100

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _StorageType:
    """Stands for a storage class of torch, which is never imported."""

    name: str


@dataclasses.dataclass
class _Tensor:
    """A view of a storage whose bytes may not have been read yet."""

    storage: "_Storage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise ValueError(f"storage {self.storage.key!r} is missing")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= data.size:
            raise ValueError(f"a tensor reaches outside its storage {self.storage.key!r}")
        strides = [s * data.itemsize for s in self.strides]
        if math.prod(self.shape) > data.size:
            raise ValueError(f"a tensor is larger than its storage {self.storage.key!r}")
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
        return np.array(view)


@dataclasses.dataclass
class _Storage:
    key: str
    dtype: Any
    size: int
    data: np.ndarray | None = None


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: _Tensor, *_: Any) -> _Tensor:
    return data


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Knows _GLOBALS and the storage types, refuses everything else by name."""

    def __init__(self, file: IO[bytes], storages: dict[str, _Storage]):
        super().__init__(file, encoding="latin1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return _StorageType(name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise pickle.UnpicklingError(f"unknown persistent object {pid!r}")
        if key not in self._storages:
            self._storages[key] = _Storage(key, np.dtype(_DTYPES[storage_type.name]), size)
        return self._storages[key]


def check_unpacked(archive: zipfile.ZipFile) -> None:
    """ValueError for an archive that would unpack to a multiple of its size: weights do not."""
    entries = archive.infolist()
    packed, unpacked = sum(e.compress_size for e in entries), sum(e.file_size for e in entries)
    if unpacked > _INFLATION * packed + 2**20:
        raise ValueError(f"{packed} bytes would unpack to {unpacked}: no weights compress so well")


def _load(file: IO[bytes], storages: dict[str, _Storage]) -> Any:
    """One pickle; one that would make room for more objects than it has bytes is refused."""
    start = file.tell()
    largest = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None:
            largest = max(largest, argument)
    if largest > file.tell() - start:
        raise ValueError("its memo is larger than the pickle")
    file.seek(start)
    return _Unpickler(file, storages).load()


def _read_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        check_unpacked(archive)
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("the archive has no data.pkl: not a PyTorch checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("big-endian checkpoints are not supported")
        storages: dict[str, _Storage] = {}
        tree = _load(io.BytesIO(archive.read(pickles[0])), storages)
        for storage in storages.values():
            data = archive.read(f"{root}data/{storage.key}")
            storage.data = np.frombuffer(data, storage.dtype, storage.size)
    return tree


def _read_flat(file: IO[bytes]) -> Any:
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        return _load(file, storages)

    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("not a PyTorch checkpoint")
    if not load().get("little_endian", False):
        raise ValueError("big-endian checkpoints are not supported")
    tree = load()
    for key in load():
        if key not in storages:
            raise ValueError(f"storage {key!r} belongs to no tensor")
        storage = storages[key]
        header = file.read(8)
        size = struct.unpack("<q", header)[0]
        data = file.read(size * storage.dtype.itemsize)
        storage.data = np.frombuffer(data, storage.dtype, size)
    return tree


def read_pickle_file(path: pathlib.Path) -> Any:
    """The object saved by torch.save at path, with NumPy arrays in place of tensors.

    Raises ValueError, naming the file, when it is damaged or would run code.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        read: Callable[[IO[bytes]], Any] = _read_zip if is_zip else _read_flat
        try:
            return _arrays(read(file))
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f"{path}: cannot be read as a PyTorch checkpoint: {error}") from error


def _arrays(tree: Any) -> Any:
    if isinstance(tree, _Tensor):
        return tree.array()
    if isinstance(tree, dict):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_arrays(value) for value in tree]
    return tree
