"""Tensors out of PyTorch checkpoints without PyTorch and without running code from the file.

Two layouts: the zip archive (PyTorch 1.6 and later) and the flat one before it. A pickle names the
functions that rebuild its objects; only the handful that rebuild tensors is known here, and any
other name is refused. Objects that share parts can be exponentially larger than their pickle, so
nothing here walks, hashes, compares or prints one as a tree.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any, ClassVar

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_INFLATION = 100
_LONGEST = 2**22  # bytes of a pickle: tens of thousands of tensors
_MOST_AXES = 32
_SHARED = 4  # bytes of all tensors for each byte of their storages

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
    for axes in (shape, strides):
        if not isinstance(axes, tuple) or len(axes) > _MOST_AXES:
            raise pickle.UnpicklingError("a tensor has no shape")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor's shape is not of whole numbers")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: _Tensor, *_: Any) -> _Tensor:
    return data


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}

# What torch.save writes, of any version and from Python 2 and 3.
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
)


class _Bounded:
    """A file of which a pickle may take _LONGEST bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, _LONGEST

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError(f"its pickle is longer than {_LONGEST} bytes")
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline(self.left + 1)
        self.left -= len(line)
        return line


# Of pickle's two implementations the one in Python, where it can be said what a key may be.
_Python: Any = pickle._Unpickler


class _Unpickler(_Python):
    """Knows _FUNCTIONS, the storage types and dicts, refuses everything else by name."""

    def __init__(self, file: IO[bytes], storages: dict[str, _Storage]):
        super().__init__(_Bounded(file), encoding="latin1")
        self._storages = storages
        self._pairs = 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return self._ordered_dict
        if (module, name) in _FUNCTIONS:
            return _FUNCTIONS[module, name]
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return _StorageType(name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise pickle.UnpicklingError("it refers to an object that is not a storage")
        if not isinstance(key, str) or not isinstance(size, int):
            raise pickle.UnpicklingError("a storage has no name or no size")
        if key not in self._storages:
            self._storages[key] = _Storage(key, np.dtype(_DTYPES[storage_type.name]), size)
        return self._storages[key]

    def _ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """Python 2 gives the pairs as an argument, which many calls may share."""
        if not isinstance(pairs, list | tuple):
            raise pickle.UnpicklingError("a dict is made of something else than pairs")
        self._pairs += len(pairs)
        if self._pairs > _LONGEST:
            raise pickle.UnpicklingError("its dicts are larger than the pickle")
        made = {}
        for key, value in pairs:
            made[_key(key)] = value
        return made

    def _set(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("it sets items of something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _setitem(self) -> None:
        items = [self.stack.pop(), self.stack.pop()][::-1]
        self._set(self.stack[-1], items)

    def _setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _build(self) -> None:
        """The attributes of a state dict are left out."""
        self.stack.pop()

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds something that no checkpoint does")

    dispatch: ClassVar = {
        **dict.fromkeys(range(256), _refuse),
        **{
            getattr(pickle, name)[0]: _Python.dispatch[getattr(pickle, name)[0]]
            for name in _OPCODES
        },
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.BUILD[0]: _build,
    }


def _key(key: Any) -> Any:
    if isinstance(key, str | bytes | int | float | None):
        return key
    raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a dict")


def check_unpacked(archive: zipfile.ZipFile) -> None:
    """ValueError for an archive that would unpack to a multiple of its size: weights do not."""
    assert archive.fp is not None
    # Not the sum of what its entries claim: they may lie about it, or all be the same bytes.
    packed = archive.fp.seek(0, io.SEEK_END)
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _INFLATION * packed + 2**20:
        raise ValueError(f"{packed} bytes would unpack to {unpacked}: no weights compress so well")


Storages = dict[str, _Storage]


def _read_zip(file: IO[bytes]) -> tuple[Any, Storages]:
    with zipfile.ZipFile(file) as archive:
        check_unpacked(archive)
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("the archive has no data.pkl: not a PyTorch checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("big-endian checkpoints are not supported")
        storages: Storages = {}
        with archive.open(pickles[0]) as stream:
            tree = _Unpickler(stream, storages).load()
        for storage in storages.values():
            data = archive.read(f"{root}data/{storage.key}")
            storage.data = np.frombuffer(data, storage.dtype, storage.size)
    return tree, storages


def _read_flat(file: IO[bytes]) -> tuple[Any, Storages]:
    storages: Storages = {}

    def load() -> Any:
        return _Unpickler(file, storages).load()

    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("not a PyTorch checkpoint")
    if not load().get("little_endian", False):
        raise ValueError("big-endian checkpoints are not supported")
    tree = load()
    for key in load():
        if not isinstance(key, str) or key not in storages:
            raise ValueError("a storage belongs to no tensor")
        storage = storages[key]
        header = file.read(8)
        size = struct.unpack("<q", header)[0]
        data = file.read(size * storage.dtype.itemsize)
        storage.data = np.frombuffer(data, storage.dtype, size)
    return tree, storages


def read_pickle_file(path: pathlib.Path) -> Any:
    """The object saved by torch.save at path, with NumPy arrays in place of tensors.

    Raises ValueError, naming the file, when it is damaged or would run code.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            return _arrays(*(_read_zip(file) if is_zip else _read_flat(file)))
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f"{path}: cannot be read as a PyTorch checkpoint: {error}") from error


def _arrays(tree: Any, storages: Storages) -> Any:
    """The tree with arrays for tensors; what several parts share is one object in both."""
    left = _SHARED * sum(s.data.nbytes for s in storages.values() if s.data is not None)
    made: dict[int, Any] = {}

    def convert(node: Any) -> Any:
        nonlocal left
        if isinstance(node, _Tensor):
            left -= math.prod(node.shape) * node.storage.dtype.itemsize
            if left < 0:
                raise ValueError(f"its tensors are over {_SHARED} times as large as their storages")
        elif not isinstance(node, dict | list | tuple):
            return node
        if id(node) not in made:
            made[id(node)] = _converted(node, convert)
        return made[id(node)]

    return convert(tree)


def _converted(node: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(node, _Tensor):
        return node.array()
    if isinstance(node, dict):
        return {key: convert(value) for key, value in node.items()}
    return [convert(value) for value in node]
