"""BiSeNet V1 on ResNet-18 (CoinCheung, TUFL) and on the STDC trunks (STDC-Seg, Nikiforos)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import lookup, one_of
from rtda_jax.models.context import ContextPath, DetailPath, FeatureFusion, Head
from rtda_jax.models.layers import (
    KAIMING_FAN_OUT,
    KAIMING_LINEAR,
    Activation,
    Conv,
    check_images,
    image_size,
)
from rtda_jax.models.network import Group, Network
from rtda_jax.models.resnet import RESNETS, ResNet
from rtda_jax.models.stdc import STDC, STDCS
from rtda_jax.ops.activations import leaky_relu, relu
from rtda_jax.ops.resize import ALIGNMENTS, upsample

ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "leaky_relu": functools.partial(leaky_relu, slope=0.01),
}


class BiSeNetV1(Network):
    """Detail features at 1/8 fused with a top-down context path, three heads.

    images float [B,H,W,3], normalised, H and W at least 32. Returns float32 "logits" [B,H,W,K];
    "feature" [B,ceil(H/8),ceil(W/8),256], the fused features in front of the head; with train=True
    also [B,H,W,K] "aux16" (the head on the context features at 1/8) and "aux32" (at 1/16), named
    after the original's conv_out16 and conv_out32, and with detail_head "detail" [B,H,W,1], the
    boundary logits of STDC-Seg on the trunk's 1/8 features.

    backbone "resnet18" has its own detail path; with "stdc1", "stdc2" the trunk's 1/8 features take
    its place. activation "leaky_relu" (slope 0.01) stands for TUFL's InPlaceABN. align "corners"
    resizes the logits as STDC-Seg and TUFL do; "half_pixel" does so by exactly 8 and 16 and crops
    (CoinCheung today).
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
        x = upsample(x, size=(factor * x.shape[1], factor * x.shape[2]))
        return x[:, : size[0], : size[1]]
