"""Loading public PyTorch weights into a network, and writing a network in the public naming."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import ConfigError
from rtda_jax.weights import imagenet
from rtda_jax.weights.files import WeightFile, read_weights, write_weights
from rtda_jax.weights.naming import Naming
from rtda_jax.weights.public import NETWORKS, TRUNKS

PARTS = ("backbone", "all")

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_COUNT = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Report:
    """What a file gave to a network.

    matched: file names that were loaded. missing: weights of the network, by their own dotted
    paths, that keep their initial values. unused: file names that nothing here uses.
    normalisation: what the weights expect of their input (a key of NORMALISATIONS), None unknown.
    """

    path: str
    model: str
    naming: str
    part: str
    normalisation: str | None
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.part} of {self.model} in the naming {self.naming}, normalisation "
            f"{self.normalisation}; {len(self.matched)} matched, {len(self.missing)} keep their "
            f"initial values, {len(self.unused)} in the file unused"
        )


def _modules(variables: dict[str, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Path in variables of every weight, by (dotted module, PyTorch leaf name)."""
    flat = flax.traverse_util.flatten_dict(variables)
    return {(".".join(p[1:-1]), _LEAVES[p[0], p[-1]]): p for p in flat}


def _expected(naming: Naming, variables: dict[str, Any], part: str) -> dict[str, tuple[str, ...]]:
    """Path in variables of every weight that a file in this naming has for the part, by name."""
    expected = {}
    for (module, leaf), path in _modules(variables).items():
        renamed = naming.rename(module)
        if renamed is not None and (part == "all" or module.startswith("backbone.")):
            expected[f"{renamed}.{leaf}"] = path
    return expected


