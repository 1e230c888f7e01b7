"""The adversary: which output each discriminator judges, and how it tells the domains apart.

A level names the output that a discriminator judges. The discriminator reads a map that is computed
from this output, for the source and for the target, and learns to label the source 0 and the target
1. The segmentation network is trained so that the discriminator takes the target for the source.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax import losses
from rtda_jax.errors import ConfigError, one_of, require
from rtda_jax.losses import Sum
from rtda_jax.ops.resize import upsample

SOURCE, TARGET = 0.0, 1.0  # the discriminator's labels, in the code of every paper

Size = tuple[int, int]
Verdicts = Mapping[str, Mapping[str, jax.Array]]  # logits by domain and level


class GanLoss(NamedTuple):
    """How a discriminator is trained and read.

    Attributes:
      loss: the function (outputs, domain=label) -> the loss of each output.
      boundary: the output between the domains; the source lies below it, the target above.
    """

    loss: Callable[..., jax.Array]
    boundary: float


GAN_LOSSES = {
    "bce": GanLoss(losses.binary_cross_entropy, boundary=0.0),  # outputs are logits
    "least_squares": GanLoss(losses.least_squares, boundary=0.5),  # outputs approach the labels
}


# The maps that discriminators of logits read.
MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,  # Tsai et al. 2018
    "self_information": losses.self_information,  # AdvEnt, Vu et al. 2019
}


class Level(NamedTuple):
    """The place of one discriminator.

    Attributes:
      number: the level's number. It is fixed, so that the initial weights of the discriminator do
        not depend on which other levels exist.
      head: the output of the segmentation network that the discriminator judges.
    """

    number: int
    head: str


LEVELS = {
    "aux16": Level(0, "aux16"),
    "aux32": Level(1, "aux32"),
    "output": Level(2, "logits"),
    "feature": Level(3, "feature"),
    "aux8": Level(4, "aux8"),
    "aux4": Level(5, "aux4"),
}


@dataclasses.dataclass(frozen=True)
class AdversaryOptions:
    """The section `adversary` of a configuration.

    Attributes:
      network: the kind of discriminator, a key of `rtda_jax.models.DISCRIMINATORS`.
      options: further fields of that network, such as use_bias and output_stride.
      view: the map that discriminators of logits read, a key of `MAPS`. It has nothing to do with
        the views of `adapt/views.py`, which are images.
      gan_loss: the loss of a discriminator's output, a key of `GAN_LOSSES`.
      d_factor: the factor of a discriminator's loss, the sum over both domains. Tsai et al. and
        most others take 1/2, Nikiforos takes 1.
    """

    network: str = "fcd"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    view: str = "softmax"
    gan_loss: str = "bce"
    d_factor: float = 0.5

    def __post_init__(self) -> None:
        one_of(self.view, MAPS, "adversary.view")
        one_of(self.gan_loss, GAN_LOSSES, "adversary.gan_loss")
        require(self.d_factor >= 0, f"adversary.d_factor must be at least 0, got {self.d_factor:g}")


@dataclasses.dataclass(frozen=True)
class Adversary:
    """All discriminators of a method.

    Attributes:
      networks: the discriminators by level; empty if the method has no adversary.
      options: the options of their training.
    """

    networks: Mapping[str, nn.Module]
    options: AdversaryOptions = AdversaryOptions()

    def read(self, level: str, outputs: Mapping[str, jax.Array], *, size: Size) -> jax.Array:
        """Returns what the discriminator of a level reads, [B,h,w,C], C as in the head's output.

        That is a map of the head's logits. Features in front of the classifier are read as they
        are, resized to the image (Tsai et al. 2018).
        """
        output = outputs[LEVELS[level].head]
        if level == "feature":
            return upsample(output, size=size)
        return MAPS[self.options.view](output)

    def judge(
        self, params: Any, outputs: Mapping[str, jax.Array], *, size: Size
    ) -> dict[str, jax.Array]:
        """Returns every discriminator's logits [B,h,w,1] for the outputs of one domain, by level.

        Args:
          params: the parameters of the discriminators, by level.
          outputs: the segmentation network's outputs for images of the domain.
          size: (H, W) of these images.
        """
        verdicts: dict[str, Any] = {}
        for name, network in self.networks.items():
            judged = self.read(name, outputs, size=size)
            verdicts[name] = network.apply({"params": params[name]}, judged)
        return verdicts

    def check(self, outputs: Mapping[str, jax.ShapeDtypeStruct], *, size: Size) -> None:
        """Refuses discriminators that the step cannot train.

        Args:
          outputs: the shapes of the segmentation network's outputs for images of `size`.
          size: (H, W) of these images.

        Raises:
          ConfigError: names the discriminator and what it does.
        """
        name = f"adversary.network={self.options.network!r}"
        for level, network in self.networks.items():
            judged = jax.eval_shape(functools.partial(self.read, level, size=size), dict(outputs))
            try:
                variables = jax.eval_shape(network.init, jax.random.key(0), judged)
                require(
                    variables.keys() == {"params"},
                    f"{name} has the variables {', '.join(sorted(variables))}; expected params "
                    "alone, because the state keeps no running statistics of a discriminator",
                )
                verdict = jax.eval_shape(network.apply, variables, judged)
            except flax.errors.FlaxError as error:
                raise ConfigError(f"{name}: {error}") from error
            shape: tuple[int, ...] = getattr(verdict, "shape", ())
            require(
                len(shape) == 4 and (shape[0], shape[3]) == (judged.shape[0], 1),
                f"{name} returns {verdict} for {judged.shape}; expected logits [B,h,w,1]",
            )

    def losses(self, verdicts: Verdicts) -> dict[str, Sum]:
        """Returns the loss of every discriminator on each domain, by the name it is logged under.

        Args:
          verdicts: the discriminators' logits for "source" and "target", from `judge`.
        """
        gan_loss = GAN_LOSSES[self.options.gan_loss].loss
        sums = {}
        for name in self.networks:
            for domain, label in (("source", SOURCE), ("target", TARGET)):
                loss = gan_loss(verdicts[domain][name], domain=label)
                sums[f"d_{name}_{domain}"] = Sum(loss.sum(), jnp.float32(loss.size))
        return sums

    def accuracies(self, verdicts: Verdicts) -> dict[str, Sum]:
        """Returns how often every discriminator is right on each domain; 1/2 is chance.

        Args:
          verdicts: the discriminators' logits for "source" and "target", from `judge`.
        """
        boundary = GAN_LOSSES[self.options.gan_loss].boundary
        sums = {}
        for name in self.networks:
            source, target = verdicts["source"][name], verdicts["target"][name]
            for domain, right in (("source", source < boundary), ("target", target > boundary)):
                total = right.sum(dtype=jnp.float32)
                sums[f"d_{name}_accuracy_{domain}"] = Sum(total, jnp.float32(right.size))
        return sums
