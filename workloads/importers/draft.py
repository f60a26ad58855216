"""A network being written down while a framework's graph is walked, tensor by tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.graph.graph import Graph, Input, Operation, Step
from bfpsim.workloads.graph.product import Phased, Product
from bfpsim.workloads.importers.view import Arrangement, Dims, View, axes_of
from bfpsim.workloads.layer import ConvLayer, Pair, Shape
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node, Op, Pool
from bfpsim.workloads.transposed import Phase, phases

Tensor = TypeVar("Tensor", bound=Hashable)


@dataclass(frozen=True)
class Imported:
    """A network, and the weights of those of its layers whose weights the source holds.

    Batch normalisation is folded in; a layer without a bias has one of zeros.
    graph: the same, to be run with data
    """

    network: Network
    weights: dict[str, LayerWeights]
    graph: Graph


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node that holds the tensor of ``source`` several times.

    ``times`` times, elements that are copies of each other ``stride`` elements apart.
    """

    source: str
    times: int
    stride: int


class Names:
    """Names that are each given once: again, a name is ``name:1``, ``name:2``, ... .

    reserved: names that `free` does not give, but `claim` does
    mark, first: what stands before the number, and the first number
    """

    def __init__(self, reserved: Iterable[str] = (), mark: str = ":", first: int = 1) -> None:
        self._reserved = set(reserved)
        self._given: set[str] = set()
        self._mark, self._first = mark, first

    def claim(self, name: str) -> str:
        """Return a name that may be reserved, or the first of its successors that is free."""
        self._reserved.discard(name)
        return self.free(name)

    def free(self, name: str) -> str:
        """Return a name that is not reserved, or the first of its successors that is free."""
        free, number = name, self._first
        while free in self._given or free in self._reserved:
            free = f"{name}{self._mark}{number}"
            number += 1
        self._given.add(free)
        return free


