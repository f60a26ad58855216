"""A network as a program: which operations run one after another, and what each reads and writes.

What a vector unit can do on an output tile as it drains is one operation with the product before
it. What only names parts of a stored tensor, or all of it in another shape, is no operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import prod
from typing import Literal, NamedTuple

from bfpsim.objects import immutable
from bfpsim.workloads.layer import ConvLayer, Shape
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node
from bfpsim.workloads.vector import operations_of, vector_function

Unit = Literal["array", "vector", "host"]
Origin = Literal["operation", "input", "constant"]


class Activation(NamedTuple):
    """A tensor (N, H, W, channels) between operations, as it is stored, once.

    What one product of activations makes for another lies head by head, each a sample of its own,
    where several heads side by side would share blocks.

    name: of the node that makes it; of parts that lie in one tensor, the node that joins them
    origin: "constant" for what is no weight of a product, but added to activations
    """

    name: str
    shape: Shape
    origin: Origin = "operation"

    @property
    def elements(self) -> int:
        """How many it has."""
        return prod(self.shape)


class View(NamedTuple):
    """Channels of an activation as an operation reads or writes them, under a shape of its own.

    shape: (N, H, W, channels), as many pixels in the same order
    first: the first of the channels
    """

    activation: str
    shape: Shape
    first: int = 0

    @property
    def elements(self) -> int:
        """How many it has."""
        return prod(self.shape)


@immutable
@dataclass(frozen=True, slots=True)
class Operation:
    """What runs as one: a product or another node, and all that is done with its output at once.

    name: of its first node
    nodes: the first, then the element-wise ones fused into it, in their order, then a global mean
    reads: the operands of the first node; of a product I, and W if that is an activation
    addends: what the fused ones read besides, as large as the first node's output
    writes: the output
    mean: whether what is written is the mean over the map, and nothing else reads the map
    whole_channels: whether an output tile must have all channels, for a softmax or a normalisation
        that is fused
    """

    name: str
    unit: Unit
    nodes: tuple[Node, ...]
    reads: tuple[View, ...]
    addends: tuple[View, ...]
    writes: View
    mean: bool = False
    whole_channels: bool = False

    @property
    def layer(self) -> ConvLayer | None:
        """The product, of the first node."""
        return self.nodes[0].layer

    @property
    def repeats(self) -> int:
        """How often the product runs, each time on other data."""
        return self.nodes[0].repeats


@immutable
@dataclass(frozen=True)
class Program:
    """A network's operations in the order they run, and the activations between them.

    outputs: the activations that the network hands on, which always leave the chip
    vector_work: operation -> what a vector unit's lanes do for it, bias and requantisation included
    """

    network: Network
    operations: tuple[Operation, ...]
    activations: Mapping[str, Activation]
    outputs: frozenset[str]
    vector_work: Mapping[str, int]

    @cached_property
    def writers(self) -> Mapping[str, tuple[int, ...]]:
        """The places of the operations that write each activation; none of an input's."""
        places: dict[str, list[int]] = {name: [] for name in self.activations}
        for place, operation in enumerate(self.operations):
            places[operation.writes.activation].append(place)
        return {name: tuple(own) for name, own in places.items()}

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """The places of the operations that read each activation, ascending."""
        places: dict[str, list[int]] = {name: [] for name in self.activations}
        for place, operation in enumerate(self.operations):
            for name in dict.fromkeys(v.activation for v in operation.reads + operation.addends):
                places[name].append(place)
        return {name: tuple(own) for name, own in places.items()}

    def on_chip(self, name: str) -> bool:
        """Whether an activation may stay on chip: made and read by array and vector unit alone."""
        return (
            self.activations[name].origin == "operation"
            and name not in self.outputs
            and bool(self.readers[name])
            and all(
                self.operations[place].unit != "host"
                for place in self.writers[name] + self.readers[name]
            )
        )

    def lifetime(self, name: str) -> tuple[int, int]:
        """The places of an activation's first writer and last reader."""
        return self.writers[name][0], max(self.readers[name], default=self.writers[name][-1])


def program_of(network: Network, *, vector: bool = True, block: int = 1) -> Program:
    """The program of a network.

    vector: whether there is a vector unit. Without, what is no product is the host's, but for what
        works on single elements and has no operand besides: that is free, and stays with the
        product before it
    block: parts of a joined tensor begin on multiples of so many channels, or they are copied
    """
    return _Drafting(network, vector, block).program()


class _Place(NamedTuple):
    """Where a node's output lies: channels of another's, from the first on."""

    root: str
    first: int


