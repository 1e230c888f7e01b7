"""Rules that translate JAX's primitives to ONNX operators, one by one.

A rule takes the graph, an equation of the jaxpr and its operands, and returns the output.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from rtda_jax.deploy.onnx_graph import (
    NCHW,
    Graph,
    Operand,
    Tensor,
    is_known,
    ordered_shape,
    result,
    sides,
)
from rtda_jax.errors import ConfigError


def _refuse(equation: Any, reason: str) -> ConfigError:
    return ConfigError(f"ONNX: {equation.primitive.name} {reason}, which no rule translates")


def _elementwise(operator: str) -> Callable[..., Tensor]:
    """Makes the rule of an elementwise operator."""

    def rule(graph: Graph, equation: Any, *operands: Operand) -> Tensor:
        orders = [operand.axes for operand in operands if isinstance(operand, Tensor)]
        axes = orders[0] if orders else tuple(range(equation.outvars[0].aval.ndim))
        shape: dict[int, Any] = dict.fromkeys(axes, 1)
        for operand in operands:
            shape.update((axis, side) for axis, side in sides(operand).items() if _long(side))
        name = graph.node(operator, *(graph.ordered(operand, axes) for operand in operands))
        return Tensor(name, axes, tuple(shape[axis] for axis in axes))

    return rule


def _long(side: Any) -> bool:
    return not is_known(side) or side != 1


def _add(graph: Graph, equation: Any, a: Operand, b: Operand) -> Tensor:
    """Turns a constant that is added to each channel of a convolution into its bias."""
    for x, bias in ((a, b), (b, a)):
        node = graph.producer(x, "Conv")
        if node is None or not isinstance(x, Tensor) or not isinstance(bias, np.ndarray):
            continue
        channel, features = x.axes[1], x.shape[1]
        if bias.ndim == 4 and bias.size == bias.shape[channel] == features:
            total = sum((graph.constants[name] for name in node.input[2:]), bias.reshape(-1))
            attributes = {part.name: helper.get_attribute_value(part) for part in node.attribute}
            # The node without the bias is left out at the end, unless another node reads it.
            name = graph.node("Conv", *node.input[:2], graph.constant(total), **attributes)
            return x._replace(name=name)
    return _elementwise("Add")(graph, equation, a, b)


def _max(graph: Graph, equation: Any, a: Operand, b: Operand) -> Tensor:
    """Translates max(x, 0) to Relu, which every runtime fuses with a convolution."""
    for x, zero in ((a, b), (b, a)):
        if isinstance(x, Tensor) and isinstance(zero, np.ndarray) and not zero.any():
            return _elementwise("Relu")(graph, equation, x)
    return _elementwise("Max")(graph, equation, a, b)


def _min(graph: Graph, equation: Any, a: Operand, b: Operand) -> Tensor:
    """Translates min(max(x, 0), c) to Clip, which runtimes fuse as well."""
    for x, high in ((a, b), (b, a)):
        node = graph.producer(x, "Relu")
        if node and isinstance(x, Tensor) and isinstance(high, np.ndarray) and high.size == 1:
            bounds = [graph.constant(v.reshape(())) for v in (np.zeros_like(high), high)]
            return x._replace(name=graph.node("Clip", node.input[0], *bounds))
    return _elementwise("Min")(graph, equation, a, b)


def _select(graph: Graph, equation: Any, which: Operand, *cases: Operand) -> Tensor:
    """Translates where(x > 0, x, slope * x) to LeakyRelu, and any other choice to Where."""
    if len(cases) != 2:
        raise _refuse(equation, f"of {len(cases)} cases")
    low, x = cases
    test, product = graph.producer(which, "Greater"), graph.producer(low, "Mul")
    if test and product and isinstance(x, Tensor):
        zero = graph.constants.get(test.input[1])
        slopes = [graph.constants[name] for name in product.input if name in graph.constants]
        same = test.input[0] == x.name and x.name in product.input
        if same and zero is not None and not zero.any() and [s.size for s in slopes] == [1]:
            return x._replace(name=graph.node("LeakyRelu", x.name, alpha=slopes[0].item()))
    return _elementwise("Where")(graph, equation, which, x, low)


def _clamp(graph: Graph, equation: Any, low: Operand, x: Operand, high: Operand) -> Tensor:
    return _elementwise("Clip")(graph, equation, x, low, high)


def _then(first: str, second: str) -> Callable[..., Tensor]:
    """Makes the rule of two operators, one after the other."""

    def rule(graph: Graph, equation: Any, *operands: Operand) -> Tensor:
        x = _elementwise(first)(graph, equation, *operands)
        return x._replace(name=graph.node(second, x.name))

    return rule


def _square(graph: Graph, equation: Any, x: Operand) -> Tensor:
    return _elementwise("Mul")(graph, equation, x, x)


def _power(graph: Graph, equation: Any, x: Operand) -> Tensor:
    exponent = np.asarray(equation.params["y"], equation.invars[0].aval.dtype)
    return _elementwise("Pow")(graph, equation, x, exponent)


def _same(graph: Graph, equation: Any, x: Operand) -> Operand:
    return x


def _cast(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    dtype = equation.outvars[0].aval.dtype
    if dtype == equation.invars[0].aval.dtype:
        return x
    return x._replace(name=graph.node("Cast", x.name, to=helper.np_dtype_to_tensor_dtype(dtype)))


def _transpose(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    order = tuple(equation.params["permutation"])
    return x._replace(axes=tuple(order.index(axis) for axis in x.axes))


def _broadcast(graph: Graph, equation: Any, x: Operand) -> Operand:
    """Adds axes of length 1; operators that need the repeated values expand them."""
    places = equation.params["broadcast_dimensions"]
    added = tuple(a for a in range(equation.outvars[0].aval.ndim) if a not in places)
    if isinstance(x, np.ndarray):
        return np.expand_dims(x, added)
    name = x.name
    if added:
        last = range(len(places), len(places) + len(added))
        name = graph.node("Unsqueeze", name, graph.integers(last))
    axes = tuple(places[axis] for axis in x.axes) + added
    return Tensor(name, axes, x.shape + (1,) * len(added))


def _reshape(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    """Keeps the order of the axes if only axes of length 1 are added or removed."""
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    before, after = ([a for a, side in enumerate(s) if _long(side)] for s in (old, new))
    source, target = tuple(range(len(old))), tuple(range(len(new)))
    if [old[axis] for axis in before] == [new[axis] for axis in after]:
        place = dict(zip(before, after, strict=True))
        source = x.axes
        target = tuple(place[axis] for axis in source if axis in place)
        target += tuple(axis for axis in range(len(new)) if axis not in target)
    name = graph.whole(x, equation.invars[0], source)
    sizes = graph.integers(ordered_shape(equation.outvars[0], target))
    return result(graph.node("Reshape", name, sizes), target, equation)


def _concatenate(graph: Graph, equation: Any, *parts: Operand) -> Tensor:
    axes = next(part.axes for part in parts if isinstance(part, Tensor))
    names = [graph.whole(x, v, axes) for x, v in zip(parts, equation.invars, strict=True)]
    axis = axes.index(equation.params["dimension"])
    return result(graph.node("Concat", *names, axis=axis), axes, equation)


def _stack(graph: Graph, equation: Any, *parts: Operand) -> Tensor:
    axes = next(part.axes for part in parts if isinstance(part, Tensor))
    new = equation.params["axis"]
    names = [graph.whole(x, v, axes) for x, v in zip(parts, equation.invars, strict=True)]
    first = graph.integers([0])
    name = graph.node("Concat", *(graph.node("Unsqueeze", n, first) for n in names), axis=0)
    return result(name, (new, *(axis + (axis >= new) for axis in axes)), equation)


def _slice(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    old, new, parameters = equation.invars[0], equation.outvars[0], equation.params
    strides = parameters["strides"] or (1,) * len(x.axes)
    cut = [axis for axis in x.axes if old.aval.shape[axis] != new.aval.shape[axis]]
    bounds = [[parameters[key][a] for a in cut] for key in ("start_indices", "limit_indices")]
    bounds += [[x.axes.index(axis) for axis in cut], [strides[axis] for axis in cut]]
    name = graph.whole(x, old, x.axes)
    return result(graph.node("Slice", name, *map(graph.integers, bounds)), x.axes, equation)


def _gather(graph: Graph, equation: Any, x: Tensor, indices: Operand) -> Tensor:
    """Translates slices at known positions, and the selection of known positions along one axis.

    JAX turns slices of an array with a symbolic dimension into gathers.
    """
    numbers, lengths = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    collapsed, offsets = numbers.collapsed_slice_dims, iter(numbers.offset_dims)
    if not isinstance(indices, np.ndarray) or indices.ndim > 2 or numbers.operand_batching_dims:
        raise _refuse(equation, "at computed places or of several axes")
    (chosen,) = collapsed if indices.ndim == 2 and len(collapsed) == 1 else (None,)
    name, old = graph.whole(x, equation.invars[0], x.axes), equation.invars[0].aval.shape
    for axis, column in zip(numbers.start_index_map, np.atleast_2d(indices).T, strict=True):
        if column.min() < 0 or column.max() + lengths[axis] > old[axis]:
            raise _refuse(equation, "beyond the end of an array")
        if axis == chosen:
            name = graph.node("Gather", name, graph.integers(column), axis=x.axes.index(axis))
        elif (column == column[0]).all():
            bounds = [column[0]], [column[0] + lengths[axis]], [x.axes.index(axis)]
            name = graph.node("Slice", name, *map(graph.integers, bounds))
        else:
            raise _refuse(equation, "at computed places or of several axes")
    left = [axis for axis in range(len(old)) if axis == chosen or axis not in collapsed]
    new = range(equation.outvars[0].aval.ndim)
    if chosen is None:
        if collapsed:
            squeezed = graph.integers([x.axes.index(axis) for axis in collapsed])
            name = graph.node("Squeeze", name, squeezed)
        places = list(offsets)
    else:
        (free,) = set(new) - set(numbers.offset_dims)
        places = [free if axis == chosen else next(offsets) for axis in left]
    order = dict(zip(left, places, strict=True))
    return result(name, tuple(order[axis] for axis in x.axes if axis in order), equation)


def _pad(graph: Graph, equation: Any, x: Tensor, value: Operand) -> Tensor:
    margins = [equation.params["padding_config"][axis] for axis in x.axes]
    if any(interior for _, _, interior in margins):
        raise _refuse(equation, "between elements")
    pads = graph.integers([margin[side] for side in (0, 1) for margin in margins])
    name = graph.whole(x, equation.invars[0], x.axes)
    return result(graph.node("Pad", name, pads, graph.ordered(value, ())), x.axes, equation)


def _reverse(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    name = graph.whole(x, equation.invars[0], x.axes)
    for axis in equation.params["dimensions"]:
        backwards = range(equation.invars[0].aval.shape[axis] - 1, -1, -1)
        name = graph.node("Gather", name, graph.integers(backwards), axis=x.axes.index(axis))
    return result(name, x.axes, equation)


def _left(axes: tuple[int, ...], removed: Sequence[int]) -> tuple[int, ...]:
    """Returns the order of the remaining axes, renumbered."""
    left = [axis for axis in axes if axis not in removed]
    return tuple(sorted(left).index(axis) for axis in left)


def _reduce(operator: str) -> Callable[..., Tensor]:
    """Makes the rule of a reduction over axes."""

    def rule(graph: Graph, equation: Any, x: Tensor) -> Tensor:
        removed = equation.params["axes"]
        places = [x.axes.index(axis) for axis in removed]
        name = graph.whole(x, equation.invars[0], x.axes)
        if operator == "ReduceSum":  # its axes are an input, unlike those of the others
            name = graph.node(operator, name, graph.integers(places), keepdims=0)
        else:
            name = graph.node(operator, name, axes=places, keepdims=0)
        return result(name, _left(x.axes, removed), equation)

    return rule


def _argmax(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    (removed,) = equation.params["axes"]
    name = graph.whole(x, equation.invars[0], x.axes)
    name = graph.node("ArgMax", name, axis=x.axes.index(removed), keepdims=0)
    dtype = helper.np_dtype_to_tensor_dtype(equation.outvars[0].aval.dtype)
    return result(graph.node("Cast", name, to=dtype), _left(x.axes, (removed,)), equation)


def _convolution(graph: Graph, equation: Any, x: Operand, kernel: Operand) -> Tensor:
    parameters = equation.params
    images, weights, outputs = parameters["dimension_numbers"]
    if not isinstance(kernel, np.ndarray):
        raise _refuse(equation, "with a computed kernel")
    if any(d != 1 for d in parameters["lhs_dilation"]) or parameters["batch_group_count"] != 1:
        raise _refuse(equation, "that is transposed or grouped over the batch")
    name = graph.node(
        "Conv",
        graph.whole(x, equation.invars[0], images),
        graph.constant(kernel.transpose(weights)),
        strides=parameters["window_strides"],
        pads=[pair[side] for side in (0, 1) for pair in parameters["padding"]],
        dilations=parameters["rhs_dilation"],
        group=parameters["feature_group_count"],
    )
    return result(name, tuple(outputs), equation)


def _pool(operator: str, **attributes: Any) -> Callable[..., Tensor]:
    """Makes the rule of a reduction over the windows of [B,H,W,C]."""

    def rule(graph: Graph, equation: Any, x: Operand, *initial: Operand) -> Tensor:
        parameters = equation.params
        window, strides = parameters["window_dimensions"], parameters["window_strides"]
        dilated = (*parameters["base_dilation"], *parameters["window_dilation"])
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or any(d != 1 for d in dilated):
            raise _refuse(equation, "over other than height and width")
        name = graph.node(
            operator,
            graph.whole(x, equation.invars[0], NCHW),
            kernel_shape=window[1:3],
            strides=strides[1:3],
            pads=[pair[side] for side in (0, 1) for pair in parameters["padding"][1:3]],
            **attributes,
        )
        if operator == "AveragePool":  # JAX has the sum
            name = graph.node("Mul", name, graph.constant(math.prod(window), np.float32))
        return result(name, NCHW, equation)

    return rule


def _product(graph: Graph, equation: Any, x: Operand, matrix: Operand) -> Tensor:
    (left, right), batch = equation.params["dimension_numbers"]
    first, second = (variable.aval.ndim for variable in equation.invars)
    if batch != ((), ()) or tuple(left) != (first - 1,) or tuple(right) != (0,) or second != 2:
        raise _refuse(equation, "of other than [...,C] and [C,D]")
    operands = zip((x, matrix), equation.invars, strict=True)
    names = [graph.whole(value, v, tuple(range(v.aval.ndim))) for value, v in operands]
    return result(graph.node("MatMul", *names), tuple(range(first)), equation)


RULES: dict[str, Callable[..., Operand]] = {
    "abs": _elementwise("Abs"),
    "add": _add,
    "and": _elementwise("And"),
    "argmax": _argmax,
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": _same,
    "div": _elementwise("Div"),
    "dot_general": _product,
    "eq": _elementwise("Equal"),
    "erf": _elementwise("Erf"),
    "exp": _elementwise("Exp"),
    "gather": _gather,
    "ge": _elementwise("GreaterOrEqual"),
    "gt": _elementwise("Greater"),
    "integer_pow": _power,
    "le": _elementwise("LessOrEqual"),
    "log": _elementwise("Log"),
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _max,
    "min": _min,
    "mul": _elementwise("Mul"),
    "name": _same,  # of what rematerialisation keeps
    "ne": _then("Equal", "Not"),
    "neg": _elementwise("Neg"),
    "not": _elementwise("Not"),
    "optimization_barrier": _same,
    "or": _elementwise("Or"),
    "pad": _pad,
    "pow": _elementwise("Pow"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool", count_include_pad=1),
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _then("Sqrt", "Reciprocal"),
    "select_n": _select,
    "slice": _slice,
    "sqrt": _elementwise("Sqrt"),
    "square": _square,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _elementwise("Sub"),
    "tanh": _elementwise("Tanh"),
    "transpose": _transpose,
}