class Draft(Generic[Tensor]):
    """The nodes so far, which of them holds which tensor, and the weights of layers.

    Methods that take tensors and return one append the node that computes it.

    name: of the network
    names: of its nodes
    move: what the host's transposing is called
    views: the graph's tensor -> what node holds it and how; constants are not there
    repeats: nodes that do nothing but repeat another's tensor
    folded: tensors that a product computes, or that are within one
    """

    def __init__(self, name: str, names: Names, move: str) -> None:
        self.name = name
        self.names = names
        self.views: dict[Tensor, View] = {}
        self.weights: dict[str, LayerWeights] = {}
        self.repeats: dict[str, Repeat] = {}
        self.folded: set[Tensor] = set()
        self._steps: list[Step] = []
        self._noted = 0
        self._build = NetworkBuilder(name)
        self._move = move
        self._moves: dict[tuple[object, ...], str] = {}

    def step(
        self,
        name: str,
        kind: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        operation: Product | Operation,
    ) -> None:
        """Note an operation of the graph; nodes appended since the last one are its nodes."""
        nodes = tuple(self._build.shapes)[self._noted :]
        self._noted += len(nodes)
        self._steps.append(Step(name, kind, (*inputs,), (*outputs,), operation, nodes))

    def finish(
        self, inputs: Mapping[str, Input], outputs: Iterable[str], constants: Mapping[str, Any]
    ) -> Imported:
        """Return what is written down so far; inputs, outputs and constants are the graph's.

        What repeats a tensor is left out where products read the tensor itself.
        """
        network = self._build.network()
        read = {source for node in network.nodes for source in node.inputs}
        last = network.nodes[-1].name
        nodes = tuple(
            node
            for node in network.nodes
            if node.name not in self.repeats or node.name in read or node.name == last
        )
        network = Network(network.name, nodes)
        graph = Graph(network, tuple(self._steps), inputs, (*outputs,), constants)
        return Imported(network, self.weights, graph)

    @property
    def last(self) -> str:
        """The node appended last."""
        return [*self._build.shapes][-1]

    def shape(self, node: str) -> Shape:
        """Return a node's output shape (N, H, W, C)."""
        return self._build.shape(node)

    def append(self, node: Node) -> str:
        """Append a node and return its name."""
        return self._build.append(node)

    def host(
        self, name: str, function: str, sources: Iterable[str], shape: Shape, macs: int = 0
    ) -> str:
        """Append an operation of the host's and return its name."""
        return self._build.host(name, function, *sources, shape=shape, macs=macs)

    def input(self, name: str, dims: Dims, arrangement: Arrangement) -> View:
        """Append an input, held in an arrangement."""
        self._build.input(name, arrangement.shape(dims))
        self._noted += 1  # no operation's
        return View.of(name, dims, arrangement)

    def repeat(self, view: View, source: View, dim: int, times: int, *, apart: bool) -> None:
        """Note that a node holds the tensor of another several times along a dimension.

        ``apart`` says that the whole comes again and again, not each element.
        """
        extents = view.strides[dim]
        if times > 1 and len(extents) == 1 and extents[0][0] % times == 0:
            extent, stride = extents[0]
            between = stride * (extent // times) if apart else stride
            self.repeats[view.node] = Repeat(source.node, times, between)

    def hold(self, view: View, wanted: View, shape: Shape) -> str:
        """Return the node that holds a tensor in a shape as ``wanted`` holds its own.

        Where another order is held, a move of the host's is appended, the first time that it is
        asked for; where only the extents of N, H and W are others, a ``reshape``.
        """
        strides, others = view.strides, wanted.strides
        if strides == others and self.shape(view.node) == shape:
            return view.node
        key = view.node, strides, others, shape
        if key not in self._moves:
            function = "reshape" if strides == others else self._move
            name = self.names.free(f"{view.node}.{function}")
            self._moves[key] = self.host(name, function, [view.node], shape)
        return self._moves[key]

    def arrange(self, view: View, arrangement: Arrangement) -> View:
        """Return a tensor held in an arrangement, in the arrangement's shape."""
        wanted = view.arrange(arrangement)
        return replace(wanted, node=self.hold(view, wanted, arrangement.shape(view.shape)))

    def map(self, view: View) -> View:
        """Return a tensor (N, C, H, W) or (N, C, L) held as (N, H, W, C) or (N, 1, L, C)."""
        return self.arrange(view, Arrangement.channels_first(len(view.dims)))

    def relu(self, name: str, view: View) -> View:
        """Append a ReLU."""
        return replace(view, node=self._build.relu(name, view.node))

    def add(self, name: str, views: Sequence[View]) -> View:
        """Append the sum of two or more tensors of one shape, held as the first is."""
        first, shape = views[0], self.shape(views[0].node)
        sources = (self.hold(view, first, shape) for view in views)
        return replace(first, node=self._build.add(name, *sources))

    def concat(self, name: str, views: Sequence[View], dim: int) -> View:
        """Append two or more tensors joined along the dimension that the first holds as C."""
        first, rest = views[0], views[0].without(dim)
        N, H, W, _ = self.shape(first.node)
        sources = []
        for view in views:
            # Where the others are held alike, channels of another number lie as the first's do.
            own = view.without(dim) if view.c == view.dims[dim] else view
            sources.append(self.hold(own, rest, (N, H, W, view.shape[dim])))
        c = axes_of(sum(view.shape[dim] for view in views))
        dims = (*first.dims[:dim], c, *first.dims[dim + 1 :])
        return View(self._build.concat(name, *sources), first.n, first.map, c, dims)

    def max_pool(self, name: str, view: View, pool: Pool) -> View:
        """Append a maximum over windows of a map."""
        source = self.map(view)
        self.append(Node(name, "maxpool", (source.node,), pool=pool))
        return self._map_of(name, len(view.dims))

    def average_pool(self, name: str, view: View) -> View:
        """Append the average of a whole map, which leaves one pixel."""
        source = self.map(view)
        return self._map_of(self._build.avgpool(name, source.node), len(view.dims))

    def mean(self, name: str, view: View, gone: Sequence[int], *, keep: bool) -> View:
        """Append the mean over the dimensions that the node holds as its map."""
        node = self._build.avgpool(name, view.node)
        extents = [
            (1 if keep else None) if dim in gone else extent
            for dim, extent in enumerate(view.shape)
        ]
        mean = view.resize(node, extents)
        assert mean is not None
        return mean

    def convolution(
        self,
        name: str,
        view: View,
        channels: int,
        kernel: Pair,
        *,
        stride: Pair,
        padding: Shape,
        dilation: Pair,
        groups: int,
    ) -> tuple[ConvLayer, View]:
        """Append a convolution of one or two dimensions, its extents as (rows, columns)."""
        source = self.map(view)
        layer = ConvLayer.on_input(
            name,
            self.shape(source.node),
            channels,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        op: Op = "conv1d" if len(view.dims) == 3 else "conv"
        self.append(Node(name, op, (source.node,), layer=layer))
        return layer, self._map_of(name, len(view.dims))

    def transposed(
        self,
        name: str,
        view: View,
        channels: int,
        kernel: Pair,
        *,
        stride: Pair,
        padding: Shape,
        output_padding: Pair,
        groups: int,
        biased: bool,
        weights: tuple[NDArray[Any], NDArray[Any]] | None,
    ) -> tuple[View, Phased]:
        """Append a transposed convolution: its phases, and what interleaves them.

        biased: whether something is added to its outputs
        weights: torch's (channels in, K per group, rows, columns) and a bias per channel, if known
        """
        source = self.map(view)
        parts, shape = phases(
            name, self.shape(source.node), channels, kernel, stride, padding, output_padding, groups
        )
        # Where no tap reaches an output there is nothing but the bias, which no layer adds.
        reached = sum(len(part.offsets) for part in parts)
        bare = reached < min(stride[0], shape[1]) * min(stride[1], shape[2])
        nodes: list[str] = []
        run: list[tuple[Phase, ConvLayer, NDArray[Any] | None]] = []
        for part in parts:
            nodes.append(self._phase(name, part, source.node))
            layer = self._build.layer(nodes[-1])
            run.append((part, layer, None if weights is None else part.weight(weights[0])))
            if weights is not None:
                added = np.zeros_like(weights[1]) if bare else weights[1]
                grouped = added.reshape(groups, 1, -1)
                repeated = np.tile(grouped, (1, len(part.offsets), 1)).ravel()
                stored = run[-1][2]
                assert stored is not None
                self.weights[nodes[-1]] = LayerWeights(stored, repeated)
        last = self.host(self.names.free(f"{name}.interleave"), "interleave", nodes, shape)
        if bare and biased:
            last = self.host(self.names.free(f"{name}.bias"), "add", [last], shape)
        filters, bias = (None, None) if weights is None else weights
        product = Phased(shape, tuple(run), filters, bias, stride, padding, output_padding, groups)
        return self._map_of(last, len(view.dims)), product

    def _phase(self, name: str, part: Phase, source: str) -> str:
        """Append a phase, under the convolution's own name if it is the only one."""
        alone = part.layer.name == name
        layer = replace(part.layer, name=name if alone else self.names.free(part.layer.name))
        if part.crop is not None:
            crop = self.names.free(f"{layer.name}.crop")
            source = self.host(crop, "crop", [source], layer.input_shape)
        return self.append(Node(layer.name, "transposed", (source,), layer=layer))

    def _map_of(self, node: str, rank: int) -> View:
        """Return the tensor (N, C, ...) of a rank that a node holds as its output."""
        N, H, W, C = self.shape(node)
        pixels = {3: (W,), 4: (H, W)}.get(rank, (1,) * (rank - 2))
        return View.of(node, (N, C, *pixels), Arrangement.channels_first(rank))
