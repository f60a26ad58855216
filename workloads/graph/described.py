"""Networks that are described node by node (YAML, CSV, `NetworkBuilder`) as graphs.

Tensors are float64 (N, H, W, C), named as the nodes; a host node is ONNX operators, where its
function and its shapes leave no doubt what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.graph.graph import Graph, Input, Operation, Step, evaluate
from bfpsim.workloads.graph.operators import OnnxOperation
from bfpsim.workloads.graph.product import (
    Contraction,
    Letters,
    Multiply,
    Product,
    Windows,
    multiply_floats,
)
from bfpsim.workloads.layer import ConvLayer, Shape, WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node, Pool

_OPS = (
    "input", "conv", "conv1d", "linear", "matmul", "relu", "add", "concat", "avgpool", "maxpool",
)  # fmt: skip

FUNCTIONS = (
    "relu6", "sigmoid", "gelu", "mul", "reshape", "tokens", "split", "scale", "softmax",
    "layer_norm", "add_parameter",
)  # fmt: skip
"""What a host node of a described network may do in a run with data."""

_LEARNED = ("layer_norm", "add_parameter")
_OPSETS = {"": 20}
_EPSILON = 1e-5  # of torch's layer normalisation, unless told otherwise


def describe(network: Network, weights: Mapping[str, LayerWeights]) -> Graph:
    """Return a network as a graph; its output is its last node.

    Raises WorkloadError, naming nodes, if it cannot be run with data: transposed convolutions and
    most of the host's functions are counted and timed, but do not say what they compute; and each
    layer, layer_norm and add_parameter needs its weights.
    """
    _check(network, weights)
    drawn = _Drawn(network, weights)
    for node in network.nodes:
        drawn.append(node)
    inputs = {
        node.name: Input(node.input_shape, np.dtype(np.float64))
        for node in network.nodes
        if node.input_shape is not None
    }
    last = network.nodes[-1].name
    return Graph(network, tuple(drawn.steps), inputs, (last,), drawn.constants)


def node_evaluator(
    network: Network, weights: Mapping[str, LayerWeights], multiply: Multiply = multiply_floats
) -> Callable[[Node, Sequence[NDArray[Any]]], NDArray[Any]]:
    """Return what computes one node at a time, float64 (N, H, W, C), of the values that it reads.

    They may be a part of each map, where a node computes pixel by pixel. Computing a node raises
    WorkloadError, as `describe`, if it does not say what it computes.
    """
    known: dict[str, _Drawn] = {}

    def evaluate_node(node: Node, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if node.name not in known:
            if not _runs(network, node):
                raise WorkloadError(
                    f"network {network.name!r}: {node.function or node.op} {node.name!r} cannot "
                    "be run with data"
                )
            known[node.name] = _Drawn(network, weights)
            known[node.name].append(node)
        drawn = known[node.name]
        values: dict[str, Any] = dict(zip(node.inputs, inputs, strict=True))
        for step in drawn.steps:
            read = [values.get(name, drawn.constants.get(name)) for name in step.inputs]
            values[step.outputs[0]] = evaluate(step, read, multiply)[0]
        made: NDArray[Any] = values[node.name]
        return made

    return evaluate_node


class _Drawn:
    """The steps of a network so far, and the constants that they read."""

    def __init__(self, network: Network, weights: Mapping[str, LayerWeights]) -> None:
        self.steps: list[Step] = []
        self.constants: dict[str, Any] = {}
        self._network, self._weights = network, weights

    def append(self, node: Node) -> None:
        """Append the steps that a node is."""
        if node.op == "input":
            return
        if node.layer is not None:
            self._step(node, node.op, node.inputs, node.name, self._product(node, node.layer))
            return
        match node.op:
            case "relu":
                self._operator(node, "Relu", *node.inputs)
            case "add":
                self._operator(node, "Sum", *node.inputs)
            case "concat":
                self._operator(node, "Concat", *node.inputs, axis=3)
            case "avgpool":
                self._operator(node, "ReduceMean", node.inputs[0], self._constant(node, [1, 2]))
            case "maxpool":
                assert node.pool is not None
                self._max_pool(node, node.pool)
            case _:
                self._host(node)

    def _host(self, node: Node) -> None:
        x, shape = node.inputs[0], self._network.shape(node.name)
        own = self._weights.get(node.name)
        match node.function:
            case "relu6":
                bounds = (self._constant(node, np.float64(each)) for each in (0, 6))
                self._operator(node, "Clip", x, *bounds)
            case "sigmoid" | "mul":
                self._operator(node, node.function.capitalize(), *node.inputs)
            case "gelu":  # whose function in onnx has its constants in float32
                root, one, half = (self._constant(node, each) for each in (math.sqrt(2), 1.0, 0.5))
                y = self._part(node, "Erf", self._part(node, "Div", x, root))
                y = self._part(node, "Mul", x, self._part(node, "Add", y, one))
                self._operator(node, "Mul", y, half)
            case "reshape" | "tokens":
                self._operator(node, "Reshape", x, self._constant(node, [0, *shape[1:]]))
            case "split":
                parts = _parts(self._network, node)
                widths = [self._network.shape(part)[3] for part in parts]
                first = sum(widths[: parts.index(node.name)])
                ends = ([first], [first + shape[3]], [3])
                self._operator(node, "Slice", x, *(self._constant(node, end) for end in ends))
            case "scale":  # by 1 / sqrt(channels of a head)
                width = math.sqrt(_product_of(self._network, node).C)
                self._operator(node, "Div", x, self._constant(node, width))
            case "softmax":  # over the columns of each head
                columns = _product_of(self._network, node).K
                heads = self._constant(node, [0, 0, 0, -1, columns])
                shares = self._part(node, "Softmax", self._part(node, "Reshape", x, heads))
                self._operator(node, "Reshape", shares, self._constant(node, [0, 0, 0, -1]))
            case "layer_norm":
                assert own is not None
                parameters = (self._constant(node, each) for each in (own.weight, own.bias))
                self._operator(node, "LayerNormalization", x, *parameters, axis=3, epsilon=_EPSILON)
            case "add_parameter":
                assert own is not None
                total = own.weight.astype(np.float64) + own.bias
                self._operator(node, "Add", x, self._constant(node, total))

    def _max_pool(self, node: Node, pool: Pool) -> None:
        moved = self._part(node, "Transpose", node.inputs[0], perm=[0, 3, 1, 2])
        maxima = self._part(
            node,
            "MaxPool",
            moved,
            kernel_shape=pool.kernel,
            strides=pool.stride,
            pads=[*pool.padding, *pool.padding],
            ceil_mode=int(pool.ceil),
        )
        self._operator(node, "Transpose", maxima, perm=[0, 2, 3, 1])

    def _product(self, node: Node, layer: ConvLayer) -> Product:
        if node.op != "matmul":
            return Windows(layer, self._weights[node.name], last=True)
        (N, P, Q, channels), right = (self._network.shape(name) for name in node.inputs)
        heads, tokens = channels // layer.C, right[1] * right[2]
        turned = tokens == layer.C  # values, whose tokens are summed over; else keys
        letters = Letters("bpqhk", "bkhn" if turned else "bnhk", "bpqhn")
        left = N, P, Q, heads, layer.C
        rights = N, tokens, heads, right[3] // heads
        return Contraction(layer, letters, "k", left, rights, (N, P, Q, heads * layer.K))

    def _part(self, node: Node, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an ONNX operator that is a part of what a node is, and return what it gives."""
        made = f"{node.name}:{kind.lower()}{len(self.steps)}"
        return self._operator(node, kind, *inputs, output=made, **attributes)

    def _operator(
        self, node: Node, kind: str, *inputs: str, output: str = "", **attributes: Any
    ) -> str:
        """Append an ONNX operator that gives a node's output, or another one."""
        made = output or node.name
        operator = helper.make_node(kind, inputs, [made], made, **attributes)
        run = OnnxOperation(operator, tuple(dict.fromkeys(inputs)), _OPSETS, self.constants)
        self._step(node, kind, run.reads, made, run)
        return made

    def _step(
        self,
        node: Node,
        kind: str,
        inputs: tuple[str, ...],
        output: str,
        operation: Product | Operation,
    ) -> None:
        self.steps.append(Step(node.name, kind, inputs, (output,), operation, (node.name,)))

    def _constant(self, node: Node, value: Any) -> str:
        name = f"{node.name}:{len(self.constants)}"
        array = np.asarray(value)
        self.constants[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        return name


# --- what may be run -----------------------------------------------------------------------------


def _check(network: Network, weights: Mapping[str, LayerWeights]) -> None:
    others = [node for node in network.nodes if not _runs(network, node)]
    if others:
        kinds = sorted({node.function or node.op for node in others})
        raise WorkloadError(
            f"network {network.name!r}: {len(others)} of {len(network.nodes)} nodes cannot be run "
            f"with data ({', '.join(kinds)}; first: {others[0].name!r}); allowed: "
            f"{', '.join(_OPS)}, and on shapes that tell what is meant {', '.join(FUNCTIONS)}"
        )
    for node in network.nodes:
        weighted = node.layer is not None and node.op != "matmul"
        if (weighted or node.function in _LEARNED) and node.name not in weights:
            raise WorkloadError(
                f"network {network.name!r}: {node.function or node.op} {node.name!r} has no "
                "weights; allowed: weights for each layer, layer_norm and add_parameter"
            )


def _runs(network: Network, node: Node) -> bool:
    """Whether the node's operation is known, and its shapes leave no doubt how to do it."""
    if node.op != "host":
        return node.op in _OPS and (node.op != "matmul" or _plain_product(network, node))
    sources, out = [network.shape(name) for name in node.inputs], network.shape(node.name)
    match node.function:
        case "relu6" | "sigmoid" | "gelu" | "layer_norm" | "add_parameter":
            return sources == [out]
        case "mul":  # by a factor per channel
            return sources == [out, (out[0], 1, 1, out[3])]
        case "reshape":  # of what lies in one line, whose order is beyond doubt
            return len(sources) == 1 and _line(sources[0]) == _line(out) is not None
        case "tokens":  # a map's pixels, row by row
            return [(N, H * W, 1, C) for N, H, W, C in sources] == [out]
        case "split":  # the channels, into as many parts as there are, in their order
            whole = [(*out[:3], sum(network.shape(part)[3] for part in _parts(network, node)))]
            return sources == whole
        case "scale":
            return sources == [out] and network.producers[node.name][0].op == "matmul"
        case "softmax":
            return sources == [out] and network.producers[node.name][0].function == "scale"
    return False


def _line(shape: Shape) -> tuple[int, int] | None:
    """Samples and their extent, if each lies along one axis."""
    samples, *extents = shape
    return (samples, max(extents)) if max(extents) == math.prod(extents) else None


def _plain_product(network: Network, node: Node) -> bool:
    """Whether both operands are tokens, and which of the right one's extents is summed over."""
    layer = node.layer
    assert layer is not None
    left, (_, rows, cols, channels) = (network.shape(name) for name in node.inputs)
    heads = left[3] // layer.C
    right = [(heads * layer.C, layer.K), (heads * layer.K, layer.C)]
    return (
        left[1:] == (layer.P, layer.Q, heads * layer.C)
        and layer.K != layer.C
        and (channels, rows * cols) in right
    )


def _parts(network: Network, node: Node) -> list[str]:
    """The nodes that split what this one splits."""
    same = (other for other in network.nodes if other.inputs == node.inputs)
    return [other.name for other in same if other.function == "split"]


def _product_of(network: Network, node: Node) -> ConvLayer:
    """The product whose scores a scale or a softmax reads."""
    source = network.producers[node.name][0]
    return source.layer if source.layer is not None else _product_of(network, source)
