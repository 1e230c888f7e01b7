"""What every network is built of: convolutions, convolution blocks and their initialisers."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import ConfigError
from rtda_jax.ops.conv import conv2d
from rtda_jax.ops.norm import BatchNorm, FoldedNorm
from rtda_jax.ops.rectify import relu

Initializer = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]

KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
KAIMING_LINEAR = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
NORMAL_001 = nn.initializers.normal(0.01)

_BATCH_NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "frozen": functools.partial(BatchNorm, frozen=True),
    "folded": lambda *, axis_name, **options: FoldedNorm(**options),
    "last": functools.partial(BatchNorm, momentum=0.0),
}
AUXILIARY = ("training", "always")


def zero_bias(fan_in: int) -> Initializer:
    """Initialiser of a bias at zero."""
    del fan_in
    return nn.initializers.zeros


def uniform_bias(fan_in: int) -> Initializer:
    """Initialiser of a bias as PyTorch's convolutions have it, uniform in +-1/sqrt(fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        limit = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def batch_norm_layer(
    batch_norm: str, *, axis_name: str | None, dtype: Any
) -> Callable[..., nn.Module]:
    """Constructor of the normalisation of that name.

    "batch" trains on the statistics of the batch, "frozen" on the running ones; "last" is "batch"
    whose running statistics are those of the last batch alone, to measure a batch by; "folded" is
    what `fold.fold` leaves.
    """
    if batch_norm not in _BATCH_NORMS:
        raise ValueError(f"unknown batch_norm {batch_norm!r}; known: {', '.join(_BATCH_NORMS)}")
    return functools.partial(_BATCH_NORMS[batch_norm], axis_name=axis_name, dtype=dtype)


def computes_auxiliary(auxiliary: str, *, train: bool) -> bool:
    """Whether auxiliary heads are wanted: "training" is with train=True only, or "always"."""
    if auxiliary not in AUXILIARY:
        raise ValueError(f"unknown auxiliary {auxiliary!r}; known: {', '.join(AUXILIARY)}")
    return train or auxiliary == "always"


class Conv(nn.Module):
    """Convolution [B,H,W,C] -> [B,h,w,features], float32 parameters, computed in dtype.

    padding None is dilation * (size // 2) on every side, which keeps H and W at stride 1.
    """

    features: int
    size: int = 1
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = KAIMING
    bias_init: Callable[[int], Initializer] = zero_bias
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [B,H,W,C]."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        padding = self.dilation * (self.size // 2) if self.padding is None else self.padding
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if self.use_bias:
            fan_in = shape[0] * shape[1] * shape[2]
            bias = self.param("bias", self.bias_init(fan_in), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class ConvNorm(nn.Module):
    """Bias-free convolution, batch normalisation, activation (None: linear)."""

    features: int
    size: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    activation: Activation | None = relu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map x [B,H,W,C] to [B,h,w,features]."""
        x = self.conv(
            self.features,
            self.size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x, train=train)
        return x if self.activation is None else self.activation(x)


def global_mean(x: jax.Array) -> jax.Array:
    """Mean over the image, [B,H,W,C] -> [B,1,1,C]."""
    return x.mean((1, 2), keepdims=True)


def image_size(x: jax.Array) -> tuple[int, int]:
    """Height and width of x [B,H,W,C]."""
    return x.shape[1], x.shape[2]


def check_images(images: jax.Array, *, network: str, stride: int, channels: int = 3) -> None:
    """Raise unless images is [B,H,W,channels] with H and W of at least the stride.

    ValueError for another shape, ConfigError for images that are too small.
    """
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(f"{network} expects [B,H,W,{channels}], got {images.shape}")
    if min(images.shape[1:3]) < stride:
        height, width = images.shape[1:3]
        raise ConfigError(
            f"{network} has stride {stride}: the smallest image is {stride}x{stride}, "
            f"got {height}x{width}"
        )
