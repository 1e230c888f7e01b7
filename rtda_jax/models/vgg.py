"""VGG-16 (Simonyan and Zisserman 2015) with the dilations of DeepLab."""

from collections.abc import Callable

import flax.linen as nn
import jax

from rtda_jax.models.layers import Conv
from rtda_jax.ops.activations import relu
from rtda_jax.ops.pool import max_pool

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class DilatedVGG16(nn.Module):
    """The 13 convolutions with pools 1 to 3 only, conv5 dilated by 2, and fc6, fc7 dilated by 4."""

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
