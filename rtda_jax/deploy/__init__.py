"""Uses a trained workdir: predictions, exported networks, cross-domain retrieval."""

import pathlib
import types
from collections.abc import Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from rtda_jax.evaluate import Model


class Networks(NamedTuple):
    """Networks that predict together, and their origin.

    `config` is the stage's configuration; `names` are the stages that left the models, such as
    "train" or "train:teacher"; `networks` are the models' keys of `rtda_jax.models.MODELS`. `step`
    is that of the first of them, and `seals` has the hash of each sealed checkpoint by its stage:
    an evaluation of these weights recorded the same.
    """

    models: tuple[Model, ...]
    names: tuple[str, ...]
    stage: str
    workdir: pathlib.Path
    config: ConfigDict
    networks: tuple[str, ...]
    step: int | None = None
    seals: Mapping[str, str] = types.MappingProxyType({})

    @property
    def files(self) -> dict[str, str]:
        """The name of the file that holds each model's weights, by the model's name."""
        return {name: f"{name.replace(':', '-')}.safetensors" for name in self.names}
