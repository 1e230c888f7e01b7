"""DeepLabV2 (Chen et al. 2017) as in AdaptSegNet and its successors."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import lookup, one_of
from rtda_jax.models.backbones import DilatedVGG16, ResNet
from rtda_jax.models.layers import (
    KAIMING_FAN_OUT,
    NORMAL_001,
    Conv,
    Network,
    check_images,
    image_size,
    uniform_bias,
)
from rtda_jax.ops.resize import upsample

DILATIONS = (6, 12, 18, 24)
ASPP = {"all": DILATIONS, "first_two": DILATIONS[:2]}
HEADS = ("single", "multi")


class AtrousClassifier(nn.Module):
    """Sum of four dilated 3x3 convolutions to float32 logits.

    aspp "first_two" adds up only dilations 6 and 12, as AdaptSegNet's code does because of an early
    return; the parameters of 18 and 24 exist but are never trained.
    """

    num_classes: int
    conv: Callable[..., Conv]
    aspp: str = "all"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Classifies x [B,h,w,C] into [B,h,w,K]."""
        summed = lookup(ASPP, self.aspp, "aspp")
        active = DILATIONS if self.is_initializing() else summed
        branches = [
            self.conv(self.num_classes, 3, dilation=d, use_bias=True, name=f"dilation{d}")(x)
            for d in active
        ]
        return functools.reduce(jnp.add, branches).astype(jnp.float32)


def _idle_branches(aspp: str) -> set[str]:
    """Returns the names of the branches that aspp leaves out."""
    return {f"dilation{d}" for d in DILATIONS if d not in ASPP[aspp]}


class DeepLab(Network):
    """DeepLabV2 on ResNet-101 with stride 8, strides on conv1 (Caffe) and ceil-mode pooling.

    images float [B,H,W,3], normalised, H and W at least 8. Returns float32 "logits" [B,H,W,K]
    (align_corners resize of the map at about 1/8, 65x129 for 512x1024); "coarse" [B,h,w,K], that
    map; "feature" [B,h,w,2048], the output of layer4; with heads "multi" and train=True also
    "aux16", the classifier on layer3. The affine parameters of the normalisations are never trained
    (`trains`), but the running statistics are updated.
    """

    heads: str = "single"
    aspp: str = "all"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        check_images(images, network="DeepLab", stride=8)
        one_of(self.heads, HEADS, "heads")
        size = image_size(images)
        conv = functools.partial(Conv, kernel_init=KAIMING_FAN_OUT, dtype=self.dtype)
        head_conv = functools.partial(conv, kernel_init=NORMAL_001, bias_init=uniform_bias)
        norm = self.norm_layer()
        trunk = ResNet(
            "resnet101",
            conv,
            norm,
            strides=(1, 2, 1, 1),
            dilations=(1, 1, 2, 4),
            strided="conv1",
            pool_ceil=True,
            name="backbone",
        )
        layer3, layer4 = trunk(images.astype(self.dtype), train=train)[2:]
        logits = AtrousClassifier(self.num_classes, head_conv, self.aspp, name="classifier")(layer4)
        outputs = {
            "logits": upsample(logits, size=size, align="corners"),
            "coarse": logits,
            "feature": layer4.astype(jnp.float32),
        }
        if self.heads == "multi" and self.computes_auxiliary(train=train):
            head = AtrousClassifier(self.num_classes, head_conv, self.aspp, name="aux16")
            outputs["aux16"] = upsample(head(layer3), size=size, align="corners")
        return outputs

    def trains(self, path: tuple[str, ...]) -> bool:
        """Returns False for the affine parameters of the normalisations and for idle branches."""
        return "bn" not in path[-2] and _idle_branches(self.aspp).isdisjoint(path)


class DeepLabVGG(Network):
    """DeepLabV2 on VGG-16 with stride 8, without normalisation layers.

    images float [B,H,W,3], normalised, H and W at least 8. Returns float32 "logits" [B,H,W,K]
    (align_corners resize), "coarse" [B,H//8,W//8,K] before the resize and "feature"
    [B,H//8,W//8,1024], the output of fc7. axis_name, batch_norm and auxiliary are accepted for
    uniformity but have no effect.
    """

    aspp: str = "all"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        del train
        check_images(images, network="DeepLabVGG", stride=8)
        conv = functools.partial(Conv, kernel_init=KAIMING_FAN_OUT, dtype=self.dtype)
        head_conv = functools.partial(conv, kernel_init=NORMAL_001, bias_init=uniform_bias)
        feature = DilatedVGG16(conv, name="backbone")(images.astype(self.dtype))
        logits = AtrousClassifier(self.num_classes, head_conv, self.aspp, name="classifier")(
            feature
        )
        return {
            "logits": upsample(logits, size=image_size(images), align="corners"),
            "coarse": logits,
            "feature": feature.astype(jnp.float32),
        }

    def trains(self, path: tuple[str, ...]) -> bool:
        """Returns False for the branches of the classifier that aspp leaves out."""
        return _idle_branches(self.aspp).isdisjoint(path)
