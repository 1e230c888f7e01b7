"""BiSeNet (Yu et al. 2018) as in Brunstein's code, and Bartoletti's four-scale variant.

A 1x1 convolution and a bilinear resize commute, because the interpolation weights sum to one. The
classifiers are therefore applied before the resizes, on 64 times fewer pixels than in the original
code.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.models.backbones import ResNet
from rtda_jax.models.layers import (
    KAIMING,
    KAIMING_FAN_OUT,
    Conv,
    ConvNorm,
    Group,
    Network,
    check_images,
    global_mean,
    image_size,
    uniform_bias,
    upsample_by,
)
from rtda_jax.ops.activations import relu
from rtda_jax.ops.resize import upsample


class SpatialPath(nn.Module):
    """Three strided 3x3 convolutions, [B,H,W,3] -> [B,H/8,W/8,256]."""

    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps images to the detail features."""
        for i, features in enumerate((64, 128, 256)):
            x = ConvNorm(features, 3, self.conv, self.norm, stride=2, name=f"conv{i + 1}")(
                x, train=train
            )
        return x


class AttentionRefinement(nn.Module):
    """x * sigmoid(BN(conv1x1(mean(x)))), without the usual 3x3 convolution before it."""

    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Refines x [B,H,W,C]."""
        a = self.conv(x.shape[-1], use_bias=True, name="conv")(global_mean(x))
        return x * nn.sigmoid(self.norm(name="bn")(a, train=train))


class FeatureFusion(nn.Module):
    """A 3x3 convolution to one channel per class, and channel attention with a residual."""

    features: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Fuses x [B,h,w,C] into [B,h,w,features]."""
        x = ConvNorm(self.features, 3, self.conv, self.norm, name="convblock")(x, train=train)
        a = relu(self.conv(self.features, use_bias=True, name="conv1")(global_mean(x)))
        return x + x * nn.sigmoid(self.conv(self.features, use_bias=True, name="conv2")(a))


class BiSeNet(Network):
    """Two-path segmentation network, Brunstein's (scales 16, 32) or Bartoletti's (4, 8, 16, 32).

    images float [B,H,W,3], normalised, H and W at least 32. Returns float32
    "logits" [B,H,W,K]; "feature" [B,ceil(H/8),ceil(W/8),K], the fused features in front of the
    classifier; with train=True also "aux<s>" [B,H,W,K], the head on the trunk's 1/s features.
    The original upsamples by exactly 8, so that its output is larger than the labels if a side is
    not a multiple of 8; here this output is cropped to the input size.
    """

    backbone: str = "resnet18"
    scales: tuple[int, ...] = (16, 32)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        check_images(images, network="BiSeNet", stride=32)
        full_size = image_size(images)
        images = images.astype(self.dtype)
        conv = functools.partial(
            Conv, kernel_init=KAIMING, bias_init=uniform_bias, dtype=self.dtype
        )
        trunk_conv = functools.partial(conv, kernel_init=KAIMING_FAN_OUT)
        norm = self.norm_layer()

        spatial = SpatialPath(conv, norm, name="spatial")(images, train=train)
        trunk = ResNet(self.backbone, trunk_conv, norm, name="backbone")(images, train=train)
        stages = dict(zip((4, 8, 16, 32), trunk, strict=True))
        refined = {
            scale: AttentionRefinement(conv, norm, name=f"arm{scale}")(stages[scale], train=train)
            for scale in self.scales
        }
        refined[32] = refined[32] * global_mean(stages[32])

        size = image_size(spatial)
        context = [upsample(refined[scale], size=size) for scale in self.scales]
        feature = FeatureFusion(self.num_classes, conv, norm, name="ffm")(
            jnp.concatenate([spatial, *context], -1), train=train
        )
        logits = conv(self.num_classes, use_bias=True, name="classifier")(feature)
        outputs = {
            "logits": upsample_by(logits.astype(jnp.float32), 8, size=full_size),
            "feature": feature.astype(jnp.float32),
        }
        if self.computes_auxiliary(train=train):
            for scale in self.scales:
                head = conv(self.num_classes, use_bias=True, name=f"aux{scale}")
                aux = upsample(head(refined[scale]).astype(jnp.float32), size=size)
                outputs[f"aux{scale}"] = upsample(aux, size=full_size)
        return outputs

    def group(self, path: tuple[str, ...]) -> Group:
        """Returns "heads" for the feature fusion and the classifiers, as the originals group."""
        return "heads" if path[0] in ("ffm", "classifier") or path[0].startswith("aux") else "trunk"
