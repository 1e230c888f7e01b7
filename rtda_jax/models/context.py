"""The parts that BiSeNet V1 (Yu et al. 2018) and STDC-Seg (Fan et al. 2021) share."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import one_of
from rtda_jax.models.layers import Activation, Conv, ConvNorm, global_mean, image_size
from rtda_jax.ops.activations import relu

FUSION_ATTENTION = ("squeeze", "conv_norm")


@functools.partial(jax.jit, static_argnames="size")  # rtda_jax.deploy.onnx knows it by its name
def double(x: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """Upsamples x [B,h,w,C] to (2h or 2h-1, 2w or 2w-1), to the nearest: floor(i*in/out)."""
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
