"""Class weights of a loss, computed from the labelled set where the configuration asks for it."""

import json
import pathlib
from typing import Any

from rtda_jax import batches, parallel
from rtda_jax.checkpoint import write_json
from rtda_jax.data import enet_weights, frequencies
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
        counts = batches.class_counts(config, batches.labelled_set(config), folder=folder)
        weights = enet_weights(frequencies(counts), c=config.loss.enet_c)
        names = class_set(config.benchmark.classes).names
        write_json(path, dict(zip(names, weights.tolist(), strict=True)))
    parallel.together("class weights")
    settled_config = config.copy_and_resolve_references()
    settled_config.update_from_flattened_dict(
        {
            "loss.weighting": "given",
            "loss.weights": tuple(json.loads(path.read_text()).values()),
        }
    )
    return settled_config
