"""A network as it is written down, value by value of an fx graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from bfpsim.workloads.importers.torch.sites import Names, owner
from bfpsim.workloads.importers.torch.view import Axes, View
from bfpsim.workloads.layer import Shape
from bfpsim.workloads.node import Node, node_shape


class Draft:
    """The nodes so far, and which of them computes which fx node's value.

    name: of the network
    taken: names of layers, which nothing else may have
    leaves: paths of submodules that are one operation, which then bears the submodule's path
    """

    def __init__(self, name: str, taken: Iterable[str], leaves: Iterable[str]) -> None:
        self.name = name
        self._leaves = frozenset(leaves)
        self.nodes: list[Node] = []
        self.views: dict[fx.Node, View] = {}
        self.free = Names(taken)
        self._shapes: dict[str, Shape] = {}
        self._arranged: dict[tuple[View, Axes, Axes, Axes, Shape], View] = {}

    def shape(self, node: str) -> Shape:
        """Return a node's output shape (N, H, W, C)."""
        return self._shapes[node]

    def title(self, node: fx.Node, function: str) -> str:
        """Return a free name for what an fx node does."""
        path = owner(node)
        if path in self._leaves:
            return self.free(path)
        return self.free(f"{path}.{function}" if path else function)

    def append(self, node: Node) -> str:
        """Append a node and return its name."""
        self._shapes[node.name] = node_shape(self.name, node, self._shapes)
        self.nodes.append(node)
        return node.name

    def host(
        self, name: str, function: str, sources: Iterable[str], shape: Shape, macs: int = 0
    ) -> str:
        """Append an operation of the host's that reads each of the sources."""
        return self.append(
            Node(
                name,
                "host",
                tuple(dict.fromkeys(sources)),
                function=function,
                output_shape=shape,
                host_macs=macs,
            )
        )

    def arranged(self, view: View, n: Axes, map: Axes, c: Axes, shape: Shape | None = None) -> View:
        """Return the tensor held by a node in this order of axes, and in this shape (N, H, W, C).

        The shape is the tensor's own (`View.held`) if left out. Where another order is held, a
        ``permute`` of the host's is appended; where only the extents differ, a ``reshape``.
        """
        wanted = View(view.node, n, map, c, view.dims)
        shape = wanted.held if shape is None else shape
        same = wanted.strides == view.strides
        if same and self._shapes[view.node] == shape:
            return wanted
        key = view, n, map, c, shape
        if key not in self._arranged:
            function = "reshape" if same else "permute"
            node = self.host(self.free(f"{view.node}.{function}"), function, [view.node], shape)
            self._arranged[key] = View(node, n, map, c, view.dims)
        return self._arranged[key]
