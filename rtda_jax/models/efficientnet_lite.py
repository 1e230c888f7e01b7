"""EfficientNet-Lite trunks (TensorFlow's release of 2020) without their ImageNet classifier.

They are EfficientNets (Tan and Le 2019) without squeeze-and-excitation and with ReLU6, made for
small devices. They were trained in TensorFlow, hence the padding "same", the momentum and the
epsilon.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from rtda_jax.errors import lookup
from rtda_jax.models.layers import KAIMING, KAIMING_FAN_OUT, Conv, ConvNorm
from rtda_jax.ops.activations import relu6

MOMENTUM, EPSILON = 0.99, 1e-3
STEM = 32  # features of the first convolution, in every variant

# For each of the seven stages: kernel size, stride of the first block, expansion.
STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
OUTPUT_STAGES = (2, 4, 6)  # the last stages at 1/8, 1/16 and 1/32


class Shape(NamedTuple):
    """Blocks and output features of each of the seven stages."""

    blocks: tuple[int, ...]
    features: tuple[int, ...]


EFFICIENTNETS = {
    "efficientnet_lite0": Shape((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": Shape((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": Shape((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution and linear pointwise projection.

    The input is added where the block keeps its size and features.
    """

    features: int
    size: int
    stride: int
    expansion: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,features]."""
        y, wide = x, self.expansion * x.shape[-1]
        pointwise = functools.partial(ConvNorm, size=1, conv=self.conv, norm=self.norm)
        if self.expansion > 1:
            y = pointwise(wide, activation=relu6, name="expand")(y, train=train)
        y = ConvNorm(
            wide,
            self.size,
            functools.partial(self.conv, kernel_init=KAIMING),  # fan of a single channel
            self.norm,
            stride=self.stride,
            padding="same",
            groups=wide,
            activation=relu6,
            name="depthwise",
        )(y, train=train)
        y = pointwise(self.features, activation=None, name="project")(y, train=train)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """Trunk of a variant, a key of EFFICIENTNETS.

    norm makes normalisations with the trunk's MOMENTUM and EPSILON. The sides of the maps are
    ceil(side / 8), ceil(side / 16) and ceil(side / 32).
    """

    variant: str
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        """Maps x [B,H,W,3] to the feature maps at 1/8, 1/16 and 1/32."""
        shape = lookup(EFFICIENTNETS, self.variant, "efficientnet")
        conv = functools.partial(self.conv, kernel_init=KAIMING_FAN_OUT)
        x = ConvNorm(
            STEM, 3, conv, self.norm, stride=2, padding="same", activation=relu6, name="stem"
        )(x, train=train)
        maps, index = [], 0
        for (size, first_stride, expansion), blocks, features in zip(STAGES, *shape, strict=True):
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                x = InvertedResidual(
                    features, size, stride, expansion, conv, self.norm, name=f"block{index}"
                )(x, train=train)
                index += 1
            maps.append(x)
        return tuple(maps[stage] for stage in OUTPUT_STAGES)
