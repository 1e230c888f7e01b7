"""Class weights of a loss, computed from the labelled set where the configuration asks for it."""

import pathlib
from typing import Any

from rtda_jax.data import batches, enet_weights, frequencies
from rtda_jax.data.labels import class_set
from rtda_jax.run.workdir import write_json


def counted(config: Any, folder: pathlib.Path) -> Any:
    """Returns the configuration with ENet's weights as numbers (loss.weighting="enet").

    The labels of the training set are counted once, streamed. The weights are also written to
    `class_weights.json` for people to look at; an interrupted stage computes them again from the
    counts.

    Args:
      config: a train stage's configuration.
      folder: the stage's, where the counts are kept.
    """
    counts = batches.class_counts(config, batches.labelled_set(config), folder=folder)
    weights = enet_weights(frequencies(counts), c=config.loss.enet_c).tolist()
    names = class_set(config.benchmark.classes).names
    write_json(folder / "class_weights.json", dict(zip(names, weights, strict=True)))
    counted_config = config.copy_and_resolve_references()
    counted_config.update_from_flattened_dict(
        {"loss.weighting": "given", "loss.weights": tuple(weights)}
    )
    return counted_config
