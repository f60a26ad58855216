"""A network: operations in execution order, whose tensor shapes are derived and must agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from workloads.layer import ConvLayer, Pair, Shape, WorkloadError, integer, output_extent, pair

Op = Literal["input", "conv", "relu", "add", "concat", "maxpool", "avgpool"]

# Operation -> how many nodes it reads, (least, most).
_INPUT_COUNTS: dict[str, tuple[int, float]] = {
    "input": (0, 0),
    "conv": (1, 1),
    "relu": (1, 1),
    "add": (2, math.inf),
    "concat": (2, math.inf),
    "maxpool": (1, 1),
    "avgpool": (1, 1),
}


@dataclass(frozen=True, slots=True)
class Pool:
    """The window of a pooling operation; each pair is (rows, columns), padding on both sides.

    With ``ceil``, as torch's ``ceil_mode``, input left over behind the last whole window gets a
    window too. It may end outside the padded input, but starts in the input or the padding before.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil: bool = False

    def outputs(self, extents: Pair) -> Pair:
        """Return how many windows an input of ``extents`` (rows, columns) has, as such a pair."""
        rows, cols = (self._windows(axis, extent) for axis, extent in enumerate(extents))
        return rows, cols

    def _windows(self, axis: int, extent: int) -> int:
        taps, step, pad = self.kernel[axis], self.stride[axis], self.padding[axis]
        if not self.ceil:
            return output_extent(extent, taps, step, (pad, pad))
        count = output_extent(extent, taps, step, (pad, pad + step - 1))
        return count - 1 if (count - 1) * step >= pad + extent else count


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its name, its kind, the nodes it reads, and what its kind needs besides.

    An ``input`` has an ``input_shape`` (N, H, W, C), a ``conv`` a ``layer`` of the node's name, a
    ``maxpool`` a ``pool``; ``avgpool`` averages the whole map to 1x1, ``add`` sums two or more
    equal shapes, and ``concat`` joins the channels of two or more, in the order of its inputs, with
    N, H and W equal. ReLU is a node of its own, and a linear layer a 1x1 conv on a 1x1 map.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    input_shape: Shape | None = None
    layer: ConvLayer | None = None
    pool: Pool | None = None