def _to_torch(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _from_torch(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _some(unordered: Iterable[str]) -> str:
    names = sorted(unordered)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _choose(
    file: WeightFile, namings: dict[str, Naming], variables: dict[str, Any], part: str
) -> str:
    """Name of the naming the file is in: the one that finds most of its weights."""
    names = frozenset(file.arrays)
    if file.metadata.get("naming") in namings:
        return file.metadata["naming"]
    found = {
        name: sum(n in names for n in _expected(naming, variables, part))
        for name, naming in namings.items()
        if naming.fits(names)
    }
    best = [name for name, count in found.items() if count and count == max(found.values())]
    if not best:
        raise ValueError(
            f"{file.path}: its names fit none of the known namings ({', '.join(namings)}); say "
            f"which with naming= if they should; it has {_some(names)}"
        )
    if len(best) > 1:
        raise ValueError(
            f"{file.path}: its names fit the namings {', '.join(best)}, which differ in what the "
            "weights expect of their input; say which with naming="
        )
    return best[0]


def _check_classes(file: WeightFile, expected: dict[str, tuple[str, ...]], flat: Any) -> None:
    for name, path in expected.items():
        main = path[1] in ("classifier", "head") and "classifier" in path and path[-1] == "kernel"
        if main and name in file.arrays:
            theirs, ours = file.arrays[name].shape[:1], np.shape(flat[path])[-1:]
            if theirs and theirs != ours:  # a weight without axes is refused for its shape
                raise ValueError(
                    f"{file.path}: the checkpoint has {theirs[0]} classes ({name}), the network "
                    f"{ours[0]}"
                )


def load_pretrained(
    path: str | pathlib.Path,
    model_name: str,
    variables: dict[str, Any],
    *,
    part: str = "backbone",
    naming: str | None = None,
) -> tuple[dict[str, Any], Report]:
    """Variables of the network with the weights of a local file, and the report of what matched.

    path: .pth, .pt, .tar, .safetensors or .npz in one of the public namings of the network
    (NETWORKS, and TRUNKS for part "backbone"), or "imagenet": the published ImageNet weights of
    the trunk, see imagenet.py. variables: {"params", "batch_stats"} of
    `model.init`. naming: one of those namings by name; needed only where the names in the file do
    not tell (VGG-16 of torchvision or Caffe).

    Raises ValueError, with the file and the names, for a damaged file, an unknown model, part or
    naming, another number of classes, a weight of the part that the file lacks or has in another
    shape, and a trunk weight (for part "all": any weight but the known unused ones) of the file
    that the network does not have.
    """
    if model_name not in NETWORKS:
        raise ValueError(f"unknown model {model_name!r}; known: {', '.join(NETWORKS)}")
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}; known: {', '.join(PARTS)}")
    namings = dict(NETWORKS[model_name])
    if part == "backbone":
        namings = {**TRUNKS.get(model_name, {}), **namings}
    if naming is not None and naming not in namings:
        raise ValueError(f"unknown naming {naming!r}; known: {', '.join(namings)}")
    if str(path) == imagenet.NAME:
        if part != "backbone":
            raise ConfigError("ImageNet weights by name are of the trunk: set part to 'backbone'")
        path, naming = imagenet.find(model_name), imagenet.TRUNKS[model_name].naming
    file = read_weights(path)
    exported = file.metadata.get("model")
    if part == "all" and exported not in (None, model_name):
        raise ValueError(f"{path}: exported from {exported}, not from {model_name}")
    chosen = naming or _choose(file, namings, variables, part)
    how = namings[chosen]

    expected = _expected(how, variables, part)
    if not expected:
        raise ValueError(f"{model_name} has no part {part!r}")
    flat = flax.traverse_util.flatten_dict(variables)
    _check_classes(file, expected, flat)
    absent = [name for name in expected if name not in file.arrays]
    if absent:
        raise ValueError(f"{path}: has no {_some(absent)} ({part} of {model_name}, {chosen})")
    _check_unused(file, how, expected, part, model_name)

    for name, where in expected.items():
        value = _from_torch(file.arrays[name])
        if value.shape != np.shape(flat[where]):
            raise ValueError(
                f"{path}: {name} has shape {file.arrays[name].shape}, {model_name} needs "
                f"{_to_torch(np.empty(np.shape(flat[where]))).shape}"
            )
        if where[-1] == "scale" and re.search(how.inplace_abn, name):
            value = np.abs(value) + np.float32(1e-5)
        flat[where] = jnp.asarray(value, jnp.float32)
    loaded = set(expected.values())
    report = Report(
        path=str(path),
        model=model_name,
        naming=chosen,
        part=part,
        normalisation=file.metadata.get("normalisation", how.normalisation),
        matched=tuple(sorted(expected)),
        missing=tuple(sorted(".".join(p) for p in flat if p not in loaded)),
        unused=tuple(sorted(set(file.arrays) - set(expected))),
    )
    return flax.traverse_util.unflatten_dict(flat), report


def _check_unused(
    file: WeightFile, how: Naming, expected: dict[str, tuple[str, ...]], part: str, model: str
) -> None:
    known = rf"{how.unused}|{how.auxiliary}|\.{_COUNT}$"
    scope = how.trunk if part == "backbone" else ""
    extra = [
        name
        for name in file.arrays
        if name not in expected and re.search(scope, name) and not re.search(known, name)
    ]
    if extra:
        raise ValueError(f"{file.path}: {model} has no {_some(extra)}")


def torch_arrays(variables: dict[str, Any], model_name: str) -> dict[str, np.ndarray]:
    """The arrays of variables by their names and in their layout in the PyTorch network.

    Any tree with the structure of variables will do, gradients for instance. Raises ValueError for
    an unknown model.
    """
    if model_name not in NETWORKS:
        raise ValueError(f"unknown model {model_name!r}; known: {', '.join(NETWORKS)}")
    how = next(iter(NETWORKS[model_name].values()))
    flat = flax.traverse_util.flatten_dict(variables)
    return {name: _to_torch(flat[p]) for name, p in _expected(how, variables, "all").items()}


def export_pretrained(
    variables: dict[str, Any],
    model_name: str,
    path: str | pathlib.Path,
    *,
    normalisation: str | None = None,
) -> None:
    """Write variables to a .safetensors file in the first public naming of the network.

    normalisation (a key of NORMALISATIONS) is recorded in the file and reported when it is loaded.
    The import of the file gives the same variables bit for bit. Raises ValueError for an unknown
    model, or a path with another suffix.
    """
    arrays = torch_arrays(variables, model_name)
    for name in [n for n in arrays if n.endswith(".running_mean")]:
        arrays[name.replace("running_mean", _COUNT)] = np.zeros((), np.int64)
    metadata = {"model": model_name, "naming": next(iter(NETWORKS[model_name]))}
    if normalisation is not None:
        metadata["normalisation"] = normalisation
    write_weights(path, arrays, metadata)
