"""A network: operations in execution order, whose tensor shapes are derived and must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bfpsim.objects import immutable
from bfpsim.workloads.layer import ConvLayer, Shape, WorkloadError, check_name
from bfpsim.workloads.node import Node, node_shape


@immutable
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
        check_name("network", self.name)
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise WorkloadError(f"network {self.name!r}: must have at least one node")
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = node_shape(self.name, node, shapes)
        object.__setattr__(self, "_shapes", shapes)

    def __repr__(self) -> str:
        return (
            f"<Network {self.name}: {len(self.nodes)} nodes, {len(self.layers)} layers, "
            f"{self.macs:,} multiply-accumulates>"
        )

    @property
    def layers(self) -> tuple[ConvLayer, ...]:
        """What runs on the PE array, in execution order."""
        return tuple(node.layer for node in self.nodes if node.layer is not None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers, for the whole batch."""
        repeats = self.repeats
        return sum(layer.macs * repeats[layer.name] for layer in self.layers)

    @property
    def repeats(self) -> Mapping[str, int]:
        """Layer name -> how often it runs, each time on other data."""
        return {node.name: node.repeats for node in self.nodes if node.layer is not None}

    @property
    def host_macs(self) -> int:
        """Multiply-accumulates of the host's nodes, which nothing here models."""
        return sum(node.host_macs for node in self.nodes)

    @property
    def producers(self) -> Mapping[str, tuple[Node, ...]]:
        """Node name -> the nodes that it reads, in the order of its inputs."""
        by_name = {node.name: node for node in self.nodes}
        return {node.name: tuple(by_name[name] for name in node.inputs) for node in self.nodes}

    @property
    def unique_layers(self) -> tuple[tuple[ConvLayer, int], ...]:
        """Layers that differ in more than name, each as (the first of its kind, how many runs)."""
        kinds: dict[ConvLayer, ConvLayer] = {}
        runs: dict[str, int] = {}
        repeats = self.repeats
        for layer in self.layers:
            first = kinds.setdefault(replace(layer, name="any"), layer)
            runs[first.name] = runs.get(first.name, 0) + repeats[layer.name]
        return tuple((first, runs[first.name]) for first in kinds.values())

    @property
    def batch(self) -> int:
        """How many samples one run takes: N of the first input, or 1 without one."""
        return next((n.input_shape[0] for n in self.nodes if n.input_shape is not None), 1)

    def shape(self, node: str) -> Shape:
        """Return the output shape (N, H, W, C) of the named node."""
        if node not in self._shapes:
            raise WorkloadError(f"network {self.name!r}: has no node {node!r}")
        return self._shapes[node]

    def check_layers(self) -> None:
        """Raise WorkloadError if nothing of the network runs on the PE array."""
        if self.layers:
            return
        functions = dict.fromkeys(str(node.function) for node in self.nodes if node.op == "host")
        only = f", only the host's {', '.join(functions)}" if functions else ""
        raise WorkloadError(f"{self.name} has no layer{only}; allowed: a network with at least one")

    def batched(self, n: int) -> Network:
        """Return this network with a batch of ``n``."""
        return replace(self, nodes=tuple(node.batched(n, self.batch) for node in self.nodes))
