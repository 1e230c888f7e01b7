"""Batch normalisations folded into the convolutions in front of them, for inference."""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.ops.norm import EPSILON

Path = tuple[str, ...]


def fold(module: nn.Module, variables: Any) -> tuple[nn.Module, Any]:
    """The same network at inference without its normalisations, and its variables.

    Each convolution's kernel and bias are scaled by `scale / sqrt(var + epsilon)` of its
    normalisation, of which only an added bias is left. The logits differ by rounding alone. A
    network without running statistics, which has nothing to fold, is returned as it is.

    Args:
      module: a network of `rtda_jax.models`.
      variables: its {"params", "batch_stats"}.

    Raises:
      ValueError: a normalisation that has no convolution of its name (bn1 belongs to conv1,
        downsample_bn to downsample_conv), by name.
    """
    statistics = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
    if not statistics:
        return module, jax.tree.map(jnp.asarray, variables)
    params = dict(flax.traverse_util.flatten_dict(variables["params"]))
    for norm in sorted({path[:-1] for path in statistics}):
        convolution = (*norm[:-1], norm[-1].replace("bn", "conv"))
        if convolution == norm or (*convolution, "kernel") not in params:
            raise ValueError(f"{'/'.join(norm)} follows no convolution it could be folded into")
        scale, shift = _affine(params, statistics, norm)
        for leaf in ("kernel", "bias"):
            if (*convolution, leaf) in params:
                params[*convolution, leaf] = np.asarray(params[*convolution, leaf]) * scale
        del params[*norm, "scale"]
        params[*norm, "bias"] = shift
    folded = {"params": flax.traverse_util.unflatten_dict(params)}
    return module.clone(batch_norm="folded"), jax.tree.map(jnp.asarray, folded)


def _affine(
    params: dict[Path, Any], statistics: dict[Path, Any], norm: Path
) -> tuple[np.ndarray, np.ndarray]:
    """What a normalisation multiplies by and then adds, [C] each; in float64 until the end."""
    mean, var = (np.asarray(statistics[*norm, name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(params[*norm, name], np.float64) for name in ("scale", "bias"))
    factor = scale / np.sqrt(var + EPSILON)
    return factor.astype(np.float32), (bias - factor * mean).astype(np.float32)