class _Drafting:
    """A program being written: nodes are grouped, then laid into activations."""

    def __init__(self, network: Network, vector: bool, block: int) -> None:
        self._network, self._vector, self._block = network, vector, block
        self._index = {node.name: index for index, node in enumerate(network.nodes)}
        self._readers: dict[str, list[str]] = {node.name: [] for node in network.nodes}
        for node in network.nodes:
            for source in dict.fromkeys(node.inputs):
                self._readers[source].append(node.name)
        self._by_name = {node.name: node for node in network.nodes}
        self._places: dict[str, _Place] = {}
        self._names = self._find_names()
        self._owner: dict[str, str] = {}

    def program(self) -> Program:
        groups: list[tuple[Node, ...]] = []
        for node in self._network.nodes:
            if node.name in self._owner or node.op == "input" or node.name in self._names:
                continue
            if node.function == "parameter" and not node.inputs:
                continue
            group = self._group(node)
            self._owner.update((own.name, node.name) for own in group)
            groups.append(group)
        activations: dict[str, Activation] = {}
        operations = tuple(self._operation(group, activations) for group in groups)
        used = {
            view.activation for own in operations for view in (*own.reads, *own.addends, own.writes)
        }
        kept = {name: own for name, own in activations.items() if name in used}
        outputs = frozenset(
            self._place(node.name).root
            for node in self._network.nodes
            if not self._readers[node.name] and self._place(node.name).root in kept
        )
        work = {own.name: self._work(own) for own in operations}
        return Program(self._network, operations, kept, outputs, work)

    # --- groups ----------------------------------------------------------------------------------

    def _group(self, core: Node) -> tuple[Node, ...]:
        """A node and what is fused into it."""
        if self._unit(core) == "host":
            return (core,)
        group, inside, best = [core], {core.name}, 1
        ahead = [self._index[name] for name in self._readers[core.name]]
        heapify(ahead)
        while ahead:
            node = self._network.nodes[heappop(ahead)]
            if node.name in inside or not self._fusible(node, core, inside):
                continue
            group.append(node)
            inside.add(node.name)
            for name in self._readers[node.name]:
                heappush(ahead, self._index[name])
            if self._one_output(group):
                best = len(group)
        group = group[:best]
        mean = self._mean_of(group)
        return (*group, mean) if mean is not None else tuple(group)

    def _fusible(self, node: Node, core: Node, inside: set[str]) -> bool:
        """Whether a node can be done on a tile of the core's output as it drains."""
        function = vector_function(node)
        if node.layer is not None or function is None:
            return False
        if node.name in self._owner or node.name in self._names:
            return False
        shape = self._network.shape(node.name)
        if shape != self._network.shape(core.name):
            return False
        others = [source for source in node.inputs if source not in inside]
        if not self._vector:
            return function.reach == "element" and not others and node.op != "add"
        if function.reach == "channels":
            if core.layer is not None and core.layer.G > 1:
                return False
        elif function.reach != "element":
            return False
        return all(
            self._network.shape(source) == shape and self._before(source, core) for source in others
        )

    def _before(self, source: str, core: Node) -> bool:
        """Whether all that makes up a source has run before an operation begins."""
        if source in self._names:
            return all(self._before(own, core) for own in self._by_name[source].inputs)
        owner = self._owner.get(source, source)
        return self._index[owner] < self._index[core.name]

    def _one_output(self, group: Sequence[Node]) -> bool:
        """Whether only the last node of a group is read outside."""
        names = {node.name for node in group}
        return all(
            self._readers[node.name] and names.issuperset(self._readers[node.name])
            for node in group[:-1]
        )

    def _mean_of(self, group: Sequence[Node]) -> Node | None:
        """The global mean that alone reads a group's output, and can be summed up as it drains."""
        if not self._vector or self._unit(group[0]) != "array" or group[0].op == "matmul":
            return None
        readers = self._readers[group[-1].name]
        only = self._by_name[readers[0]] if len(readers) == 1 else None
        return only if only is not None and only.op == "avgpool" else None

    def _unit(self, node: Node) -> Unit:
        if node.layer is not None:
            return "array"
        known = bool(node.inputs) and vector_function(node) is not None
        return "vector" if self._vector and known else "host"

    # --- views -----------------------------------------------------------------------------------

    def _find_names(self) -> set[str]:
        """The nodes that only name what is stored, and where it lies."""
        names: set[str] = set()
        for node in self._network.nodes:
            if node.op == "concat":
                if self._join(node):
                    names.add(node.name)
            elif node.op == "host" and len(node.inputs) == 1:
                first = self._first_channel(node)
                if first is not None:
                    self._places[node.name] = _Place(node.inputs[0], first)
                    names.add(node.name)
        return names

    def _first_channel(self, node: Node) -> int | None:
        """The first channel of its operand that a node names; None if it moves elements."""
        source, own = self._network.shape(node.inputs[0]), self._network.shape(node.name)
        if node.function == "split" and source[:3] == own[:3]:
            same = [other for other in self._network.nodes if other.inputs == node.inputs]
            parts = [other for other in same if other.function == "split"]
            widths = [self._network.shape(part.name)[3] for part in parts]
            first = sum(widths[: [part.name for part in parts].index(node.name)])
            fits = sum(widths) == source[3] and first % self._block == 0
            return first if fits else None
        named = node.function in ("tokens", "reshape", "flatten", "identity", "view", "dropout")
        alike = (source[0], source[1] * source[2], source[3]) == (own[0], own[1] * own[2], own[3])
        return 0 if named and alike else None

    def _join(self, node: Node) -> bool:
        """Lay the operands of a concatenation into its output, if that can be done."""
        parts: list[tuple[str, int, int]] = []  # root, its first channel, channels
        for source in node.inputs:
            root, first = self._place(source)
            width = self._network.shape(source)[3]
            if parts and parts[-1][0] == root and parts[-1][1] + parts[-1][2] == first:
                parts[-1] = (root, parts[-1][1], parts[-1][2] + width)
            else:
                parts.append((root, first, width))
        roots = [root for root, _, _ in parts]
        offset = 0
        for root, first, width in parts:
            made = self._by_name[root].op != "input" and self._by_name[root].inputs
            whole = first == 0 and width == self._network.shape(root)[3]
            host = self._unit(self._by_name[root]) == "host"
            joined = self._by_name[root].op == "concat" and root == node.name
            if not made or not whole or host or joined or offset % self._block:
                return False
            offset += width
        if len(set(roots)) < len(roots):
            return False
        offset = 0
        for root, _, width in parts:
            self._places[root] = _Place(node.name, offset)
            offset += width
        return True

    def _place(self, name: str) -> _Place:
        """Where a node's output lies in the end."""
        first = 0
        while name in self._places:
            name, offset = self._places[name]
            first += offset
        return _Place(name, first)

    # --- operations ------------------------------------------------------------------------------

    def _operation(self, group: tuple[Node, ...], activations: dict[str, Activation]) -> Operation:
        core, inside = group[0], {node.name for node in group}
        mean = len(group) > 1 and group[-1].op == "avgpool"
        fused = group[1:-1] if mean else group[1:]
        reads = tuple(self._view(source, activations) for source in core.inputs)
        addends = [
            self._view(source, activations)
            for node in fused
            for source in node.inputs
            if source not in inside
        ]
        for node in group:
            if node.function == "add_parameter":
                name, shape = f"{node.name}.parameter", self._network.shape(node.name)
                activations[name] = Activation(name, shape, "constant")
                view = View(name, shape)
                reads, addends = (
                    ((*reads, view), addends) if node is core else (reads, [*addends, view])
                )
        functions = [vector_function(node) for node in fused]
        return Operation(
            core.name,
            self._unit(core),
            group,
            reads,
            tuple(addends),
            self._view(group[-1].name, activations),
            mean,
            any(own is not None and own.reach == "channels" for own in functions),
        )

    def _view(self, name: str, activations: dict[str, Activation]) -> View:
        root, first = self._place(name)
        if root not in activations:
            node = self._by_name[root]
            origin: Origin = "operation"
            if node.op == "input":
                origin = "input"
            elif node.function == "parameter" and not node.inputs:
                origin = "constant"
            activations[root] = Activation(root, self._shape(root), origin)
        return View(root, self._shape(name), first)

    def _shape(self, name: str) -> Shape:
        """The shape of a node's output as it is stored."""
        product = self._product(name)
        if product is None or product.layer is None or not self._by_head(name, product):
            return self._network.shape(name)
        return product.repeats, product.layer.P, product.layer.Q, product.layer.K

    def _product(self, name: str) -> Node | None:
        """The product of activations whose output, function by function, this is."""
        node = self._by_name[name]
        while node.op == "host" and len(node.inputs) == 1:
            function = vector_function(node)
            if function is None or function.reach not in ("element", "channels"):
                return None
            node = self._by_name[node.inputs[0]]
        return node if node.op == "matmul" else None

    def _by_head(self, name: str, product: Node) -> bool:
        """Whether heads are read one by one alone, and would share blocks side by side."""
        readers = [self._by_name[own] for own in self._readers[name]]
        if product.layer is None or product.layer.K % self._block == 0 or not readers:
            return False
        return all(
            reader.inputs.index(name) == 0 and reader.repeats == product.repeats
            if reader.op == "matmul"
            else self._product(reader.name) is product and self._by_head(reader.name, product)
            for reader in readers
        )

    def _work(self, operation: Operation) -> int:
        """What the lanes of a vector unit do: bias, each function, and requantisation."""
        if not self._vector or operation.unit == "host":
            return 0
        core = operation.nodes[0]
        output = prod(self._network.shape(core.name))
        work = output  # requantisation
        if core.layer is not None:
            work += 0 if core.op == "matmul" else output  # bias
        for node in operation.nodes[1 if core.layer is not None else 0 :]:
            inputs = [self._network.shape(source) for source in node.inputs]
            if node.function == "add_parameter":
                inputs.append(inputs[0])
            work += operations_of(node, inputs, self._network.shape(node.name))
        return work
