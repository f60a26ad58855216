"""Operators of quantised files, written as what they compute: products of floats.

Integers are dequantised before a product, and its result is quantised behind it, as in a file of
QuantizeLinear and DequantizeLinear (QDQ); so weights are the floats that they stand for. Padding
with a zero point is padding with zeros. Operators of ONNX Runtime are here as its quantiser writes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bfpsim.workloads.importers.onnx.file import is_onnx
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

_RUNTIME = "com.microsoft"
_FLOAT = onnx.TensorProto.FLOAT


def written_in_floats(
    node: onnx.NodeProto, dims: Mapping[str, Dims], types: Mapping[str, onnx.TypeProto]
) -> onnx.GraphProto | None:
    """Return the graph that a quantised operator is, with its outputs in order.

    None for any other operator, and where scales of a result differ along an axis.
    ``dims`` and ``types`` are those of tensors, as far as they are known. Raises `WorkloadError` if
    inputs are left out that must not be.
    """
    known = _ONNX if is_onnx(node) else _OF_RUNTIME if node.domain == _RUNTIME else {}
    write = known.get(node.op_type)
    if write is None or any(name and name not in dims for name in node.input):
        return None
    graph = _Written(node, dims, types)
    try:
        result = write(graph)
    except (KeyError, IndexError, ValueError):
        raise WorkloadError(
            f"{node.op_type} {graph.title!r}: an input that it must have is left out"
        ) from None
    return None if result is None else graph.finish(result)


class _Written:
    """The operators that take a quantised one's place, and shorthands for writing them."""

    def __init__(
        self, node: onnx.NodeProto, dims: Mapping[str, Dims], types: Mapping[str, onnx.TypeProto]
    ) -> None:
        self.node = node
        self.title = node.name or next(filter(None, node.output))
        self._dims, self._types = dims, types
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []

    def input(self, place: int) -> str:
        """Return an input's name, "" if it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append an operator and return its first output; others are NAME.1, NAME.2, ... ."""
        name = f"{self.title}.float{len(self._nodes)}"
        made = [name, *(f"{name}.{place}" for place in range(1, outputs))]
        self._nodes.append(helper.make_node(kind, inputs, made, **attributes))
        return name

    def product(
        self, kind: str, *inputs: str, drop: tuple[str, ...] = (), **attributes: Any
    ) -> str:
        """Append the product that the whole is about: its name, its attributes but for some."""
        made = self.add(kind, *inputs, name=self.title, **attributes)
        own = (each for each in self.node.attribute if each.name not in drop)
        self._nodes[-1].attribute.extend(each for each in own if each.name not in attributes)
        return made

    def constant(self, value: Any) -> str:
        """Store an array and return its name."""
        name = f"{self.title}.constant{len(self._stored)}"
        self._stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def floats(self, tensor: str, scale: str, zero: str, axis: int = 0) -> str:
        """Return scale * (tensor - zero), both per tensor or along an axis; no scale is 1."""
        rank = len(self._dims[tensor])
        count = max((int(np.prod(self._dims[name])) for name in (scale, zero) if name), default=1)
        if count == 1:
            one = scale or self.constant(np.float32(1))
            return self.add("DequantizeLinear", tensor, one, *([zero] if zero else []))
        kind = self._types[scale].tensor_type.elem_type if scale else _FLOAT
        values = self.add("Cast", tensor, to=kind)
        if zero:
            offset = self._along(self.add("Cast", zero, to=kind), self._dims[zero], axis, rank)
            values = self.add("Sub", values, offset)
        if scale:
            values = self.add("Mul", values, self._along(scale, self._dims[scale], axis, rank))
        return values

    def quantised(self, tensor: str, scale: str, zero: str) -> str | None:
        """Return a tensor quantised with one scale; None if there are several."""
        if int(np.prod(self._dims[scale])) != 1:
            return None
        return self.add("QuantizeLinear", tensor, scale, *([zero] if zero else []))

    def rank(self, place: int) -> int:
        """Return how many dimensions an input has."""
        return len(self._dims[self.input(place)])

    def dims(self, place: int) -> Dims:
        """Return an input's shape."""
        return self._dims[self.input(place)]

    def finish(self, result: str | tuple[str, ...]) -> onnx.GraphProto:
        """Return the graph."""
        names = result if isinstance(result, tuple) else (result,)
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        return helper.make_graph(self._nodes, self.title, [], outputs, self._stored)

    def _along(self, values: str, dims: Dims, axis: int, rank: int) -> str:
        """Return one value per place of an axis in a shape that is broadcast along it."""
        if len(dims) != 1 or dims[0] == 1:
            return values
        shape = [1] * rank
        shape[axis] = dims[0]
        return self.add("Reshape", values, self.constant(np.array(shape)))


def _conv_integer(graph: _Written) -> str:
    x = graph.floats(graph.input(0), "", graph.input(2))
    weight = graph.floats(graph.input(1), "", graph.input(3))
    return graph.add("Cast", graph.product("Conv", x, weight), to=onnx.TensorProto.INT32)


def _matmul_integer(graph: _Written) -> str:
    left = graph.floats(graph.input(0), "", graph.input(2), -2 if graph.rank(0) > 1 else 0)
    right = graph.floats(graph.input(1), "", graph.input(3), -1)
    return graph.add("Cast", graph.product("MatMul", left, right), to=onnx.TensorProto.INT32)


