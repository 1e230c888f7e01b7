"""Loads public weights into a network, and writes a network to a file in its public naming."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import ConfigError, lookup, one_of, printable
from rtda_jax.models import DISCRIMINATORS, MODELS
from rtda_jax.weights import imagenet
from rtda_jax.weights.files import WeightFile, read_weights, write_weights
from rtda_jax.weights.match import (
    LeafPath,
    Match,
    best_match,
    expected_names,
    namings_of,
    some,
)

PARTS = ("backbone", "all")
PRECISIONS = {"float32": np.float32, "float16": np.float16}  # of a file that is written


@dataclasses.dataclass(frozen=True)
class Report:
    """What was loaded from a file into a network.

    Attributes:
      path: the path of the file.
      model: the name of the network.
      naming: the naming of the file's weights, a name of `namings`.
      part: "backbone" or "all".
      normalisation: the normalisation of images that the weights expect, a key of NORMALISATIONS;
        None if the file does not say.
      matched: names in the file that were loaded.
      missing: weights of the network, by their own dotted paths, that keep their initial values.
      unused: names in the file that are not used.
      notes: sentences about decisions that a user may want to change.
    """

    path: str
    model: str
    naming: str
    part: str
    normalisation: str | None
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = (
            f"{printable(self.path, limit=None)}: {self.part} of {self.model} in the naming "
            f"{self.naming}, normalisation {printable(self.normalisation)}",
            f"{len(self.matched)} matched, {len(self.missing)} keep their initial values, "
            f"{len(self.unused)} in the file unused",
        )
        return "; ".join((*counts, *self.notes))


def load_pretrained(
    path: str | pathlib.Path,
    model_name: str,
    variables: dict[str, Any],
    *,
    part: str = "backbone",
    naming: str | None = None,
    key: str = "",
) -> tuple[dict[str, Any], Report]:
    """Returns a network's variables with the weights of a file, and the report of what matched.

    If the numbers of classes differ, all weights are loaded except those whose shape depends on
    that number; these keep their values, and the report says so.

    Args:
      path: a weight file in one of the public namings of the network, see `files.read_weights`; or
        "imagenet" for the published ImageNet weights of its trunk, see `imagenet.find`.
      model_name: the name of a network or a discriminator.
      variables: {"params", "batch_stats"} of `model.init`.
      part: "backbone" for the trunk alone, or "all".
      naming: one of the network's namings; needed only if the file is ambiguous.
      key: which weights to take from a file with several, see `files.read_weights`.

    Raises:
      ConfigError: names the file and the weights. The file is damaged; the model, part, naming or
        key is unknown; a weight of the part is missing in the file, has another shape or is not
        finite; or the file has a weight of this part that the network lacks.
    """
    one_of(model_name, {**MODELS, **DISCRIMINATORS}, "model")
    namings = namings_of(model_name, one_of(part, PARTS, "part"))
    if naming is not None:
        one_of(naming, namings, "naming")
    if str(path) == imagenet.NAME:
        if part != "backbone":
            raise ConfigError(
                "ImageNet weights by name are of the trunk: set model.pretrained_part to 'backbone'"
            )
        path, naming = imagenet.find(model_name), imagenet.TRUNKS[model_name].naming
    file = read_weights(path, key=key)
    exported = file.metadata.get("model")
    if part == "all" and exported not in (None, model_name):
        raise ConfigError(f"{path}: exported from {printable(exported)}, not from {model_name}")
    stated = naming or file.metadata.get("naming")
    if stated in namings:
        namings = {stated: namings[stated]}

    if part == "backbone" and "backbone" not in variables["params"]:
        raise ConfigError(f"{model_name} has no part 'backbone'")
    match, notes = best_match(file, namings, variables, part=part, model_name=model_name)
    arrays = match.arrays(file)
    _check_names(file, arrays, match, part=part, model_name=model_name)
    flat = flax.traverse_util.flatten_dict(variables)
    classes = _classes(arrays, match, flat)
    loaded = {}
    for name, leaf in match.expected.items():
        shape = _torch_shape(np.shape(flat[leaf]))
        if arrays[name].shape == shape:
            loaded[match.prefix + name] = leaf
            flat[leaf] = jnp.asarray(_value(file, name, arrays[name], match), jnp.float32)
        elif not _differ_in_classes(arrays[name].shape, shape, classes):
            raise ConfigError(
                f"{file.path}: {name} has shape {arrays[name].shape}, {model_name} needs {shape}"
            )
    if classes and len(loaded) < len(match.expected):
        classifier = [name for name in match.expected if match.prefix + name not in loaded]
        notes += (
            f"the file has {classes[0]} classes and the network {classes[1]}: its classifier keeps "
            f"its initial values ({some(classifier)})",
        )
    report = Report(
        path=str(file.path),
        model=model_name,
        naming=match.name,
        part=part,
        normalisation=file.metadata.get("normalisation", match.naming.normalisation),
        matched=tuple(sorted(loaded)),
        missing=tuple(sorted(".".join(leaf) for leaf in flat.keys() - set(loaded.values()))),
        unused=tuple(sorted(file.arrays.keys() - loaded.keys())),
        notes=notes,
    )
    # Flattening drops empty collections: a network without normalisation has no statistics.
    filled = {name: {} for name in variables} | flax.traverse_util.unflatten_dict(flat)
    return filled, report


def _check_names(
    file: WeightFile,
    arrays: Mapping[str, np.ndarray],
    match: Match,
    *,
    part: str,
    model_name: str,
) -> None:
    """Raises ConfigError for weights that only the network or only the file has."""
    absent = [name for name in match.expected if name not in arrays]
    if absent:
        raise ConfigError(
            f"{file.path}: has no {some(absent)} ({part} of {model_name} in the naming "
            f"{match.name})"
        )
    scope = match.naming.trunk if part == "backbone" else ""
    extra = [
        name
        for name in arrays
        if name not in match.expected
        and re.search(scope, name)
        and not match.naming.knows_unused(name)
    ]
    if extra:
        raise ConfigError(f"{file.path}: {model_name} has no {some(extra)}")


def _classes(
    arrays: Mapping[str, np.ndarray], match: Match, flat: Mapping[LeafPath, Any]
) -> tuple[int, int] | None:
    """Returns the numbers of classes in the file and in the network, or None if they are equal."""
    for name, path in match.expected.items():
        main = path[1] in ("classifier", "head") and "classifier" in path and path[-1] == "kernel"
        if main and arrays[name].ndim == np.ndim(flat[path]):
            theirs, ours = arrays[name].shape[0], np.shape(flat[path])[-1]
            return (theirs, ours) if theirs != ours else None
    return None


def _differ_in_classes(
    theirs: tuple[int, ...], ours: tuple[int, ...], classes: tuple[int, int] | None
) -> bool:
    """Returns whether two shapes agree except for the number of classes."""
    return len(theirs) == len(ours) and all(
        pair[0] == pair[1] or pair == classes for pair in zip(theirs, ours, strict=True)
    )


def _value(file: WeightFile, name: str, array: np.ndarray, match: Match) -> np.ndarray:
    """Returns the value of a weight in a file, in our layout.

    Raises:
      ConfigError: a trained weight cannot have this value.
    """
    if not np.all(np.isfinite(array)):
        raise ConfigError(f"{file.path}: {name} is not finite; the training that wrote it failed")
    if name.endswith(".running_var") and np.any(array < 0):
        raise ConfigError(f"{file.path}: {name}, a variance, is negative")
    if match.expected[name][-1] == "scale" and re.search(match.naming.inplace_abn, name):
        array = np.abs(array) + np.float32(1e-5)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


def torch_arrays(variables: dict[str, Any], model_name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of variables with the names and the layout of the PyTorch network.

    It accepts any tree with the structure of variables, such as gradients.
    """
    naming = next(iter(namings_of(model_name, "all").values()))
    flat = flax.traverse_util.flatten_dict(variables)
    arrays = {}
    for name, path in expected_names(naming, variables, "all").items():
        array = np.asarray(flat[path])
        arrays[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return arrays


def rounded(
    variables: dict[str, Any], model_name: str, path: str | pathlib.Path, *, precision: str
) -> dict[str, np.ndarray]:
    """Returns the arrays of `torch_arrays` in the precision of a file.

    Raises:
      ConfigError: names the path; an unknown precision, or a weight that is too large for it.
    """
    dtype = lookup(PRECISIONS, precision, "precision")
    with np.errstate(over="ignore"):  # what overflows is named below
        arrays = {k: v.astype(dtype) for k, v in torch_arrays(variables, model_name).items()}
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ConfigError(f"{path}: {name} has numbers that {precision} cannot hold")
    return arrays


def export_pretrained(
    variables: dict[str, Any],
    model_name: str,
    path: str | pathlib.Path,
    *,
    normalisation: str | None = None,
    precision: str = "float32",
) -> None:
    """Writes variables to a .safetensors file in the first public naming of the network.

    Importing a file of float32 gives the same variables bit for bit.

    Args:
      variables: the variables of the network.
      model_name: the name of a network or a discriminator.
      path: the path of the file.
      normalisation: a key of NORMALISATIONS that is recorded in the file and reported when it is
        loaded.
      precision: of the numbers in the file, a key of PRECISIONS; float16 halves it.

    Raises:
      ConfigError: an unknown precision, or a weight that is too large for it.
    """
    arrays = rounded(variables, model_name, path, precision=precision)
    for name in [n for n in arrays if n.endswith(".running_mean")]:
        arrays[re.sub("running_mean$", "num_batches_tracked", name)] = np.zeros((), np.int64)
    metadata = {"model": model_name, "naming": next(iter(namings_of(model_name, "all")))}
    if normalisation is not None:
        metadata["normalisation"] = normalisation
    write_weights(path, arrays, metadata)
