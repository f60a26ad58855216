"""Which operands of a network are one stored tensor, and so have one format.

A layer's output is what its readers take in. ReLU, pooling, adds, concatenations, products of maps
and what only moves elements happen on the way: the output keeps the format of all tensors that
enter them, and that of the inputs that it reaches. A function that needs the whole tensor first
(softmax, a normalisation, a mean of it subtracted) ends a tie: the host reads a stored tensor and
writes another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bfpsim.quant.formats.format import TensorName

OperandKey = tuple[str, TensorName]
"""Names an operand: the product (layer), and which of its tensors."""
Effect = Literal["product", "pass", "end"]
"""What an operation does to a tie.

A ``product`` reads I and, if it has two inputs, W from activations; ``pass`` ties what it reads
with what it gives; ``end`` gives a tensor of its own.
"""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a network: its name, the operations that it reads, and its effect on ties."""

    name: str
    reads: tuple[str, ...]
    effect: Effect


def tied_operands(operations: Iterable[Operation]) -> tuple[tuple[OperandKey, ...], ...]:
    """Return the groups of operands that share a format, each in execution order.

    ``operations`` stand in execution order. A stored W is in no group. Readers of one tensor share
    its format, whoever made it.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    sources: list[tuple[OperandKey, str]] = []
    for operation in operations:
        name = operation.name
        parent[name] = name
        if operation.effect == "pass":
            for source in operation.reads:
                parent[root(source)] = root(name)
        elif operation.effect == "product":
            inputs: tuple[TensorName, ...] = ("I", "W")
            sources += [
                ((name, tensor), source)
                for tensor, source in zip(inputs, operation.reads, strict=False)
            ]
            sources.append(((name, "O"), name))
    groups: dict[str, list[OperandKey]] = {}
    for operand, source in sources:
        groups.setdefault(root(source), []).append(operand)
    return tuple(tuple(group) for group in groups.values())
