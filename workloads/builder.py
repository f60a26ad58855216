"""Writing a network down as a module definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bfpsim.workloads.layer import ConvLayer, Pair, Shape, WorkloadError, integer, pair
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node, Op, Pool, node_shape
from bfpsim.workloads.transposed import phases


class NetworkBuilder:
    """Writes a network down as a module definition; every shape follows from the input's.

    The node of an ``input_shape`` is named ``input``. Each method appends one node (`transposed`
    some) and returns the name for later nodes to read:

    >>> build = NetworkBuilder("tiny", input_shape=(1, 8, 8, 3))
    >>> x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    >>> x = build.linear("fc", build.avgpool("pool", x), 10)
    >>> build.network().macs
    27808
    """

    def __init__(self, name: str, input_shape: Shape | None = None) -> None:
        self._name = name
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {}
        if input_shape is not None:
            self.input("input", input_shape)

    def append(self, node: Node) -> str:
        """Append any node; raises `WorkloadError` as `node_shape` does."""
        self._shapes[node.name] = node_shape(self._name, node, self._shapes)
        self._nodes.append(node)
        return node.name

    def input(self, name: str, shape: Shape) -> str:
        """Append another input of the network."""
        return self.append(Node(name, "input", input_shape=shape))

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
        return self._layer(name, "conv", layer, source)

    def conv1d(
        self,
        name: str,
        source: str,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> str:
        """Append a convolution along the columns of a map of one row, padded at both ends."""
        layer = ConvLayer.on_input(
            name,
            self.shape(source),
            out_channels,
            (1, kernel),
            stride=(1, stride),
            padding=(0, padding),
            dilation=(1, dilation),
            groups=groups,
        )
        return self._layer(name, "conv1d", layer, source)

    def linear(self, name: str, source: str, out_features: int) -> str:
        """Append a fully connected layer over the channels, at every row and column."""
        layer = ConvLayer.on_input(name, self.shape(source), out_features, 1)
        return self._layer(name, "linear", layer, source)

    def matmul(self, name: str, left: str, right: str, columns: int, *, heads: int = 1) -> str:
        """Append the product of two activations, head by head, sample by sample.

        ``left`` (N, P, Q, heads * C) times ``right``, any shape of N * heads * C * ``columns``
        elements, gives (N, P, Q, heads * columns). For Q K^T of attention, ``columns`` are the
        keys' tokens; for the product with V, the channels of a head.
        """
        samples, P, Q, channels = self.shape(left)
        if channels % integer(f"layer {name!r}", "heads", heads):
            raise WorkloadError(
                f"layer {name!r}: heads={heads} must divide the {channels} channels"
            )
        layer = ConvLayer(name, K=columns, C=channels // heads, P=P, Q=Q)
        repeats = samples * heads
        return self.append(Node(name, "matmul", (left, right), layer=layer, repeats=repeats))

    def transposed(
        self,
        name: str,
        source: str,
        out_channels: int,
        kernel: int | Pair,
        *,
        stride: int | Pair,
        padding: int | Pair = 0,
        output_padding: int | Pair = 0,
        groups: int = 1,
    ) -> str:
        """Append a transposed convolution, as torch's: its phases and what interleaves them."""
        parts, shape = phases(
            name, self.shape(source), out_channels, kernel, stride, padding, output_padding, groups
        )
        outputs = []
        for phase in parts:
            read = source
            if phase.crop is not None:
                N, H, W, C = phase.layer.input_shape
                read = self.host(f"{phase.layer.name}.crop", "crop", source, shape=(N, H, W, C))
            outputs.append(self._layer(phase.layer.name, "transposed", phase.layer, read))
        return self.host(f"{name}.interleave", "interleave", *outputs, shape=shape)

    def relu(self, name: str, source: str) -> str:
        """Append a ReLU."""
        return self.append(Node(name, "relu", (source,)))

    def add(self, name: str, *sources: str) -> str:
        """Append the elementwise sum of two or more nodes of one shape."""
        return self.append(Node(name, "add", sources))

    def concat(self, name: str, *sources: str) -> str:
        """Append two or more nodes' channels, one node's behind the other's."""
        return self.append(Node(name, "concat", sources))

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
        return self.append(Node(name, "maxpool", (source,), pool=pool))

    def avgpool(self, name: str, source: str) -> str:
        """Append the mean over the whole map, which leaves one row and one column."""
        return self.append(Node(name, "avgpool", (source,)))

    def host(
        self, name: str, function: str, *sources: str, shape: Shape | None = None, macs: int = 0
    ) -> str:
        """Append an operation that is the host's and not modelled.

        ``shape`` is that of its output, by default its first source's; ``macs`` are the
        multiply-accumulates it has.
        """
        output = self.shape(sources[0]) if shape is None else shape
        return self.append(
            Node(name, "host", sources, function=function, output_shape=output, host_macs=macs)
        )

    def mark_unverified(self, prefix: str, source: str) -> None:
        """Say that ``source`` fixed shapes that the paper leaves open, of nodes named so far.

        Raises `WorkloadError` if no node's name starts with ``prefix``.
        """
        marked = [node.name.startswith(prefix) for node in self._nodes]
        if not any(marked):
            raise WorkloadError(f"network {self._name!r}: has no node named {prefix!r}...")
        self._nodes = [
            replace(node, unverified=source) if mark else node
            for node, mark in zip(self._nodes, marked, strict=True)
        ]

    def shape(self, node: str) -> Shape:
        """Return the output shape (N, H, W, C) of a node appended before."""
        if node not in self._shapes:
            raise WorkloadError(f"network {self._name!r}: has no node {node!r}")
        return self._shapes[node]

    def layer(self, node: str) -> ConvLayer:
        """Return the layer of a node appended before."""
        layer = next((each.layer for each in self._nodes if each.name == node), None)
        if layer is None:
            raise WorkloadError(f"network {self._name!r}: has no layer {node!r}")
        return layer

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Node -> output shape (N, H, W, C), of all nodes so far."""
        return self._shapes

    def network(self) -> Network:
        """Return the network written so far."""
        return Network(self._name, tuple(self._nodes))

    def _layer(self, name: str, op: Op, layer: ConvLayer, *sources: str) -> str:
        return self.append(Node(name, op, sources, layer=layer))