@dataclass(frozen=True)
class Network:
    """Nodes in execution order; the last one is the network's output.

    Raises `WorkloadError` if there is no node, a name is empty or taken, a node reads one that
    does not stand before it, or shapes do not agree.
    """

    name: str
    nodes: tuple[Node, ...]
    _shapes: dict[str, Shape] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise WorkloadError(f"network {self.name!r}: name must be a non-empty string")
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise WorkloadError(f"network {self.name!r}: must have at least one node")
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = _checked_shape(self.name, node, shapes)
        object.__setattr__(self, "_shapes", shapes)

    @property
    def layers(self) -> tuple[ConvLayer, ...]:
        """The convolution layers, in execution order."""
        return tuple(node.layer for node in self.nodes if node.layer is not None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers, for the whole batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def producers(self) -> Mapping[str, tuple[Node, ...]]:
        """Node name -> the nodes that it reads, in the order of its inputs."""
        by_name = {node.name: node for node in self.nodes}
        return {node.name: tuple(by_name[name] for name in node.inputs) for node in self.nodes}

    @property
    def unique_layers(self) -> tuple[tuple[ConvLayer, int], ...]:
        """Layers that differ in more than name, each as (the first of its kind, how many)."""
        kinds: dict[ConvLayer, list[ConvLayer]] = {}
        for layer in self.layers:
            kinds.setdefault(replace(layer, name="any"), []).append(layer)
        return tuple((alike[0], len(alike)) for alike in kinds.values())

    def shape(self, node: str) -> Shape:
        """Return the output shape (N, H, W, C) of the named node."""
        return _lookup(self.name, node, self._shapes)

    def batched(self, n: int) -> Network:
        """Return this network with a batch of ``n``."""
        return replace(self, nodes=tuple(_batched(node, n) for node in self.nodes))


class NetworkBuilder:
    """Writes a network down as a module definition; every shape follows from the input's.

    The input's node is named ``input``. Each method appends one node and returns its name, for
    later nodes to read:

    >>> build = NetworkBuilder("tiny", input_shape=(1, 8, 8, 3))
    >>> x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    >>> x = build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    >>> build.network().macs
    27808
    """

    def __init__(self, name: str, input_shape: Shape) -> None:
        self._name = name
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {}
        self._append(Node("input", "input", input_shape=input_shape))

    def conv(
        self,
        name: str,
        source: str,
        out_channels: int,
        kernel: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | Shape = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
    ) -> str:
        """Append a convolution to ``out_channels`` channels, those of all groups together."""
        layer = ConvLayer.on_input(
            name,
            self.shape(source),
            out_channels,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        return self._append(Node(name, "conv", (source,), layer=layer))

    def relu(self, name: str, source: str) -> str:
        """Append a ReLU."""
        return self._append(Node(name, "relu", (source,)))

    def add(self, name: str, *sources: str) -> str:
        """Append the elementwise sum of two or more nodes of one shape."""
        return self._append(Node(name, "add", sources))

    def concat(self, name: str, *sources: str) -> str:
        """Append two or more nodes' channels, one node's behind the other's."""
        return self._append(Node(name, "concat", sources))

    def maxpool(
        self,
        name: str,
        source: str,
        kernel: int | Pair,
        *,
        stride: int | Pair,
        padding: int | Pair = 0,
        ceil: bool = False,
    ) -> str:
        """Append a maximum over windows; padding never wins, nor does what lies beyond it."""
        owner = f"node {name!r}"
        pool = Pool(
            pair(owner, "kernel", kernel),
            pair(owner, "stride", stride),
            pair(owner, "padding", padding, least=0),
            ceil,
        )
        return self._append(Node(name, "maxpool", (source,), pool=pool))

    def avgpool(self, name: str, source: str) -> str:
        """Append the mean over the whole map, which leaves one row and one column."""
        return self._append(Node(name, "avgpool", (source,)))

    def shape(self, node: str) -> Shape:
        """Return the output shape (N, H, W, C) of a node appended before."""
        return _lookup(self._name, node, self._shapes)

    def network(self) -> Network:
        """Return the network written so far."""
        return Network(self._name, tuple(self._nodes))

    def _append(self, node: Node) -> str:
        self._shapes[node.name] = _checked_shape(self._name, node, self._shapes)
        self._nodes.append(node)
        return node.name


def _lookup(network: str, node: str, shapes: Mapping[str, Shape]) -> Shape:
    if node not in shapes:
        raise WorkloadError(f"network {network!r}: has no node {node!r}")
    return shapes[node]


def _checked_shape(network: str, node: Node, shapes: Mapping[str, Shape]) -> Shape:
    """Return the node's output shape, given those of the nodes before it."""
    owner = f"network {network!r}: node {node.name!r}"
    if not isinstance(node.name, str) or not node.name.strip():
        raise WorkloadError(f"{owner}: name must be a non-empty string")
    if node.name in shapes:
        raise WorkloadError(f"{owner}: name is taken by an earlier node")
    if node.op not in _INPUT_COUNTS:
        raise WorkloadError(f"{owner}: op={node.op!r} must be one of {', '.join(_INPUT_COUNTS)}")
    if not isinstance(node.inputs, tuple):
        raise WorkloadError(f"{owner}: inputs={node.inputs!r} must be a tuple of names")
    for source in node.inputs:
        if source not in shapes:
            raise WorkloadError(f"{owner}: input {source!r} must be a node before it")
    return _output_shape(owner, node, [shapes[source] for source in node.inputs])


def _output_shape(owner: str, node: Node, inputs: list[Shape]) -> Shape:
    """Return the shape that the node's operation makes of its inputs' shapes."""
    least, most = _INPUT_COUNTS[node.op]
    if not least <= len(inputs) <= most:
        count = f"{least}" if least == most else f"at least {least}"
        raise WorkloadError(f"{owner}: {node.op} reads {len(inputs)} nodes, must read {count}")
    for attribute, op in (("input_shape", "input"), ("layer", "conv"), ("pool", "maxpool")):
        if (getattr(node, attribute) is not None) != (node.op == op):
            must = "must" if node.op == op else "must not"
            raise WorkloadError(f"{owner}: {node.op} {must} have {attribute}")

    if node.input_shape is not None:
        return _input_shape(owner, node.input_shape)
    if node.layer is not None:
        return _conv_shape(owner, node, node.layer, inputs[0])
    if node.pool is not None:
        return _pooled_shape(owner, node.pool, inputs[0])
    if node.op == "avgpool":
        return inputs[0][0], 1, 1, inputs[0][3]
    if node.op == "concat":
        return _concatenated_shape(owner, node, inputs)
    for source, shape in zip(node.inputs, inputs, strict=True):  # relu, add: one shape throughout
        if shape != inputs[0]:
            raise WorkloadError(
                f"{owner}: {source!r} has shape {shape}, must have {inputs[0]} as "
                f"{node.inputs[0]!r} has"
            )
    return inputs[0]


def _input_shape(owner: str, shape: Shape) -> Shape:
    if len(shape) != 4:
        raise WorkloadError(f"{owner}: input_shape={shape!r} must be (N, H, W, C)")
    N, H, W, C = (integer(owner, "input_shape", extent) for extent in shape)
    return N, H, W, C


def _conv_shape(owner: str, node: Node, layer: ConvLayer, source: Shape) -> Shape:
    if layer.name != node.name:
        raise WorkloadError(f"{owner}: its layer is named {layer.name!r}, must be named alike")
    if layer.input_shape != source:
        raise WorkloadError(
            f"{owner}: input {node.inputs[0]!r} has shape {source}, must have {layer.input_shape} "
            "(N, H, W, C)"
        )
    return layer.output_shape


def _concatenated_shape(owner: str, node: Node, inputs: list[Shape]) -> Shape:
    N, H, W, _ = inputs[0]
    for source, shape in zip(node.inputs, inputs, strict=True):
        if shape[:3] != (N, H, W):
            raise WorkloadError(
                f"{owner}: {source!r} has N, H, W = {shape[:3]}, must have {(N, H, W)} as "
                f"{node.inputs[0]!r} has"
            )
    return N, H, W, sum(shape[3] for shape in inputs)


def _pooled_shape(owner: str, pool: Pool, shape: Shape) -> Shape:
    kernel, stride = pair(owner, "kernel", pool.kernel), pair(owner, "stride", pool.stride)
    padding = pair(owner, "padding", pool.padding, least=0)
    N, *extents, C = shape
    for taps, step, pad, extent in zip(kernel, stride, padding, extents, strict=True):
        if 2 * pad > taps:
            # Beyond half the kernel a window could lie in the padding alone, and have no maximum.
            raise WorkloadError(f"{owner}: padding={pad} must be at most half of kernel={taps}")
        beyond = step - 1 if pool.ceil else 0
        if taps > extent + 2 * pad + beyond:
            reach = f"and {beyond} beyond it (ceil, stride {step})" if beyond else ""
            raise WorkloadError(
                f"{owner}: kernel={taps} must be at most {extent + 2 * pad + beyond}, the padded "
                f"input {reach}".rstrip()
            )
    P, Q = Pool(kernel, stride, padding, pool.ceil).outputs((extents[0], extents[1]))
    return N, P, Q, C


def _batched(node: Node, n: int) -> Node:
    if node.input_shape is not None:
        return replace(node, input_shape=(n, *node.input_shape[1:]))
    if node.layer is not None:
        return replace(node, layer=node.layer.batched(n))
    return node
