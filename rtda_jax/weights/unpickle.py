"""Reads the pickle of a PyTorch checkpoint as data: nothing that it names is imported or called.

A pickle is a program for a small stack machine, and the machine in Python's library runs any
function that the pickle names. The machine here knows only the few instructions and constructors
that make dicts, lists and tensors; an object of any other class becomes `Opaque`, which keeps only
its name. Objects that share parts can be exponentially larger than their pickle, and names can be
constructed that are slow to look up. Every instruction therefore takes constant work and memory,
their number is limited, and no object is walked, hashed, compared or printed as a tree.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from rtda_jax.errors import printable

LONGEST = 2**22  # bytes of a pickle: tens of thousands of tensors
_MOST_WORK = 2**20  # instructions, and items of dicts
_LONGEST_NAME = 2**10
_MOST_AXES = 32
_MOST_ARGUMENTS = 8

DTYPES: dict[str, Any] = {
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


def is_float(dtype: np.dtype) -> bool:
    """Returns whether arrays of a dtype hold floating point numbers, those of bfloat16 included."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Stands for an object of an unknown class; name is the name of the class."""

    name: str


@dataclasses.dataclass(frozen=True)
class StorageType:
    """Stands for a storage class of PyTorch, a key of DTYPES."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Elements of a file of which tensors are views; size is their number."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, whose offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether its values are floating point numbers."""
        return is_float(self.storage.dtype)


