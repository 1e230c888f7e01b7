"""Folds batch normalisations into the convolutions before them, for inference."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from rtda_jax.models.layers import Conv
from rtda_jax.ops.norm import BatchNorm

Path = tuple[str, ...]

LINEAR = (Conv, nn.Conv, nn.Dense)  # layers that are linear in their kernel and bias
PROBE = (1, 64, 64, 3)  # an image size that every network accepts, for tracing only

_OUTPUT = "output of "  # the marks in a traced network, before the path of a layer
_INPUT = "input of "


class Unfoldable(ValueError):
    """A normalisation cannot be folded; the message names it and says why."""


def fold(module: nn.Module, variables: Any) -> tuple[nn.Module, Any]:
    """Returns the network without its normalisations, and its variables.

    The kernel and the bias of each convolution are scaled by `scale / sqrt(var + epsilon)` of the
    normalisation that reads it, which then only adds a bias. The logits differ only by rounding. A
    trace of the network, and not the names of layers, shows which convolution a normalisation
    reads. A network without running statistics, or without the field `batch_norm`, is returned
    unchanged.

    Args:
      module: a network of `rtda_jax.models`, called with images.
      variables: its {"params", "batch_stats"}.

    Raises:
      Unfoldable: a normalisation does not come from `Network.norm_layer`, or its input is not a
        convolution that it alone reads.
    """
    statistics = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
    if not statistics or not hasattr(module, "batch_norm"):
        return module, jax.tree.map(jnp.asarray, variables)
    params = dict(flax.traverse_util.flatten_dict(variables["params"]))
    epsilons, convolutions = _trace(module)
    for norm in sorted({path[:-1] for path in statistics}):
        if norm not in epsilons:
            raise Unfoldable(f"{'/'.join(norm)} does not come from Network.norm_layer")
        if norm not in convolutions or np.ndim(params[*norm, "scale"]) != 1:
            raise Unfoldable(
                f"{'/'.join(norm)} does not read a convolution that nothing else reads"
            )
        scale, shift = _scale_and_shift(params, statistics, norm, epsilon=epsilons[norm])
        for leaf in ("kernel", "bias"):
            path = (*convolutions[norm], leaf)
            if path in params:
                params[path] = np.asarray(params[path]) * scale
        del params[*norm, "scale"]
        params[*norm, "bias"] = shift
    folded = {"params": flax.traverse_util.unflatten_dict(params)}
    return module.clone(batch_norm="folded"), jax.tree.map(jnp.asarray, folded)


def fold_or_keep(
    module: nn.Module, variables: Any, *, say: Callable[[str], None]
) -> tuple[nn.Module, Any]:
    """Returns the folded network, or if it cannot be folded, the slower but equal original.

    Args:
      module: a network, called with images.
      variables: its {"params", "batch_stats"}.
      say: called with a sentence if the network cannot be folded.
    """
    try:
        return fold(module, variables)
    except Unfoldable as reason:
        say(f"  {type(module).__name__} keeps its batch normalisations: {reason}")
        return module, variables


def _trace(module: nn.Module) -> tuple[dict[Path, float], dict[Path, Path]]:
    """Traces a network without computing anything.

    Returns:
      The epsilon of each normalisation of `Network.norm_layer` by its path, and the path of the
      convolution that it alone reads.
    """
    epsilons: dict[Path, float] = {}

    def mark(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer, path = context.module, "/".join(context.module.path)
        if isinstance(layer, BatchNorm) and layer.frozen and args:
            epsilons[layer.path] = layer.epsilon
            args = (checkpoint_name(args[0], _INPUT + path), *args[1:])
        outputs = call(*args, **kwargs)
        linear = type(layer) in LINEAR and context.method_name == "__call__"
        return checkpoint_name(outputs, _OUTPUT + path) if linear else outputs

    # Freezing finds the normalisations that obey the field `batch_norm`, which folding requires.
    frozen = module.clone(batch_norm="frozen")
    with nn.intercept_methods(mark):
        # In training mode, because the auxiliary heads belong to the variables too.
        closed = jax.make_jaxpr(
            lambda images: frozen.init_with_output(jax.random.key(0), images, train=True)
        )(jax.ShapeDtypeStruct(PROBE, jnp.float32))

    reads = list(_reads(closed.jaxpr))
    pairs = {}
    for norm, convolution in reads:
        same = [read for read in reads if norm == read[0] or convolution == read[1]]
        if norm and convolution and set(same) == {(norm, convolution)}:
            pairs[_split(norm)] = _split(convolution)
    return epsilons, pairs


def _reads(jaxpr: core.Jaxpr) -> Iterator[tuple[str, str]]:
    """Yields (normalisation, convolution) for every read of a marked value in a traced network.

    Both are paths. The first is "" if the reader is not a normalisation, and the second is "" if
    the input of the normalisation is not a convolution.
    """
    outputs: dict[Any, str] = {}
    for equation in jaxpr.eqns:
        name = equation.params["name"] if equation.primitive.name == "name" else ""
        norm = name.removeprefix(_INPUT) if name.startswith(_INPUT) else ""
        convolutions = _marked(equation.invars, outputs)
        if norm and not convolutions:
            yield norm, ""
        yield from ((norm, convolution) for convolution in convolutions)
        if name.startswith(_OUTPUT):
            outputs[equation.outvars[0]] = name.removeprefix(_OUTPUT)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner := getattr(inner, "jaxpr", inner), core.Jaxpr):
                yield from _reads(inner)
    yield from (("", convolution) for convolution in _marked(jaxpr.outvars, outputs))


def _marked(variables: Iterable[Any], outputs: Mapping[Any, str]) -> list[str]:
    return [outputs[v] for v in variables if isinstance(v, core.Var) and v in outputs]


def _split(path: str) -> Path:
    return tuple(path.split("/"))


def _scale_and_shift(
    params: dict[Path, Any], statistics: dict[Path, Any], norm: Path, *, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factor and the offset of a normalisation, [C] each.

    Both are computed in float64 and rounded at the end.
    """
    mean, var = (np.asarray(statistics[*norm, name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(params[*norm, name], np.float64) for name in ("scale", "bias"))
    factor = scale / np.sqrt(var + epsilon)
    return factor.astype(np.float32), (bias - factor * mean).astype(np.float32)
