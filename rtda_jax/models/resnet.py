"""ResNet trunks (He et al. 2016), torchvision's layout, with the variants DeepLab needs."""

from collections.abc import Callable

import flax.linen as nn
import jax

from rtda_jax.errors import lookup, one_of
from rtda_jax.models.layers import Activation, Conv
from rtda_jax.ops.activations import relu
from rtda_jax.ops.pool import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual, out of a true ReLU."""

    width: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    stride: int = 1
    dilation: int = 1
    project: bool = False
    activation: Activation = relu
    strided: str = "conv1"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,width]."""
        y = self.conv(self.width, 3, self.stride, dilation=self.dilation, name="conv1")(x)
        y = self.activation(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, dilation=self.dilation, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        if self.project:
            x = self.conv(self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, train=train)
        return relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a residual; the stride is on conv2 (torchvision) or conv1 (Caffe)."""

    width: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    stride: int = 1
    dilation: int = 1
    project: bool = False
    activation: Activation = relu
    strided: str = "conv2"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,4*width]."""
        one_of(self.strided, ("conv1", "conv2"), "strided")
        first, second = (self.stride, 1) if self.strided == "conv1" else (1, self.stride)
        y = self.conv(self.width, 1, first, name="conv1")(x)
        y = self.activation(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, second, dilation=self.dilation, name="conv2")(y)
        y = self.activation(self.norm(name="bn2")(y, train=train))
        y = self.conv(4 * self.width, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        if self.project:
            x = self.conv(4 * self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, train=train)
        return relu(x + y)


RESNETS: dict[str, tuple[type[nn.Module], int, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, 1, (2, 2, 2, 2)),
    "resnet101": (Bottleneck, 4, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """Trunk without the ImageNet classifier; returns the outputs of layer1 to layer4.

    depth is a key of RESNETS. With the default strides the four maps are at 1/4, 1/8, 1/16, 1/32.
    activation replaces the ReLU inside the blocks and after the stem, never the one after the sum.
    """

    depth: str
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    strided: str = "conv2"
    pool_ceil: bool = False
    activation: Activation = relu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        """Maps x [B,H,W,3] to four feature maps."""
        block, expansion, counts = lookup(RESNETS, self.depth, "resnet")
        x = self.conv(64, 7, 2, name="conv1")(x)
        x = self.activation(self.norm(name="bn1")(x, train=train))
        x = max_pool(x, window=3, stride=2, padding=1, ceil_mode=self.pool_ceil)
        features = []
        for stage, count in enumerate(counts):
            width = 64 * 2**stage
            for i in range(count):
                stride = self.strides[stage] if i == 0 else 1
                x = block(
                    width=width,
                    conv=self.conv,
                    norm=self.norm,
                    stride=stride,
                    dilation=self.dilations[stage],
                    project=stride != 1 or x.shape[-1] != expansion * width,
                    activation=self.activation,
                    strided=self.strided,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train)
            features.append(x)
        return tuple(features)
