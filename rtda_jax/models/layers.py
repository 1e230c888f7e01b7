"""The parts of every network: base class, convolutions, normalised blocks, initialisers."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import ConfigError, lookup, one_of
from rtda_jax.ops.activations import relu
from rtda_jax.ops.conv import Padding, conv2d, same_padding
from rtda_jax.ops.norm import EPSILON, MOMENTUM, BatchNorm, FoldedNorm
from rtda_jax.ops.resize import upsample

Initializer = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]
Group = Literal["trunk", "heads"]

AUXILIARY = ("training", "always")  # when a network computes its auxiliary logits

KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
KAIMING_LINEAR = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
NORMAL_001 = nn.initializers.normal(0.01)


def _last_batch_norm(*, momentum: float, **options: Any) -> nn.Module:
    del momentum
    return BatchNorm(momentum=0.0, **options)


def _folded_norm(
    *,
    axis_name: str | None,
    momentum: float,
    epsilon: float,
    dtype: Any,
    name: str | None = None,
) -> nn.Module:
    del axis_name, momentum, epsilon  # folded into the convolution, or of training only
    return FoldedNorm(dtype=dtype, name=name)


BATCH_NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "frozen": functools.partial(BatchNorm, frozen=True),
    "folded": _folded_norm,
    "last": _last_batch_norm,
}


def zero_bias(fan_in: int) -> Initializer:
    """Returns the initialiser that sets a bias to zero."""
    del fan_in
    return nn.initializers.zeros


def uniform_bias(fan_in: int) -> Initializer:
    """Returns PyTorch's initialiser of a convolution's bias, uniform in +-1/sqrt(fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        limit = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def batch_norm_layer(
    batch_norm: str,
    *,
    axis_name: str | None,
    dtype: Any,
    momentum: float = MOMENTUM,
    epsilon: float = EPSILON,
) -> Callable[..., nn.Module]:
    """Returns the constructor of a normalisation layer.

    Args:
      batch_norm: "batch" normalises by the statistics of the training batch and "frozen" by the
        running statistics. "last" is like "batch", but its running statistics are those of the last
        batch alone, which measures a batch. "folded" only adds the bias that
        `rtda_jax.models.fold.fold` leaves.
      axis_name: the device axis over which the statistics are shared, None for one device.
      dtype: the type of the output.
      momentum: the weight of the old running statistics.
      epsilon: the number that is added to the variance.
    """
    layer = lookup(BATCH_NORMS, batch_norm, "batch_norm")
    return functools.partial(
        layer, axis_name=axis_name, dtype=dtype, momentum=momentum, epsilon=epsilon
    )


class Network(nn.Module):
    """Base class of the segmentation networks.

    A network defines `__call__(self, images, *, train=False)`, which maps normalised images
    [B,H,W,3] to a dict of float32 arrays: "logits" [B,H,W,K] at the input's resolution, "feature"
    [B,h,w,C] in front of the classifier and, where `computes_auxiliary`, the auxiliary logits
    "aux16", "aux32", ... [B,H,W,K]. Its trunk is the submodule "backbone".

    batch_norm is a key of BATCH_NORMS, and axis_name the device axis over which batch
    statistics are shared. auxiliary "always" computes the auxiliary logits at inference too.
    """

    num_classes: int = 19
    axis_name: str | None = None
    batch_norm: str = "batch"
    auxiliary: str = "training"
    dtype: Any = jnp.float32

    def trains(self, path: tuple[str, ...]) -> bool:
        """Returns whether the parameter at the path is trained; here all of them are."""
        del path
        return True

    def group(self, path: tuple[str, ...]) -> Group:
        """Returns the parameter group of a path; heads may learn faster than the trunk.

        By default, the heads are all layers outside the trunk, which start from random weights.
        """
        return "trunk" if path[0] == "backbone" else "heads"

    def norm_layer(self, **options: float) -> Callable[..., nn.Module]:
        """Returns the constructor of the network's normalisation layers.

        A layer is called as `layer(x, train=train)`: there is no `use_running_average`.
        """
        return batch_norm_layer(
            self.batch_norm, axis_name=self.axis_name, dtype=self.dtype, **options
        )

    def computes_auxiliary(self, *, train: bool) -> bool:
        """Returns whether this call computes the auxiliary logits."""
        return one_of(self.auxiliary, AUXILIARY, "auxiliary") == "always" or train


class Conv(nn.Module):
    """Convolution [B,H,W,C] -> [B,h,w,features] with float32 parameters, computed in dtype.

    The default padding of dilation * (size // 2) on every side keeps H and W at stride 1. An
    integer pads every side by that number of pixels, and "same" is TensorFlow's asymmetric padding.
    """

    features: int
    size: int = 1
    stride: int = 1
    padding: int | Literal["same"] | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = KAIMING
    bias_init: Callable[[int], Initializer] = zero_bias
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the convolution of x [B,H,W,C]."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self._padding(*image_size(x)),
            dilation=self.dilation,
            groups=self.groups,
        )
        if self.use_bias:
            fan_in = shape[0] * shape[1] * shape[2]
            bias = self.param("bias", self.bias_init(fan_in), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y

    def _padding(self, height: int, width: int) -> int | Padding:
        if self.padding == "same":
            extent = self.dilation * (self.size - 1) + 1
            return same_padding(height, width, size=extent, stride=self.stride)
        return self.dilation * (self.size // 2) if self.padding is None else self.padding


class ConvNorm(nn.Module):
    """Bias-free convolution, batch normalisation and activation; None leaves the block linear."""

    features: int
    size: int
    conv: Callable[..., Conv]
    norm: Callable[..., nn.Module]
    stride: int = 1
    padding: int | Literal["same"] | None = None
    dilation: int = 1
    groups: int = 1
    activation: Activation | None = relu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B,H,W,C] to [B,h,w,features]."""
        x = self.conv(
            features=self.features,
            size=self.size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x, train=train)
        return x if self.activation is None else self.activation(x)


def global_mean(x: jax.Array) -> jax.Array:
    """Returns the mean over the image, [B,H,W,C] -> [B,1,1,C]."""
    return x.mean((1, 2), keepdims=True)


def image_size(x: jax.Array) -> tuple[int, int]:
    """Returns the height and the width of x [B,H,W,C]."""
    return x.shape[1], x.shape[2]


def upsample_by(x: jax.Array, factor: int, *, size: tuple[int, int]) -> jax.Array:
    """Returns x [B,h,w,C] upsampled by exactly a factor and cropped to a size (H, W)."""
    x = upsample(x, size=(factor * x.shape[1], factor * x.shape[2]))
    return x[:, : size[0], : size[1]]


def check_images(images: jax.Array, *, network: str, stride: int, channels: int = 3) -> None:
    """Raises unless images is [B,H,W,channels] with H and W of at least the stride.

    Raises:
      ValueError: the array has another shape.
      ConfigError: the images are too small for the network.
    """
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(f"{network} expects [B,H,W,{channels}], got {images.shape}")
    if min(images.shape[1:3]) < stride:
        height, width = images.shape[1:3]
        raise ConfigError(
            f"{network} has stride {stride}: the smallest image is {stride}x{stride}, "
            f"got {height}x{width}"
        )
