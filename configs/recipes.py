"""Recipes for real-time networks with an ImageNet trunk: the optimizer, the teacher, the masks.

`pretrain` changes a configuration of any method. `SMALL` is for small pairs of images and a few
hundred steps, where the numbers of DAFormer and MIC would not leave the warm-up; it was chosen by a
trial in PyTorch and is not tuned. `FULL` has the numbers of DAFormer and MIC.
"""

import dataclasses
from typing import Literal

from ml_collections import ConfigDict

Network = Literal["bisenet_lite0", "bisenet_lite1", "bisenet_lite2", "bisenet_resnet18"]

LONG = 10_000  # steps from which a run is trained by the recipe FULL


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a pretrained network is trained.

    Attributes:
      lr, factor: AdamW's learning rate of the trunk, and how many times faster the heads learn.
      warmup: steps of the linear warm-up.
      power: of the poly schedule; 1 is linear.
      rare: temperature of rare class sampling; a short run would see the rarest class alone.
      decay: of the averaged teacher.
      block, hidden: side of the blocks of a masked view in pixels, and the share that is hidden.
    """

    lr: float
    factor: float
    warmup: int
    power: float
    rare: float
    decay: float
    block: int
    hidden: float


SMALL = Recipe(2e-4, 5.0, warmup=50, power=0.9, rare=0.1, decay=0.99, block=32, hidden=0.5)
FULL = Recipe(6e-5, 10.0, warmup=1500, power=1.0, rare=0.01, decay=0.999, block=32, hidden=0.7)


def recipe(config: ConfigDict) -> Recipe:
    """Returns the recipe for the length of the benchmark's runs."""
    return FULL if config.steps >= LONG else SMALL


def pretrain(config: ConfigDict, network: str) -> None:
    """Changes a configuration to a network with ImageNet's trunk, and to AdamW.

    Args:
      config: of any method.
      network: a network with published ImageNet weights.
    """
    chosen = recipe(config)
    config.model.update({"name": network, "pretrained": "imagenet"})
    config.optim.update(
        {
            "g_optimizer": "adamw",
            "g_lr": chosen.lr,
            "g_decay": 0.01,
            "g_decayed": "kernels",
            "g_groups": "heads",
            "g_factor": chosen.factor,
            "warmup": "linear",
            "warmup_steps": chosen.warmup,
            "warmup_start": 1e-6,
            "power": chosen.power,
        }
    )
