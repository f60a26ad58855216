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

Tensor = Literal["I", "W", "O"]
Place = tuple[str, Tensor]
"""Product (layer) and tensor: where an operand is."""
Role = Literal["product", "pass", "end"]


@dataclass(frozen=True, slots=True)
class Step:
    """A node of the graph: its name, the nodes that it reads, and what it does to a tie.

    A ``product`` reads I and, if it has two inputs, W from activations; ``pass`` ties what it reads
    with what it gives; ``end`` gives a tensor of its own.
    """

    name: str
    reads: tuple[str, ...]
    role: Role


def tied_groups(steps: Iterable[Step]) -> tuple[tuple[Place, ...], ...]:
    """Return the groups of operands that share a format, each in execution order.

    ``steps`` stand in execution order. A stored W is in no group. Readers of one tensor share its
    format, whoever made it.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    tensors: list[tuple[Place, str]] = []
    for step in steps:
        parent[step.name] = step.name
        if step.role == "pass":
            for source in step.reads:
                parent[root(source)] = root(step.name)
        elif step.role == "product":
            operands: tuple[Literal["I", "W"], ...] = ("I", "W")
            for tensor, source in zip(operands, step.reads, strict=False):
                tensors.append(((step.name, tensor), source))
            tensors.append(((step.name, "O"), step.name))
    groups: dict[str, list[Place]] = {}
    for place, tensor_name in tensors:
        groups.setdefault(root(tensor_name), []).append(place)
    return tuple(tuple(group) for group in groups.values())
