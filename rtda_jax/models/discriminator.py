"""Fully convolutional domain discriminators (AdaptSegNet) and their light, separable variant."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import one_of, require
from rtda_jax.models.layers import TORCH_UNIFORM, Conv, check_images, uniform_bias
from rtda_jax.ops.activations import leaky_relu
from rtda_jax.ops.resize import upsample

WIDTHS = (64, 128, 256, 512)
SEPARABLE = {"full": False, "light": True}


class LeakyReLU(nn.Module):
    """max(x, slope * x), a module so that the cost counter sees its elements."""

    slope: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Rectifies x."""
        return leaky_relu(x, self.slope)


class Upsample(nn.Module):
    """Half-pixel bilinear upsampling by a factor, a module so that the cost counter sees it."""

    factor: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Upsamples x [B,h,w,C]."""
        return upsample(x, size=(self.factor * x.shape[1], self.factor * x.shape[2]))


class Discriminator(nn.Module):
    """Five 4x4 convolutions of stride 2, LeakyReLU(0.2) after the first four, float32 logits.

    Input [B,H,W,in_channels] (softmax maps or features, H and W at least 32), output
    [B,H//32,W//32,1], or upsampled by 32 with output_stride=1 (Bartoletti). convolution "light"
    makes each one depthwise then pointwise (Brunstein with biases, 191,364 parameters at 19
    channels; Bartoletti without, use_bias=False, 189,424); "full" is AdaptSegNet's, 2,781,121.
    """

    in_channels: int = 19
    convolution: str = "full"
    use_bias: bool = True
    output_stride: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores x [B,H,W,in_channels]; positive logits mean the target domain (label 1)."""
        check_images(x, network="discriminator", stride=32, channels=self.in_channels)
        one_of(self.convolution, SEPARABLE, "convolution")
        require(
            self.output_stride in (1, 32),
            f"output_stride must be 1 or 32, got {self.output_stride}",
        )
        x = x.astype(self.dtype)
        for i, features in enumerate(WIDTHS):
            x = LeakyReLU(name=f"act{i + 1}")(self._conv(x, features, f"conv{i + 1}"))
        logits = self._conv(x, 1, "classifier").astype(jnp.float32)
        return logits if self.output_stride == 32 else Upsample(32, name="upsample")(logits)

    def _conv(self, x: jax.Array, features: int, name: str) -> jax.Array:
        """Halves x, with one convolution or with a depthwise and a pointwise one."""
        conv = functools.partial(
            Conv,
            use_bias=self.use_bias,
            kernel_init=TORCH_UNIFORM,
            bias_init=uniform_bias,
            dtype=self.dtype,
        )
        halving = functools.partial(conv, size=4, stride=2, padding=1)
        if not SEPARABLE[self.convolution]:
            return halving(features, name=name)(x)
        channels = x.shape[-1]
        x = halving(channels, groups=channels, name=f"{name}_depthwise")(x)
        return conv(features, name=f"{name}_pointwise")(x)
