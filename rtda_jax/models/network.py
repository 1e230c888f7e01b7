"""The contract of a segmentation network: its options, outputs, parameter groups and parts."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from rtda_jax.errors import one_of
from rtda_jax.models.layers import batch_norm_layer

AUXILIARY = ("training", "always")
Group = Literal["trunk", "heads"]


class Network(nn.Module):
    """Base class of the segmentation networks.

    A network defines `__call__(self, images, *, train=False)`, which maps normalised images
    [B,H,W,3] to a dict of float32 arrays: "logits" [B,H,W,K] at the input's resolution, "feature"
    [B,h,w,C] in front of the classifier and, where `computes_auxiliary`, the auxiliary logits
    "aux16", "aux32", ... [B,H,W,K]. Its trunk is the submodule "backbone".

    batch_norm is a key of `layers.BATCH_NORMS`, and axis_name the pmap axis over which batch
    statistics are shared. auxiliary "always" computes the auxiliary logits at inference too.
    """

    num_classes: int = 19
    axis_name: str | None = None
    batch_norm: str = "batch"
    auxiliary: str = "training"
    dtype: Any = jnp.float32

    def trains(self, path: tuple[str, ...]) -> bool:
        """Returns whether the parameter at the path is trained; here all of them are."""
        del path
        return True

    def group(self, path: tuple[str, ...]) -> Group:
        """Returns the parameter group of a path; heads may learn faster than the trunk.

        Here the heads are all layers that start from random weights beside a pretrained trunk.
        """
        return "trunk" if path[0] == "backbone" else "heads"

    def norm_layer(self, **options: float) -> Callable[..., nn.Module]:
        """Returns the constructor of the network's normalisation layers."""
        return batch_norm_layer(
            self.batch_norm, axis_name=self.axis_name, dtype=self.dtype, **options
        )

    def computes_auxiliary(self, *, train: bool) -> bool:
        """Returns whether this call computes the auxiliary logits."""
        return one_of(self.auxiliary, AUXILIARY, "auxiliary") == "always" or train
