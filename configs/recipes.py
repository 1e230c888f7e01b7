"""Recipes for real-time networks with an ImageNet trunk: the optimizer, the teacher, the masks.

`use_pretrained` changes a configuration of any method. `LONG` has the hyperparameters of DAFormer
and MIC. `SHORT` is for a few hundred or thousand steps, for which the warm-up of DAFormer and MIC
would be too long. It was chosen by a trial in PyTorch and is not tuned. The benchmark's number of
steps chooses between them, and `recipe=short` or `recipe=long` after the colon of --config does so
in its place: with benchmarks of many steps, a short run needs `recipe=short` and --config.steps.
"""

import dataclasses
from typing import Literal

from ml_collections import ConfigDict

from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.augment.normalise import AUTO
from rtda_jax.evaluate import Protocol

Network = Literal["bisenet_lite0", "bisenet_lite1", "bisenet_lite2", "bisenet_resnet18"]

Name = Literal["short", "long"]

MANY = 10_000  # benchmarks of at least this many steps have the long recipe


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a pretrained network is trained.

    Attributes:
      trunk_lr: AdamW's learning rate of the trunk.
      heads_factor: how many times faster the heads learn.
      warmup: the warm-up, a key of `rtda_jax.adapt.optim.WARMUPS`.
      warmup_steps: the steps of the warm-up.
      power: the exponent of the poly schedule; 1 is linear.
      rare_temperature: the temperature of rare class sampling. With that of LONG, a short run would
        see images of the rarest class only.
      jitter: the change of colours of source images, a key of `rtda_jax.augment.colour.RECOLOURS`.
        It helps short runs on few images; DAFormer and MIC change only the mixed images.
      teacher_decay: the weight of the old average when the averaged teacher is updated.
      block: the side of the blocks of a masked view, in pixels.
      hidden_share: the share of these blocks that is hidden.
    """

    trunk_lr: float
    heads_factor: float
    warmup: str
    warmup_steps: int
    power: float
    rare_temperature: float
    jitter: str
    teacher_decay: float
    block: int
    hidden_share: float


SHORT = Recipe(
    trunk_lr=2e-4,
    heads_factor=5.0,
    warmup="linear",
    warmup_steps=50,
    power=0.9,
    rare_temperature=0.1,
    jitter="daformer",
    teacher_decay=0.99,
    block=32,
    hidden_share=0.5,
)
LONG = Recipe(
    trunk_lr=6e-5,
    heads_factor=10.0,
    warmup="linear_factor",
    warmup_steps=1500,
    power=1.0,
    rare_temperature=0.01,
    jitter="none",
    teacher_decay=0.999,
    block=32,
    hidden_share=0.7,
)


def choose(config: ConfigDict, recipe: Name | None = None) -> Recipe:
    """Returns the recipe with a name, or the one that suits the number of steps."""
    return {"short": SHORT, "long": LONG, None: LONG if config.steps >= MANY else SHORT}[recipe]


def use_pretrained(config: ConfigDict, network: str, *, recipe: Name | None = None) -> None:
    """Gives a configuration a network with an ImageNet trunk, AdamW and the recipe's jitter.

    What belongs to another network goes back to its default: options, normalisation, repeated
    updates, and the outputs that are scored and that label the target. A batch has at least two
    images, because the attention of these networks normalises one value of each image.

    Args:
      config: the configuration of any method.
      network: a network with published ImageNet weights.
      recipe: the name of the recipe; None means the one that suits the number of steps.
    """
    chosen = choose(config, recipe)
    config.model.update({"name": network, "pretrained": "imagenet"})
    config.model.options = ConfigDict()  # `update` would keep those of the other network
    config.normalisation = AUTO
    config.eval.output = Protocol.output
    config.batch_size = max(config.batch_size, 2)
    for stage in config.stage.values():
        if "heads" in stage.get("pseudo", {}):
            heads = stage.pseudo.heads
            stage.pseudo.heads = tuple(head for head in heads if head != "coarse") or ("logits",)
    config.augment.texture = chosen.jitter
    config.optim.update(
        {
            "g_repeats": OptimOptions.g_repeats,
            "g_optimizer": "adamw",
            "g_lr": chosen.trunk_lr,
            "g_decay": 0.01,
            "g_decayed": "kernels",
            "g_groups": "heads",
            "g_factor": chosen.heads_factor,
            "warmup": chosen.warmup,
            "warmup_steps": chosen.warmup_steps,
            "warmup_start": 1e-6,
            "power": chosen.power,
        }
    )
