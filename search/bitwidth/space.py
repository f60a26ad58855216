"""What the search chooses: a format for every stored tensor of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bfpsim.quant.formats import TENSORS, Format, LayerFormats
from bfpsim.quant.formats.ties import Effect, OperandKey, Operation, tied_operands
from bfpsim.workloads import ConvLayer, Network
from bfpsim.workloads.node import LAYER_OPS

Triple = tuple[int, int, int]
"""Of I, W and O: places in `Space.formats`, or in `Space.tensors`."""

_ENDS = frozenset(
    (
        "softmax", "log_softmax", "layer_norm", "group_norm", "rms_norm", "instance_norm",
        "batch_norm",
    )
)  # fmt: skip
"""Host functions that need a whole tensor first, and store another one (`quant.formats.ties`)."""


@dataclass(frozen=True, slots=True)
class Product:
    """A layer in the search.

    kind: the place in `Space.kinds` of the layer that it is equal to
    tensors: which stored tensors its I, W and O are
    repeats: how often it runs
    """

    name: str
    kind: int
    tensors: Triple
    repeats: int

    def places(self, choice: Sequence[int]) -> Triple:
        """The formats of I, W and O in a choice, which has one for every stored tensor."""
        i, w, o = (choice[tensor] for tensor in self.tensors)
        return i, w, o


@dataclass(frozen=True)
class Space:
    """A network's stored tensors, its layers, and the formats to choose from.

    tensors: the operands (layer, "I" | "W" | "O") that each stored tensor is
    kinds: layers that differ in more than name
    """

    network: str
    formats: tuple[Format, ...]
    tensors: tuple[tuple[OperandKey, ...], ...]
    kinds: tuple[ConvLayer, ...]
    products: tuple[Product, ...]

    def formats_at(self, places: Triple) -> LayerFormats:
        """The formats in these places."""
        i, w, o = (self.formats[place] for place in places)
        return LayerFormats(i, w, o)

    def layer_formats(self, choice: Sequence[int]) -> dict[str, LayerFormats]:
        """Formats by layer, of a choice that has a place in `formats` for every stored tensor."""
        return {product.name: self.formats_at(product.places(choice)) for product in self.products}


def make_space(network: Network, formats: Sequence[Format], *, tied: bool = True) -> Space:
    """The space of a network.

    tied: an O is stored in its readers' I format, across residual adds and concatenations too
        (`quant.formats.ties`). Free choices, as the paper's, take every operand by itself: where
        they differ, a tensor is stored once more, which nothing here counts.
    """
    groups = tied_operands(_operations(network))
    if not tied:
        groups = tuple((place,) for group in groups for place in group)
    grouped = {place for group in groups for place in group}
    weights = (((layer.name, TENSORS[1]),) for layer in network.layers)
    tensors = (*groups, *(own for own in weights if own[0] not in grouped))
    number = {place: index for index, places in enumerate(tensors) for place in places}
    kinds: dict[ConvLayer, int] = {}
    first: list[ConvLayer] = []
    products = []
    for layer in network.layers:
        kind = kinds.setdefault(replace(layer, name="any"), len(kinds))
        if kind == len(first):
            first.append(layer)
        i, w, o = (number[layer.name, tensor] for tensor in TENSORS)
        products.append(Product(layer.name, kind, (i, w, o), network.repeats[layer.name]))
    return Space(network.name, tuple(formats), tensors, tuple(first), tuple(products))


def _operations(network: Network) -> list[Operation]:
    operations = []
    for node in network.nodes:
        effect: Effect = "pass"
        if node.op in LAYER_OPS:
            effect = "product"
        elif node.function in _ENDS:
            effect = "end"
        operations.append(Operation(node.name, node.inputs, effect))
    return operations