def _conv(graph: _Written) -> str | None:
    x, x_scale, x_zero, weight, scale, zero, y_scale, y_zero = map(graph.input, range(8))
    added = graph.input(8)
    inputs = [graph.floats(x, x_scale, x_zero), graph.floats(weight, scale, zero)]
    if added:
        inputs.append(_added(graph, added, x_scale, scale))
    return graph.quantised(graph.product("Conv", *inputs), y_scale, y_zero)


def _matmul(graph: _Written) -> str | None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = map(graph.input, range(8))
    left = graph.floats(a, a_scale, a_zero, -2 if graph.rank(0) > 1 else 0)
    right = graph.floats(b, b_scale, b_zero, -1)
    return graph.quantised(graph.product("MatMul", left, right), y_scale, y_zero)


def _gemm(graph: _Written) -> str | None:
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = map(graph.input, range(9))
    turned = any(own.name == "transB" and own.i for own in graph.node.attribute)
    inputs = [
        graph.floats(a, a_scale, a_zero),
        graph.floats(b, b_scale, b_zero, -2 if turned else -1),
    ]
    if c:
        inputs.append(_added(graph, c, a_scale, b_scale))
    product = graph.product("Gemm", *inputs)
    return graph.quantised(product, y_scale, y_zero) if y_scale else product


def _matmul_to_float(graph: _Written) -> str:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = map(graph.input, range(7))
    left = graph.floats(a, a_scale, a_zero, -2)
    product = graph.product("MatMul", left, graph.floats(b, b_scale, b_zero, -1))
    return graph.add("Add", product, bias) if bias else product


def _dynamic_matmul(graph: _Written) -> str:
    a, b, b_scale, b_zero, bias = map(graph.input, range(5))
    whole = graph.add("DynamicQuantizeLinear", a, outputs=3)
    left = graph.add("DequantizeLinear", whole, f"{whole}.1", f"{whole}.2")
    product = graph.product("MatMul", left, graph.floats(b, b_scale, b_zero, -1))
    return graph.add("Add", product, bias) if bias else product


def _dynamic_lstm(graph: _Written) -> tuple[str, ...]:
    """Write an LSTM: weights are (directions, inputs, 4 hidden), scales per direction or column."""
    x, weight, hidden, *more = map(graph.input, range(12))
    matrices = []
    for matrix, scale, zero in ((weight, *more[5:7]), (hidden, *more[7:9])):
        values = graph.add("Cast", matrix, to=_FLOAT)
        for kind, each in (("Sub", zero), ("Mul", scale)):
            if each:
                part = graph.add("Cast", each, to=_FLOAT)
                values = graph.add(kind, values, graph.add("Reshape", part, _columns(graph, each)))
        matrices.append(graph.add("Transpose", values, perm=[0, 2, 1]))
    names = graph.product("LSTM", x, *matrices, *more[:5], outputs=3)
    return tuple(
        name
        for name, own in zip((names, f"{names}.1", f"{names}.2"), graph.node.output, strict=False)
        if own
    )


def _columns(graph: _Written, name: str) -> str:
    """Return the shape of scales: one per direction, or one per direction and column."""
    dims = graph._dims[name]
    return graph.constant(np.array([dims[0] if dims else 1, 1, dims[1] if len(dims) > 1 else 1]))


def _between(kind: str, operands: int) -> Callable[[_Written], str | None]:
    """Return what writes an operator between layers, of one or two operands."""

    def write(graph: _Written) -> str | None:
        names = [graph.input(place) for place in range(3 * operands + 2)]
        if any(own.name == "channels_last" and own.i for own in graph.node.attribute):
            return None
        triples = (names[3 * each : 3 * each + 3] for each in range(operands))
        inputs = [graph.floats(x, scale, zero) for x, scale, zero in triples]
        result = graph.product(kind, *inputs, drop=("channels_last", "opset"))
        return graph.quantised(result, *names[3 * operands :])

    return write


def _concat(graph: _Written) -> str | None:
    scale, zero, *parts = graph.node.input
    triples = (parts[place : place + 3] for place in range(0, len(parts), 3))
    inputs = [graph.floats(x, own, offset) for x, own, offset in triples]
    return graph.quantised(graph.product("Concat", *inputs), scale, zero)


def _added(graph: _Written, bias: str, x_scale: str, scale: str) -> str:
    """Return an integer bias as floats: its scale is the product of the operands'."""
    values = graph.add("Cast", bias, to=_FLOAT)
    return graph.add("Mul", values, graph.add("Mul", x_scale, scale))


_Write = Callable[[_Written], str | tuple[str, ...] | None]
_ONNX: dict[str, _Write] = {
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
}
_OF_RUNTIME: dict[str, _Write] = {
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_to_float,
    "QGemm": _gemm,
    "QLinearAdd": _between("Add", 2),
    "QLinearAveragePool": _between("AveragePool", 1),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _between("GlobalAveragePool", 1),
    "QLinearLeakyRelu": _between("LeakyRelu", 1),
    "QLinearMul": _between("Mul", 2),
    "QLinearSigmoid": _between("Sigmoid", 1),
    "QLinearSoftmax": _between("Softmax", 1),
}
OPERATORS = (*_ONNX, *(f"{_RUNTIME}.{name}" for name in _OF_RUNTIME))
"""All of them."""
