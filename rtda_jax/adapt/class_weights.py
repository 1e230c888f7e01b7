"""Class weights of a loss, computed from the labelled set where the configuration asks for it."""

import pathlib
from typing import Any

from rtda_jax.data import batches, enet_weights, frequencies
from rtda_jax.data.labels import class_set
from rtda_jax.run.workdir import write_json


def settled(config: Any, folder: pathlib.Path) -> Any:
    """The configuration with numbers for its class weights.

    With loss.weighting "enet" the labels of the training set are counted once, streamed, and the
    weights written to `class_weights.json`, to be looked at: an interrupted stage computes them
    again from the counts.
    """
    if config.loss.weighting != "enet":
        return config
    counts = batches.class_counts(config, batches.labelled_set(config), folder=folder)
    weights = enet_weights(frequencies(counts), c=config.loss.enet_c).tolist()
    names = class_set(config.benchmark.classes).names
    write_json(folder / "class_weights.json", dict(zip(names, weights, strict=True)))
    settled_config = config.copy_and_resolve_references()
    settled_config.update_from_flattened_dict(
        {"loss.weighting": "given", "loss.weights": tuple(weights)}
    )
    return settled_config
