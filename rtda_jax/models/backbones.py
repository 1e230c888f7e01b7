"""ResNet, STDC and VGG-16 trunks without their ImageNet classifiers.

ResNet (He et al. 2016) has torchvision's layout and the variants that DeepLab needs, STDC (Fan et
al. 2021) comes as STDCNet813 and STDCNet1446, and VGG-16 (Simonyan and Zisserman 2015) has the
dilations of DeepLab. EfficientNet-Lite has a file of its own.
"""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import lookup, one_of
from rtda_jax.models.layers import Activation, Conv, ConvNorm
from rtda_jax.ops.activations import relu
from rtda_jax.ops.pool import max_pool


class ResidualBlock(nn.Module):
    """The fields of both blocks of a ResNet, and the shortcut around the convolutions.

    The output has expansion * width features. strided names the convolution of a Bottleneck that
    has the stride; in a BasicBlock it is conv1.
    """

    expansion: ClassVar[int]

    width: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    stride: int = 1
    dilation: int = 1
    activation: Activation = relu
    strided: str = "conv2"

    def shortcut(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns x, projected where the block changes its size or the number of features."""
        features = self.expansion * self.width
        if self.stride == 1 and x.shape[-1] == features:
            return x
        x = self.conv(features, 1, self.stride, name="downsample_conv")(x)
        return self.norm(name="downsample_bn")(x, train=train)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a residual, always followed by a ReLU."""

    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,width]."""
        y = self.conv(self.width, 3, self.stride, dilation=self.dilation, name="conv1")(x)
        y = self.activation(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, dilation=self.dilation, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        return relu(self.shortcut(x, train=train) + y)


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 and a residual; the stride is on conv2 (torchvision) or conv1 (Caffe)."""

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,4*width]."""
        one_of(self.strided, ("conv1", "conv2"), "strided")
        first, second = (self.stride, 1) if self.strided == "conv1" else (1, self.stride)
        y = self.conv(self.width, 1, first, name="conv1")(x)
        y = self.activation(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.width, 3, second, dilation=self.dilation, name="conv2")(y)
        y = self.activation(self.norm(name="bn2")(y, train=train))
        y = self.conv(self.expansion * self.width, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        return relu(self.shortcut(x, train=train) + y)


RESNETS: dict[str, tuple[type[ResidualBlock], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
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
        block, counts = lookup(RESNETS, self.depth, "resnet")
        x = self.conv(64, 7, 2, name="conv1")(x)
        x = self.activation(self.norm(name="bn1")(x, train=train))
        x = max_pool(x, window=3, stride=2, padding=1, ceil_mode=self.pool_ceil)
        features = []
        for stage, count in enumerate(counts):
            for i in range(count):
                x = block(
                    width=64 * 2**stage,
                    conv=self.conv,
                    norm=self.norm,
                    stride=self.strides[stage] if i == 0 else 1,
                    dilation=self.dilations[stage],
                    activation=self.activation,
                    strided=self.strided,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train)
            features.append(x)
        return tuple(features)


STDCS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}


class CatBottleneck(nn.Module):
    """A chain of four convolutions N/2, N/4, N/8, N/8 whose outputs are concatenated.

    With stride 2, the chain continues from a strided depthwise convolution of the first output, and
    the first concatenated piece is the 3x3 average of that output (padding counted).
    """

    features: int
    stride: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,features]."""
        n = self.features
        first = ConvNorm(n // 2, 1, self.conv, self.norm, name="conv0")(x, train=train)
        x = first
        if self.stride == 2:
            x = self.conv(n // 2, 3, 2, groups=n // 2, name="avd_conv")(x)
            x = self.norm(name="avd_bn")(x, train=train)
            first = nn.avg_pool(first, (3, 3), (2, 2), ((1, 1), (1, 1)))
        pieces = [first]
        for i, width in enumerate((n // 4, n // 8, n // 8)):
            x = ConvNorm(width, 3, self.conv, self.norm, name=f"conv{i + 1}")(x, train=train)
            pieces.append(x)
        return jnp.concatenate(pieces, -1)


class STDC(nn.Module):
    """Trunk of depth "stdc1" or "stdc2"; returns the maps at 1/2, 1/4, 1/8, 1/16, 1/32.

    They have 32, 64, 256, 512 and 1024 channels.
    """

    depth: str
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
        """Maps x [B,H,W,3] to five feature maps."""
        counts = lookup(STDCS, self.depth, "stdc")
        maps = []
        for i, features in enumerate((32, 64)):
            x = ConvNorm(features, 3, self.conv, self.norm, stride=2, name=f"features_{i}")(
                x, train=train
            )
            maps.append(x)
        index = 2
        for features, count in zip((256, 512, 1024), counts, strict=True):
            for i in range(count):
                x = CatBottleneck(
                    features, 2 if i == 0 else 1, self.conv, self.norm, name=f"features_{index}"
                )(x, train=train)
                index += 1
            maps.append(x)
        return tuple(maps)


VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class DilatedVGG16(nn.Module):
    """The 13 convolutions with only pools 1 to 3, conv5 dilated by 2, and fc6, fc7 dilated by 4."""

    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B,H,W,3] to [B,H//8,W//8,1024]."""
        for stage, widths in enumerate(VGG16, start=1):
            dilation = 2 if stage == 5 else 1
            for i, width in enumerate(widths, start=1):
                layer = self.conv(
                    width, 3, dilation=dilation, use_bias=True, name=f"conv{stage}_{i}"
                )
                x = relu(layer(x))
            if stage <= 3:
                x = max_pool(x, window=2, stride=2)
        for name in ("fc6", "fc7"):
            x = relu(self.conv(1024, 3, dilation=4, use_bias=True, name=name)(x))
        return x
