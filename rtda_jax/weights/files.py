"""Weight files: arrays by name, and the metadata of the file."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rtda_jax.errors import ConfigError, printable
from rtda_jax.run import files
from rtda_jax.run.files import Budget
from rtda_jax.weights import torch_file
from rtda_jax.weights.unpickle import Opaque, Tensor, is_float

# The keys or prefixes that training scripts use for weights in a file. If there are several, the
# first in this order is used: the trained network before its average.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "module", "_orig_mod", "model", "net"),
    *("network", "segmentor", "generator", "student", "backbone", "encoder"),
    *("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "teacher"),
)

_LONGEST_HEADER = 2**22  # bytes of a .safetensors header: tens of thousands of tensors
_COMPILED = re.compile(r"(^|\.)(_orig_mod\.)+")  # torch.compile inserts this anywhere in a name


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a file.

    Attributes:
      path: the path of the file.
      arrays: the arrays by their PyTorch names; floating point numbers are float32.
      metadata: the metadata of a .safetensors file.
      taken: the part of the file that is used, "" for the whole.
      others: the other parts that could have been used.
    """

    path: pathlib.Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    taken: str = ""
    others: tuple[str, ...] = ()


def read_weights(path: str | pathlib.Path, *, key: str = "") -> WeightFile:
    """Returns the weights of a local file by name.

    Args:
      path: a .pth, .pt, .ckpt, .bin or .tar file of torch.save, or .safetensors or .npz.
      key: which weights to take from a file with several, "ema_model" for example: the key of a
        dict in the file, dotted if that is inside another one, or what their names begin with.

    Raises:
      ConfigError: names the file, if it is missing, damaged or of an unknown kind, would run code
        or exhaust the memory, or does not have such a key.
    """
    path = pathlib.Path(path).expanduser()
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: unknown kind of weight file; known: {', '.join(READERS)}")
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"{path} {reason}")
    try:
        file = reader(path, key)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    arrays = {
        _COMPILED.sub(r"\1", name): array
        for name, array in file.arrays.items()
        if array.dtype.kind in "biuf"
    }
    if not arrays:
        raise ConfigError(f"{path}: holds no tensors")
    return dataclasses.replace(file, arrays=arrays)


def _named(file: WeightFile, key: str) -> WeightFile:
    """Returns the weights whose names begin with the key, without it."""
    prefix = f"{key}." if key else ""
    arrays = {
        name.removeprefix(prefix): array
        for name, array in file.arrays.items()
        if name.startswith(prefix)
    }
    if key and not arrays:
        raise ConfigError(f"{file.path}: has no weights {key!r}; {_known(file)}")
    return dataclasses.replace(file, arrays=arrays, taken=".".join(filter(None, (file.taken, key))))


def _known(file: WeightFile) -> str:
    parts = [part for part in (file.taken, *file.others) if part]
    starts = sorted({name.partition(".")[0] for name in file.arrays})
    return f"known: {', '.join(map(printable, (*parts, *starts[:9])))}"


def _read_safetensors(path: pathlib.Path, key: str) -> WeightFile:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ConfigError(f"{path}: its header claims {length} bytes; is it a .safetensors file?")
    try:
        with safe_open(path, framework="np") as file:
            # The file has keys and is no mapping: it cannot be iterated.
            arrays = {name: _as_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return _named(WeightFile(path, arrays, file.metadata() or {}), key)
    except (SafetensorError, ValueError, AttributeError, TypeError) as error:  # or an odd dtype
        raise ConfigError(f"{path}: cannot be read as .safetensors: {error}") from error


def _read_npz(path: pathlib.Path, key: str) -> WeightFile:
    arrays = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            budget = Budget(path.stat().st_size)
            budget.check_archive(file.zip)
            for name in file.files:
                array = file[name]
                budget.spend(4 * array.size)
                arrays[name] = _as_float32(array)
    except Exception as error:  # NumPy may raise anything for a damaged header
        raise ConfigError(f"{path}: cannot be read as .npz: {error}") from error
    return _named(WeightFile(path, arrays), key)


def _as_float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32) if is_float(array.dtype) else array


def _read_torch(path: pathlib.Path, key: str) -> WeightFile:
    with torch_file.open_checkpoint(path) as checkpoint:
        parts = _parts(checkpoint.tree)
        inside = key not in parts
        taken = _choose(path, checkpoint.tree, parts) if not key or inside else key
        arrays = {
            name: checkpoint.array(tensor)
            for name, tensor in parts[taken].items()
            if isinstance(tensor, Tensor)
        }
        others = tuple(sorted(part for part in parts if part not in (taken, "")))
        file = WeightFile(path, arrays, taken=taken, others=others)
        return _named(file, key) if inside else file


def _parts(tree: Any) -> dict[str, dict[str, Any]]:
    """Returns the state dicts of a checkpoint by their dotted keys, "" for the whole.

    A state dict is a dict with a tensor of floating point numbers. The search goes at most two
    levels deep and visits every object once, however many objects share it.
    """
    parts: dict[str, dict[str, Any]] = {}
    level, seen = {"": tree}, set()
    for _ in range(3):
        below: dict[str, Any] = {}
        for name, node in level.items():
            if isinstance(node, dict) and id(node) not in seen:
                seen.add(id(node))
                if any(isinstance(v, Tensor) and v.shape and v.is_float for v in node.values()):
                    parts[name] = node
                prefix = f"{name}." if name else ""
                below |= {prefix + k: v for k, v in node.items() if isinstance(v, dict)}
        level = below
    return parts


def _choose(path: pathlib.Path, tree: Any, parts: dict[str, dict[str, Any]]) -> str:
    """Returns the key of the state dict that is used if the user does not choose one."""
    for wrapper in WRAPPERS:
        for part in parts:
            if part.partition(".")[0] == wrapper:
                return part
    if "" in parts:
        return ""
    if isinstance(tree, Opaque):
        raise ConfigError(
            f"{path}: is a pickled object of class {printable(tree.name)}, which only its own code "
            "can read; save its state_dict() instead"
        )
    if not parts:
        raise ConfigError(f"{path}: holds no tensors")
    if len(parts) > 1:
        known = ", ".join(map(printable, sorted(parts)))
        raise ConfigError(
            f"{path}: holds several sets of weights; set model.pretrained_key to one of: {known}"
        )
    return next(iter(parts))


READERS: dict[str, Callable[[pathlib.Path, str], WeightFile]] = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".tar"), _read_torch),
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}


def write_weights(
    path: str | pathlib.Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes arrays by name to a .safetensors file. Raises ConfigError for another suffix."""
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: weights are exported to .safetensors files")
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    files.write_bytes(path, save(contiguous, {"format": "pt", **metadata}))
