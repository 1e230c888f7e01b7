"""An ONNX graph under construction, whose tensors represent the arrays of a jaxpr.

Images are [B,H,W,C] in JAX and [B,C,H,W] in ONNX. An array is therefore represented by a tensor and
the order of its axes. A convolution requires its own order, all other operators accept the order of
their input, and a Transpose is written only where the orders differ. Because ONNX broadcasts,
repeated values are expanded only when an operator needs them.
"""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

NCHW = (0, 3, 1, 2)  # the order of the axes of an image in ONNX
OPSET, IR_VERSION = 17, 8  # supported by onnxruntime since 1.12 and TensorRT since 8.5


class Tensor(NamedTuple):
    """A tensor of the graph that represents an array of the jaxpr.

    Attributes:
      name: the name of the tensor.
      axes: for each axis of the tensor, the corresponding axis of the array.
      shape: the shape of the tensor, 1 where the array only repeats its values.
    """

    name: str
    axes: tuple[int, ...]
    shape: tuple[Any, ...]


Operand = Tensor | np.ndarray  # constants are arrays, with length 1 where values repeat


class Graph:
    """A growing ONNX graph: its nodes, by the names of their outputs, and its constants."""

    def __init__(self) -> None:
        self.nodes: dict[str, onnx.NodeProto] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._transposed: dict[tuple[str, tuple[int, ...]], str] = {}

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node and returns the name of its output."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes[name] = helper.make_node(operator, inputs, [name], name, **attributes)
        return name

    def producer(self, operand: Operand, operator: str) -> onnx.NodeProto | None:
        """Returns the node whose output is an operand, if the node has that operator."""
        node = self.nodes.get(operand.name) if isinstance(operand, Tensor) else None
        return node if node is not None and node.op_type == operator else None

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant and returns its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype, order="C")
        return name

    def integers(self, values: Sequence[Any]) -> str:
        """Adds an int64 constant and returns its name; -1 stands for a symbolic dimension."""
        return self.constant([v if is_known(v) else -1 for v in values], np.int64)

    def sizes(self, shape: Sequence[Any]) -> str:
        """Returns the name of a shape as a tensor; a symbolic dimension is that of the batch."""
        if all(is_known(side) for side in shape):
            return self.integers(shape)
        bounds = self.integers([0]), self.integers([1])
        batch = self.node("Slice", self.node("Shape", "images"), *bounds)
        sides = [self.integers([side]) if is_known(side) else batch for side in shape]
        return self.node("Concat", *sides, axis=0)

    def ordered(self, operand: Operand, axes: tuple[int, ...]) -> str:
        """Returns the name of an operand with its axes in this order; a scalar has none."""
        if isinstance(operand, np.ndarray):
            return self.constant(operand.transpose(axes) if operand.ndim else operand)
        if operand.axes == axes:
            return operand.name
        key = operand.name, axes
        if key not in self._transposed:
            order = [operand.axes.index(axis) for axis in axes]
            self._transposed[key] = self.node("Transpose", operand.name, perm=order)
        return self._transposed[key]

    def whole(self, operand: Operand, variable: Any, axes: tuple[int, ...]) -> str:
        """Returns the name of an operand in this order with all values of its variable."""
        name, shape = self.ordered(operand, axes), ordered_shape(variable, axes)
        if sides(operand) == dict(zip(axes, shape, strict=True)):
            return name
        return self.node("Expand", name, self.sizes(shape))

    def model(self, source: Any, answer: Any, name: str) -> onnx.ModelProto:
        """Returns the checked model, with only the nodes that the answer depends on.

        Args:
          source: the variable of the input `images`.
          answer: the variable of the output `classes`.
          name: the name of the tensor that holds the answer.
        """
        needed = {name}
        for output, node in reversed(self.nodes.items()):
            if output in needed:
                needed.update(node.input)
        nodes = [node for output, node in self.nodes.items() if output in needed]
        nodes.append(helper.make_node("Identity", [name], ["classes"]))
        constants = {key: value for key, value in self.constants.items() if key in needed}
        graph = helper.make_graph(
            nodes,
            "segment",
            [_interface("images", source)],
            [_interface("classes", answer)],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        model = helper.make_model(
            graph,
            producer_name="rtda_jax",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _interface(name: str, variable: Any) -> onnx.ValueInfoProto:
    shape = [side if is_known(side) else "b" for side in variable.aval.shape]
    dtype = helper.np_dtype_to_tensor_dtype(variable.aval.dtype)
    return helper.make_tensor_value_info(name, dtype, shape)


def is_known(side: Any) -> bool:
    """Returns whether a dimension is a number and not a symbol."""
    return isinstance(side, numbers.Integral)


def result(name: str, axes: tuple[int, ...], equation: Any) -> Tensor:
    """Returns the tensor of this name, whole and in this order, as an equation's one output."""
    return Tensor(name, axes, ordered_shape(equation.outvars[0], axes))


def sides(operand: Operand) -> dict[int, Any]:
    """Returns the length of each axis of an operand, 1 where values only repeat."""
    axes = range(operand.ndim) if isinstance(operand, np.ndarray) else operand.axes
    return dict(zip(axes, operand.shape, strict=True))


def ordered_shape(variable: Any, axes: tuple[int, ...]) -> tuple[Any, ...]:
    """Returns the shape of a variable of the jaxpr with its axes in this order."""
    return tuple(variable.aval.shape[axis] for axis in axes)
