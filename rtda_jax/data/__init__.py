"""Data sets and their labels, from which `rtda_jax.data.stream` makes batches.

Only this package uses TensorFlow. Importing the package does not import it; the first stream or
prepared data set does.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from rtda_jax.data import listing
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import ClassSet, class_set, labelling
from rtda_jax.data.pseudo import PseudoLabels, load_pseudo
from rtda_jax.data.sampling import (
    Candidates,
    RareClass,
    cached_class_counts,
    count_labels,
    enet_weights,
    frequencies,
)
from rtda_jax.data.spec import PREPARED, checked, survey, users_file
from rtda_jax.errors import DataError

__all__ = [
    "Candidates",
    "DataError",
    "Dataset",
    "PseudoLabels",
    "RareClass",
    "cached_class_counts",
    "count_labels",
    "default_dir",
    "enet_weights",
    "frequencies",
    "load",
    "load_pseudo",
    "root_of",
]

# TensorFlow reads these variables when it is loaded. Without them it logs to stderr before logging
# can be configured. No operation that is used here has a oneDNN variant.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def load(
    spec: Mapping[str, Any], *, data_dir: str | os.PathLike, classes: str, role: str = ""
) -> Dataset:
    """Returns the data set of a specification; all files exist, but none is decoded yet.

    Args:
      spec: {"name": ..., "split": ..., "use": "labelled" | "unlabelled", ...}; `spec.FIELDS` has
        all fields and their defaults. Paths are relative to data_dir, or absolute.
      data_dir: the root of the data sets; if empty, $RTDA_JAX_DATA or ~/.cache/rtda_jax.
      classes: the class set that labels are mapped to, see `labels.class_set`.
      role: its field in a benchmark, such as "source", for what people read.

    Raises:
      DataError: a folder (the message says how to get the data), an image or a label is missing, or
        the labels have no map to the classes.
      ConfigError: unknown names.
    """
    fields = checked(spec)
    mapped_to = class_set(classes)
    root = root_of(data_dir)
    if fields["name"] in PREPARED:
        return dataclasses.replace(_prepared(fields, root, mapped_to), role=role)
    files = survey(fields, root, mapped_to, role=role)
    keys = files.keys
    if fields["quarantine"]:
        path = users_file(fields["quarantine"], root)
        dropped = set(listing.choose(keys, listing.read_list(path), what=str(path)))
        keys = tuple(key for key in keys if key not in dropped)
        if not keys:
            raise DataError(f"{path}: leaves out all {len(dropped)} images of {files.name}")
    dataset = files.dataset(keys)
    if fields["store"] == "files":
        return dataset
    from rtda_jax.data import builders  # imports TensorFlow

    return builders.stored(
        dataset,
        data_dir=root / os.path.expanduser(fields["store_dir"]),
        size=tuple(fields["size"]),
        resize=fields["resize"],
        image_format=fields["format"],
    )


def root_of(data_dir: str | os.PathLike) -> pathlib.Path:
    """Returns the folder to which relative paths refer."""
    return pathlib.Path(data_dir).expanduser() if str(data_dir) else default_dir()


def default_dir() -> pathlib.Path:
    """Returns the default root of the data sets: $RTDA_JAX_DATA or ~/.cache/rtda_jax."""
    return pathlib.Path(os.environ.get("RTDA_JAX_DATA") or "~/.cache/rtda_jax").expanduser()


def _prepared(fields: Mapping[str, Any], root: pathlib.Path, classes: ClassSet) -> Dataset:
    """Returns a set that TFDS prepares: the built-in pair, and Cityscapes from its archives."""
    from rtda_jax.data import builders  # imports TensorFlow

    name, split = fields["name"], fields["split"]
    meaning = labelling("cityscapes_ids") if fields["use"] == "labelled" else None
    if meaning is not None:
        classes.lut(meaning)  # fails early if there is no map
    readers = {"streets": builders.streets, "cityscapes_tfds": builders.cityscapes}
    reader = readers[name](root, split)
    return Dataset(f"{name}/{split}", reader.keys, classes, meaning, reader)
