"""Batch normalisation with PyTorch's running statistics, and folding it away for inference."""

from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Path = tuple[str, ...]

AXES = (0, 1, 2)
EPSILON = 1e-5
MOMENTUM = 0.9  # weighs the old running statistics; PyTorch's 0.1 weighs the new ones
PROBE = (1, 64, 64, 3)  # an image that every network accepts; nothing is computed on it


def _mean(value: jax.Array, axis_name: str | None) -> jax.Array:
    return value if axis_name is None else lax.pmean(value, axis_name)


def _row(value: jax.Array) -> jax.Array:
    return value[None, None, None, :]


def _statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    # Two passes: E[x^2] - E[x]^2 loses every digit when the mean is large against the spread.
    x = x.astype(jnp.float32)
    mean = _mean(x.mean(AXES), axis_name)
    return mean, _mean(jnp.square(x - _row(mean)).mean(AXES), axis_name)


def _affine(
    x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    return ((x.astype(jnp.float32) - _row(mean)) * _row(inverse * scale) + _row(bias)).astype(
        x.dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalise_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalise_forward(x, scale, bias, epsilon, axis_name):
    mean, var = _statistics(x, axis_name)
    inverse = lax.rsqrt(var + epsilon)
    return (_affine(x, mean, inverse, scale, bias), mean, var), (x, scale, mean, inverse)


def _normalise_backward(epsilon, axis_name, residuals, cotangents):
    x, scale, mean, inverse = residuals
    dy = cotangents[0].astype(jnp.float32)  # the statistics only feed the running averages
    count = x.size // x.shape[-1]
    dbias = dy.sum(AXES)
    # Neither the forward pass's x - mean nor ready before dy is: XLA would keep it beside x.
    below = _row(mean + 0.0 * dbias) - x.astype(jnp.float32)
    dscale = -(dy * below).sum(AXES) * inverse
    # With shared statistics each device's loss also reaches the other devices' inputs.
    mean_dy = _mean(dbias / count, axis_name)
    mean_dy_hat = _mean(dscale / count, axis_name)
    factor = scale * inverse
    dx = dy * _row(factor) + below * _row(factor * inverse * mean_dy_hat) - _row(factor * mean_dy)
    return dx.astype(x.dtype), dscale, dbias


_normalise.defvjp(_normalise_forward, _normalise_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over [B,H,W] per channel, in float32, for reverse-mode gradients.

    `momentum` weighs the old running average (0.9 is PyTorch's 0.1); the running variance is the
    unbiased one, as in PyTorch. With `axis_name` the statistics are those of the global batch.
    `frozen` normalises by the running averages and leaves them alone, also in training.
    The output has `dtype`, by default that of x. Raises ValueError when training on one value per
    channel, whose variance is undefined.
    """

    momentum: float = MOMENTUM
    epsilon: float = EPSILON
    axis_name: str | None = None
    frozen: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises x [B,H,W,C]."""
        if x.ndim != 4:
            raise ValueError(f"BatchNorm expects [B,H,W,C], got shape {x.shape}")
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        if self.frozen or not train:
            return _affine(x, mean.value, lax.rsqrt(var.value + self.epsilon), scale, bias)
        axis_name = None if self.is_initializing() else self.axis_name
        count = x.size // channels
        if axis_name is not None:
            count *= lax.axis_size(axis_name)
        if self.is_initializing():
            return _normalise(x, scale, bias, self.epsilon, None)[0]
        if count == 1:
            raise ValueError(
                f"{'/'.join(self.path) or 'BatchNorm'}: one value per channel (input {x.shape}) "
                "has no variance to train on; use a larger batch or crop, set axis_name to share "
                "statistics between devices, or frozen=True"
            )
        y, batch_mean, batch_var = _normalise(x, scale, bias, self.epsilon, axis_name)
        keep = self.momentum
        mean.value = keep * mean.value + (1 - keep) * batch_mean
        var.value = keep * var.value + (1 - keep) * batch_var * (count / (count - 1))
        return y


class FoldedNorm(nn.Module):
    """What `fold` leaves of a BatchNorm behind its convolution: an added bias."""

    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Adds to x [B,H,W,C]; raises ValueError in training, for which it is not made."""
        if train:
            raise ValueError("batch_norm 'folded' is for inference, training needs batch or frozen")
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return (x.astype(jnp.float32) + _row(bias)).astype(self.dtype or x.dtype)


def fold(module: nn.Module, variables: Any) -> tuple[nn.Module, Any]:
    """Returns the network without its normalisations, and the variables that it then has.

    The kernel and the bias of each convolution are scaled by `scale / sqrt(var + epsilon)` of its
    normalisation, of which only an added bias is left; the logits differ by rounding alone. A
    network without running statistics, or without our `batch_norm`, is returned as it is.

    Args:
      module: a network of `rtda_jax.models`, called with images.
      variables: its {"params", "batch_stats"}.

    Raises:
      ValueError: a normalisation has no convolution of its name (bn1 belongs to conv1,
        downsample_bn to downsample_conv); the message names it.
    """
    statistics = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
    if not statistics or not hasattr(module, "batch_norm"):
        return module, jax.tree.map(jnp.asarray, variables)
    params = dict(flax.traverse_util.flatten_dict(variables["params"]))
    norms = sorted({path[:-1] for path in statistics})
    convolutions = {norm: (*norm[:-1], norm[-1].replace("bn", "conv")) for norm in norms}
    for norm, convolution in convolutions.items():
        if convolution == norm or (*convolution, "kernel") not in params:
            raise ValueError(f"{'/'.join(norm)} follows no convolution it could be folded into")
    epsilons = _epsilons(module)
    for norm, convolution in convolutions.items():
        scale, shift = _scale_and_shift(params, statistics, norm, epsilon=epsilons[norm])
        for leaf in ("kernel", "bias"):
            if (*convolution, leaf) in params:
                params[*convolution, leaf] = np.asarray(params[*convolution, leaf]) * scale
        del params[*norm, "scale"]
        params[*norm, "bias"] = shift
    folded = {"params": flax.traverse_util.unflatten_dict(params)}
    return module.clone(batch_norm="folded"), jax.tree.map(jnp.asarray, folded)


def _epsilons(module: nn.Module) -> dict[Path, float]:
    """Returns the epsilon of every normalisation by its path, from a trace of the network."""
    epsilons: dict[Path, float] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm):
            epsilons[context.module.path] = context.module.epsilon
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        # Of a pass in training, because the auxiliary heads are part of the variables too.
        jax.eval_shape(
            lambda images: module.init(jax.random.key(0), images, train=True),
            jax.ShapeDtypeStruct(PROBE, jnp.float32),
        )
    return epsilons


def _scale_and_shift(
    params: dict[Path, Any], statistics: dict[Path, Any], norm: Path, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a normalisation multiplies by and then adds, [C] each.

    Both are computed in float64 and rounded at the end.
    """
    mean, var = (np.asarray(statistics[*norm, name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(params[*norm, name], np.float64) for name in ("scale", "bias"))
    factor = scale / np.sqrt(var + epsilon)
    return factor.astype(np.float32), (bias - factor * mean).astype(np.float32)
