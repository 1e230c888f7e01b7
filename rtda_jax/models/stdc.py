"""STDC trunks (Fan et al. 2021), STDCNet813 and STDCNet1446 without their ImageNet classifier."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import lookup
from rtda_jax.models.layers import Conv, ConvNorm

STDCS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}


class CatBottleneck(nn.Module):
    """A chain of four convolutions N/2, N/4, N/8, N/8 whose outputs are concatenated.

    With stride 2 the chain goes on from a strided depthwise convolution of the first output, and
    the concatenated first piece is its 3x3 average (padding counted).
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
