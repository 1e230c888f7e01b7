"""Uses a trained workdir: predictions, exported networks, cross-domain retrieval."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from rtda_jax.evaluate import Model


class Networks(NamedTuple):
    """Networks that predict together, and their origin.

    `config` is the stage's configuration; `names` are the stages that left the models, such as
    "train" or "train:teacher"; `networks` are the models' keys of `rtda_jax.models.MODELS`.
    """

    models: tuple[Model, ...]
    names: tuple[str, ...]
    stage: str
    workdir: pathlib.Path
    config: ConfigDict
    networks: tuple[str, ...]
