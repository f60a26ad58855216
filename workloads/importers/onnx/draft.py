"""A network as it is written down, tensor by tensor of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.importers.onnx.file import Dims
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.layer import ConvLayer, Shape
from bfpsim.workloads.node import Node, Op, Pool, node_shape


@dataclass(frozen=True)
class Value:
    """An ONNX tensor: the node that computes it, its shape there, and what its axes hold."""

    node: str
    dims: Dims
    layout: Layout


class Draft:
    """The nodes so far, the tensors that they compute, and the weights of layers.

    name: of the network
    operators: of the file; names that are made up avoid theirs
    """

    def __init__(self, name: str, operators: Iterable[onnx.NodeProto]) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.weights: dict[str, LayerWeights] = {}
        self.values: dict[str, Value] = {}
        self._kept = {node.name for node in operators}
        self._taken: set[str] = set()
        self._shapes: dict[str, Shape] = {}
        self._arranged: dict[tuple[Value, Layout, Shape], str] = {}

    def shape(self, node: str) -> Shape:
        """Return a node's output shape (N, H, W, C)."""
        return self._shapes[node]

    def title(self, node: onnx.NodeProto) -> str:
        """Return a node's name for an operator: its own, or its first output's."""
        return self.claim(node.name if node.name.strip() else next(filter(None, node.output)))

    def claim(self, name: str) -> str:
        """Return a name of the file's for a node, with a number behind it if it is taken."""
        self._kept.discard(name)
        return self.free(name)

    def free(self, name: str) -> str:
        """Return a name that neither a node nor an operator of the file has, and take it."""
        name = name if name.strip() else "unnamed"
        free, number = name, 1
        while free in self._taken or free in self._kept:
            number += 1
            free = f"{name}.{number}"
        self._taken.add(free)
        return free

    def bind(self, tensor: str, node: str, dims: Dims, layout: Layout) -> None:
        """Say which node computes a tensor."""
        self.values[tensor] = Value(node, dims, layout)

    def layer(self, op: Op, layer: ConvLayer, *sources: str) -> str:
        """Append a layer; each method that appends returns the node's name."""
        return self._append(Node(layer.name, op, sources, layer=layer))

    def product(self, layer: ConvLayer, left: str, right: str, repeats: int) -> str:
        """Append a product of two activations; ``layer`` is one head's of one sample."""
        return self._append(Node(layer.name, "matmul", (left, right), layer=layer, repeats=repeats))

    def simple(self, op: Op, name: str, *sources: str) -> str:
        """Append a node that needs nothing but its inputs."""
        return self._append(Node(name, op, sources))

    def pool(self, name: str, source: str, pool: Pool) -> str:
        """Append a maximum over windows."""
        return self._append(Node(name, "maxpool", (source,), pool=pool))

    def input(self, name: str, shape: Shape) -> str:
        """Append an input."""
        return self._append(Node(name, "input", input_shape=shape))

    def host(self, name: str, function: str, *sources: str, shape: Shape, macs: int = 0) -> str:
        """Append an operation of the host's."""
        return self._append(
            Node(name, "host", sources, function=function, output_shape=shape, host_macs=macs)
        )

    def arranged(self, value: Value, layout: Layout, shape: Shape | None = None) -> str:
        """Return the node that holds a value in a layout and a shape (N, H, W, C).

        The shape is the layout's own if left out. Where the value is held in another order, a
        ``transpose`` of the host's is appended; where only the extents of N, H and W are, a
        ``reshape``.
        """
        wanted = layout.shape(value.dims) if shape is None else shape
        same = value.layout.same(layout, value.dims)
        if same and self._shapes[value.node] == wanted:
            return value.node
        key = value, layout, wanted
        if key not in self._arranged:
            function = "reshape" if same else "transpose"
            name = self.free(f"{value.node}.{function}")
            self._arranged[key] = self.host(name, function, value.node, shape=wanted)
        return self._arranged[key]

    def _append(self, node: Node) -> str:
        self._shapes[node.name] = node_shape(self.name, node, self._shapes)
        self.nodes.append(node)
        return node.name