@dataclasses.dataclass(frozen=True)
class _Constructor:
    build: Callable[..., Any]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor | Opaque:
    if isinstance(storage, Opaque):
        return storage
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    for axes in (shape, strides):
        if not isinstance(axes, tuple) or len(axes) > _MOST_AXES:
            raise ValueError("a tensor has no shape")
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape is not of whole numbers")
    return Tensor(storage, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _subclass(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Builds a tensor that had attributes or its own class, without them."""
    return _call(function, arguments)


def _factory(*_: Any) -> dict[str, Any]:
    return {}


_KNOWN: dict[str, _Constructor] = {
    "torch._utils _rebuild_tensor": _Constructor(_tensor),
    "torch._utils _rebuild_tensor_v2": _Constructor(_tensor),
    "torch._utils _rebuild_parameter": _Constructor(_parameter),
    "torch._utils _rebuild_parameter_with_state": _Constructor(_parameter),
    "torch._tensor _rebuild_from_type_v2": _Constructor(_subclass),
    "collections defaultdict": _Constructor(_factory),
}
_ORDERED_DICT = "collections OrderedDict"

# Names that only attacks use. A file with one of them is refused; what prevents it from running
# anything is that nothing here is called by name.
_ATTACKS = (
    *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "pty", "shutil", "socket"),
    *("importlib", "runpy", "ctypes"),
)
_ATTACKING_BUILTINS = ("eval", "exec", "compile", "open", "__import__", "breakpoint", "input")


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(arguments, tuple):
        raise ValueError("a function's arguments are not a tuple")
    if isinstance(function, Opaque):
        return function
    if not isinstance(function, _Constructor):
        raise ValueError("it calls something else than a function")
    if len(arguments) > _MOST_ARGUMENTS:
        raise ValueError(f"a function is given more than {_MOST_ARGUMENTS} arguments")
    try:
        return function.build(*arguments)
    except TypeError as error:  # too few of them
        raise ValueError(f"a function's arguments do not fit: {error}") from error


def _set(target: Any, key: Any, value: Any) -> None:
    """Sets an item of a dict under the text of its key.

    Only text is hashed, with a seed that no file knows. State dicts have no other keys: a number
    becomes text, and items with any other key are left out.
    """
    if isinstance(target, Opaque):
        return
    if not isinstance(target, dict):
        raise ValueError("it sets items of something else than a dict")
    if isinstance(key, bytes):
        key = key.decode("latin1")
    elif isinstance(key, bool | int | float | None):
        key = repr(key)
    elif not isinstance(key, str):
        return
    if len(key) > _LONGEST_NAME:
        raise ValueError(f"a name is longer than {_LONGEST_NAME} characters")
    target[key] = value


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages = storages
        self.work = _MOST_WORK

    def spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise ValueError(f"it takes more than {_MOST_WORK} steps to read")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def drop_since_mark(self, _: Any) -> None:
        self.since_mark()

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.push(self.memo[index])

    def empty_dict(self, _: Any) -> None:
        self.push({})

    def empty_list(self, _: Any) -> None:
        self.push([])

    def empty_set(self, _: Any) -> None:
        self.push(Opaque("set"))

    def frozen_set(self, _: Any) -> None:
        self.since_mark()
        self.push(Opaque("frozenset"))

    def tuple_since_mark(self, _: Any) -> None:
        self.push(tuple(self.since_mark()))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) < count:
            raise ValueError("a tuple lacks an item")
        del self.stack[len(self.stack) - count :]
        self.push(items)

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def extend(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("it appends to something else than a list")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set(self.stack[-1], key, value)

    def set_items(self, _: Any) -> None:
        items = self.since_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    def constant(self, name: str) -> None:
        """Pushes the replacement of "module name", a class or a function."""
        module, _, inside = name.partition(" ")
        builtin = module in ("builtins", "__builtin__") and inside in _ATTACKING_BUILTINS
        if builtin or module.partition(".")[0] in _ATTACKS:
            raise ValueError(f"it would run {printable(f'{module}.{inside}')} if PyTorch read it")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"a name is longer than {_LONGEST_NAME} characters")
        if name == _ORDERED_DICT:
            self.push(_Constructor(self._ordered_dict))
        elif name in _KNOWN:
            self.push(_KNOWN[name])
        elif module in ("torch", "torch.cuda") and inside in DTYPES:
            self.push(StorageType(inside))
        else:
            self.push(Opaque(f"{module}.{inside}"))

    def constant_of_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a class has no name")
        self.constant(f"{module} {name}")

    def _ordered_dict(self, pairs: Any = ()) -> dict[str, Any]:
        """Builds a dict; Python 2 gives its pairs, which many calls may share, as an argument."""
        if not isinstance(pairs, list | tuple):
            raise ValueError("a dict is made of something else than pairs")
        self.spend(len(pairs))
        items: dict[str, Any] = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError("a dict is made of something else than pairs")
            _set(items, *pair)
        return items

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(_call(function, arguments))

    def new_object(self, _: Any) -> None:
        """Makes an instance of a class, of which only the name is kept."""
        _, kind = self.stack.pop(), self.stack.pop()
        self.push(kind if isinstance(kind, Opaque) else Opaque("object"))

    def new_object_of_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.new_object(None)

    def leave_out_state(self, _: Any) -> None:
        """Drops the attributes that an object would get."""
        self.stack.pop()

    def storage(self, _: Any) -> None:
        """Pushes the storage that a persistent id, a tuple, describes."""
        described = self.stack.pop()
        if not isinstance(described, tuple) or len(described) not in (5, 6):
            raise ValueError("it refers to an object that is not a storage")
        kind, storage_type, key, _, size = described[:5]
        if isinstance(storage_type, Opaque):
            self.push(storage_type)
            return
        is_view = len(described) == 6 and described[5] is not None  # of PyTorch 0.1
        if kind != "storage" or not isinstance(storage_type, StorageType) or is_view:
            raise ValueError("it refers to an object that is not a storage")
        if not isinstance(key, str) or not isinstance(size, int) or size < 0:
            raise ValueError("a storage has no name or no size")
        if key not in self.storages:
            self.storages[key] = Storage(key, np.dtype(DTYPES[storage_type.name]), size)
        self.push(self.storages[key])


_CONSTANTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_since_mark,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "EMPTY_DICT": _Machine.empty_dict,
    "EMPTY_LIST": _Machine.empty_list,
    "EMPTY_SET": _Machine.empty_set,
    "FROZENSET": _Machine.frozen_set,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": _Machine.tuple_since_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.drop_since_mark,  # of a set, which is opaque
    "GLOBAL": _Machine.constant,
    "STACK_GLOBAL": _Machine.constant_of_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_of_keywords,
    "BUILD": _Machine.leave_out_state,
    "BINPERSID": _Machine.storage,
}


def load(data: bytes, storages: dict[str, Storage]) -> tuple[Any, int]:
    """Returns the object that a pickle describes, and the length of the pickle.

    Args:
      data: bytes that begin with the pickle.
      storages: the known storages by their keys; new ones are added.

    Raises:
      ValueError: the pickle is damaged, is too much work or too long, or names what only an
        attack would run.
    """
    machine = _Machine(storages)
    stream = io.BytesIO(data)
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            machine.spend(1)
            if instruction.name == "STOP":
                return machine.stack.pop(), stream.tell()
            if instruction.name not in _INSTRUCTIONS:
                raise ValueError(f"it has the instruction {instruction.name}, as no checkpoint has")
            _INSTRUCTIONS[instruction.name](machine, argument)
    except (IndexError, KeyError) as error:
        raise ValueError(f"its pickle is damaged ({error!r})") from error
    raise ValueError("its pickle has no end")
