"""Converts a JAX function of images to an ONNX model, and runs it.

The function's jaxpr is translated equation by equation with the rules of onnx_rules. Convolutions
and pools are read in the plain form that they have on all platforms except the CPU.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Literal

from rtda_jax.deploy.onnx_graph import (
    NCHW,
    OPSET,
    Graph,
    Operand,
    Tensor,
    is_known,
    ordered_shape,
    result,
)
from rtda_jax.deploy.onnx_rules import RULES
from rtda_jax.errors import ConfigError

__all__ = ["OPSET", "convert", "runner"]

# Primitives that call a function, and the parameter that holds it.
CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
}


def _resize(graph: Graph, equation: Any, x: Operand, **attributes: Any) -> Tensor:
    source, target = (ordered_shape(v, NCHW) for v in (equation.invars[0], equation.outvars[0]))
    name = graph.whole(x, equation.invars[0], NCHW)
    factors = [t / s for s, t in zip(source[2:], target[2:], strict=True)]
    # A fractional scale may miss the size by one, so an exact size is given; it includes the batch.
    if all(factor.is_integer() for factor in factors):
        scales = graph.constant([1, 1, *factors], np.float32)
        return result(graph.node("Resize", name, "", scales, **attributes), NCHW, equation)
    sizes = graph.sizes(target)
    return result(graph.node("Resize", name, "", "", sizes, **attributes), NCHW, equation)


def _linear(mode: str) -> Callable[..., Tensor]:
    """Makes the rule of a bilinear resize."""

    def rule(graph: Graph, equation: Any, x: Operand) -> Tensor:
        return _resize(graph, equation, x, mode="linear", coordinate_transformation_mode=mode)

    return rule


def _double(graph: Graph, equation: Any, x: Operand) -> Tensor:
    """Doubles by repeating pixels, and drops the last row or column of an odd size."""
    name = graph.whole(x, equation.invars[0], NCHW)
    scales = graph.constant([1, 1, 2, 2], np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    name = graph.node("Resize", name, "", scales, mode="nearest", **how)
    height, width = equation.outvars[0].aval.shape[1:3]
    bounds = map(graph.integers, ([0, 0], [height, width], [2, 3]))
    return result(graph.node("Slice", name, *bounds), NCHW, equation)


# Functions that are translated as a whole, by the names under which they are jitted.
FUNCTIONS: dict[str, Callable[..., Operand]] = {
    "resize_half_pixel": _linear("half_pixel"),
    "resize_corners": _linear("align_corners"),
    "double": _double,
}


def convert(function: Callable, images: jax.ShapeDtypeStruct) -> onnx.ModelProto:
    """Converts a function of images, whose first dimension may be symbolic.

    The input of the model is called `images` and its output `classes`.

    Raises:
      ConfigError: names a primitive that has no rule, and the module that uses it.
    """
    closed = jax.make_jaxpr(function)(images)
    (source,), (target,) = closed.jaxpr.invars, closed.jaxpr.outvars
    graph = Graph()
    (answer,) = _translate(graph, closed, [Tensor("images", tuple(range(4)), images.shape)])
    name = graph.whole(answer, target, tuple(range(target.aval.ndim)))
    return graph.model(source, target, name)


def runner(
    model: onnx.ModelProto, *, threads: int = 0
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns the model as a function in onnxruntime, or None if that is not installed.

    Args:
      model: a model with an input `images`.
      threads: the number of threads; 0 leaves it to the runtime.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images})[0]


def _translate(
    graph: Graph, closed: Any, operands: Sequence[Operand], place: str = ""
) -> list[Operand]:
    """Translates the equations of a jaxpr and returns its outputs.

    Args:
      graph: the graph that grows.
      closed: the jaxpr with its constants.
      operands: the inputs.
      place: the modules and functions in which the jaxpr is called, for errors.
    """
    jaxpr = closed.jaxpr
    values: dict[Any, Operand] = dict(zip(jaxpr.invars, operands, strict=True))
    values.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))

    def read(variable: Any) -> Operand:
        if isinstance(variable, Literal):
            aval: Any = variable.aval  # an AbstractValue, which need not be an array
            return np.asarray(variable.val, aval.dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        outputs = _outputs(graph, equation, inputs, place)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _outputs(graph: Graph, equation: Any, operands: list[Operand], place: str) -> Sequence[Operand]:
    """Returns the outputs of an equation: computed if all inputs are constant, else translated."""
    primitive, parameters = equation.primitive.name, equation.params
    place = _joined(place, str(equation.source_info.name_stack))
    if primitive == "platform_index":  # the branch for all other platforms
        return [np.asarray(parameters["platforms"].index(None), np.int32)]
    if primitive == "cond" and isinstance(operands[0], np.ndarray):
        return _translate(graph, parameters["branches"][int(operands[0])], operands[1:], place)
    rule = RULES.get(primitive)
    if primitive in CALLS:
        rule = FUNCTIONS.get(parameters.get("name", ""))
        if rule is None:
            inside = _joined(place, parameters.get("name", ""))
            return _translate(graph, parameters[CALLS[primitive]], operands, inside)
    if primitive != "broadcast_in_dim" and _is_constant(equation, operands):
        values = zip(operands, equation.invars, strict=True)
        inputs = [np.broadcast_to(np.asarray(x), v.aval.shape) for x, v in values]
        outputs = equation.primitive.bind(*inputs, **parameters)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
        return [np.asarray(output) for output in outputs]
    where = f"\n  in {place}" if place else ""
    if rule is None:
        raise ConfigError(
            f"ONNX: the network uses the primitive {primitive!r}, which no rule translates; there "
            f"are rules for {', '.join(RULES)}{where}"
        )
    try:
        return [rule(graph, equation, *operands)]
    except ConfigError as error:
        raise ConfigError(f"{error}{where}") from None


def _joined(*places: str) -> str:
    return "/".join(filter(None, places))


def _is_constant(equation: Any, operands: list[Operand]) -> bool:
    variables = (*equation.invars, *equation.outvars)
    sides = itertools.chain.from_iterable(variable.aval.shape for variable in variables)
    known = all(isinstance(operand, np.ndarray) for operand in operands)
    return known and all(is_known(side) for side in sides)
