"""Class weights of a loss, computed from the labelled set where the configuration asks for it."""

import json
import pathlib
from typing import Any

import numpy as np

from rtda_jax import records
from rtda_jax.checkpoint import write_json
from rtda_jax.data import class_counts, enet_weights, frequencies, load
from rtda_jax.data.labels import class_set


def settled(config: Any, folder: pathlib.Path) -> Any:
    """The configuration with numbers for its class weights.

    With loss.weighting "enet" the labels of the training set are counted once, streamed, and the
    weights written to `class_weights.json`; an interrupted stage reads them there again.
    """
    if config.loss.weighting != "enet":
        return config
    path = folder / "class_weights.json"
    if not path.exists():
        weights = enet_weights(frequencies(counted(config, folder)), c=config.loss.enet_c)
        names = class_set(config.benchmark.classes).names
        write_json(path, dict(zip(names, weights.tolist(), strict=True)))
    settled_config = config.copy_and_resolve_references()
    settled_config.update_from_flattened_dict(
        {
            "loss.weighting": "given",
            "loss.weights": tuple(json.loads(path.read_text()).values()),
        }
    )
    return settled_config


def counted(config: Any, folder: pathlib.Path) -> np.ndarray:
    """Pixels of each class in each image of the labelled training set, int64 [N,K].

    The labels are counted once, streamed, into `class_counts.npy`; an interrupted stage reads it.
    """
    path = folder / "class_counts.npy"
    if not path.exists():
        spec = config.benchmark.source
        if config.labelled == "target":
            spec = config.benchmark.target_labelled
        dataset = load(spec, data_dir=config.data_dir, classes=config.benchmark.classes)
        records.say(f"  counting the classes of {dataset.name}, {len(dataset)} labels")
        partial = path.with_suffix(".partial.npy")
        np.save(partial, class_counts(dataset)[:, :-1])
        partial.rename(path)
    return np.load(path)
