"""Batch normalisations folded into the convolutions in front of them, for inference."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.ops.norm import BatchNorm

Path = tuple[str, ...]
PROBE = (1, 64, 64, 3)  # an image that every network accepts; nothing is computed on it


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
    epsilons = _epsilons(module, variables)
    for norm, convolution in convolutions.items():
        scale, shift = _affine(params, statistics, norm, epsilon=epsilons[norm])
        for leaf in ("kernel", "bias"):
            if (*convolution, leaf) in params:
                params[*convolution, leaf] = np.asarray(params[*convolution, leaf]) * scale
        del params[*norm, "scale"]
        params[*norm, "bias"] = shift
    folded = {"params": flax.traverse_util.unflatten_dict(params)}
    return module.clone(batch_norm="folded"), jax.tree.map(jnp.asarray, folded)


def _epsilons(module: nn.Module, variables: Any) -> dict[Path, float]:
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


def _affine(
    params: dict[Path, Any], statistics: dict[Path, Any], norm: Path, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a normalisation multiplies by and then adds, [C] each.

    Both are computed in float64 and rounded at the end.
    """
    mean, var = (np.asarray(statistics[*norm, name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(params[*norm, name], np.float64) for name in ("scale", "bias"))
    factor = scale / np.sqrt(var + epsilon)
    return factor.astype(np.float32), (bias - factor * mean).astype(np.float32)
