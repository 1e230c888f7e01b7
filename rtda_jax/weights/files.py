"""Reading and writing weight files: names to arrays, and what the file says about itself."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from rtda_jax.weights.pickle_file import check_unpacked, read_pickle_file

_SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

# What training scripts wrap a state dict in.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Arrays by their PyTorch names, and the metadata of a .safetensors file."""

    path: pathlib.Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or len(data) < 8 + length:
        raise ValueError(f"{path}: truncated, {len(data)} bytes do not hold the header")
    body = memoryview(data)[8 + length :]
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(text, str) for text in metadata.values()
        ):
            raise ValueError("its __metadata__ is not an object of strings")
        spans = [entry["data_offsets"] for entry in header.values()]
        if sum(end - begin for begin, end in spans) > len(body):
            raise ValueError(f"truncated, its tensors do not fit into {len(body)} bytes")
        return {name: _tensor(name, entry, body) for name, entry in header.items()}, metadata
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from error


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> np.ndarray:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"{name} has dtype {entry['dtype']}, which is not supported")
    if not 0 <= begin <= end <= len(body):
        raise ValueError(f"truncated, {name} ends at {end} of {len(body)} bytes")
    dtype = np.dtype(_SAFETENSORS[entry["dtype"]])
    return np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])


def _read_npz(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            check_unpacked(file.zip)
            return {name: file[name] for name in file.files}, {}
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"{path}: cannot be read as .npz: {error}") from error


def _read_torch(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
    tree = read_pickle_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds a {type(tree).__name__}, expected a state dict")
    return tree, {}


READERS: dict[str, Callable[[pathlib.Path], tuple[dict[str, Any], dict[str, str]]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".tar": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}


def read_weights(path: str | pathlib.Path) -> WeightFile:
    """Arrays of a local .pth, .pt, .tar (torch.save), .safetensors or .npz file by name.

    Floating point arrays come as float32; a DataParallel "module." in front of every name goes.
    Raises FileNotFoundError, or ValueError naming the file when it is damaged, truncated, of an
    unknown kind or would run code when read.
    """
    path = pathlib.Path(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: unknown kind of weight file; known: {', '.join(READERS)}")
    tree, metadata = READERS[path.suffix](path)
    arrays = {
        str(name): np.asarray(value, np.float32) if _is_float(value) else value
        for name, value in tree.items()
        if isinstance(value, np.ndarray) and (value.dtype.kind in "biu" or _is_float(value))
    }
    if not arrays:
        raise ValueError(f"{path}: holds no tensors")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): value for name, value in arrays.items()}
    return WeightFile(path, arrays, metadata)


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def write_weights(
    path: str | pathlib.Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write arrays by name to a .safetensors file. Raises ValueError for another suffix."""
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are exported to .safetensors files")
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    path.write_bytes(save(contiguous, {"format": "pt", **metadata}))
