"""How many bits a cycle the array asks of memories whose ports have no limit."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from bfpsim.mapping.array import STATIONARY
from bfpsim.mapping.counts import Counts, Direction
from bfpsim.mapping.nest import RELEVANT, Tensor

if TYPE_CHECKING:
    from bfpsim.arch import Arch, Level, PEArray


class Demand(NamedTuple):
    """What passes one direction of a memory in each cycle that the array is busy [bit/cycle].

    memory: its name; width: its bits per access
    average: over all layers; most: of the layer that asks the most, and its name. Transfers of a
        DMA engine with a port of its own are left out.
    """

    memory: str
    direction: Direction
    width: int
    average: float
    most: float
    layer: str

    @property
    def exceeds(self) -> bool:
        """Whether some layer asks for more than the width."""
        return self.most > self.width


class Passed(NamedTuple):
    """A layer that ran: its name, the bits that it moved, and cycles that the array was busy."""

    layer: str
    counts: Counts
    busy: int


def demands(arch: Arch, layers: Sequence[Passed]) -> list[Demand]:
    """The demand in every direction that has no limit, of memories that have a width.

    layers: that ran on the architecture; outer memories come first
    """
    found = []
    for level in arch.levels[1:]:
        if level is arch.registers:  # every PE has its own
            continue
        for memory in dict.fromkeys(level.memories.values()):
            tensors = [tensor for tensor, name in level.memories.items() if name == memory]
            buffer = level.buffers[tensors[0]]
            limits: dict[Direction, int | None] = {
                "read": buffer.ports.read,
                "write": buffer.ports.write,
            }
            for direction, limit in limits.items():
                if buffer.width is None or limit is not None:
                    continue
                bits = [_passing(one.counts, arch, level, tensors, direction) for one in layers]
                each = [own / one.busy for own, one in zip(bits, layers, strict=True)]
                worst = each.index(max(each))
                average = sum(bits) / sum(one.busy for one in layers)
                found.append(
                    Demand(
                        *(memory, direction, buffer.width, average),
                        *(each[worst], layers[worst].layer),
                    )
                )
    return found


def full_array(arch: Arch) -> list[Demand]:
    """The demand of a cycle in which every lane multiplies, whatever the layer.

    What is stationary is not in it, which is read once a load, nor are exponents.
    """
    array, counts = arch.pe_array, Counts()
    operands: tuple[Tensor, ...] = ("I", "W")
    for tensor in operands:
        if STATIONARY[array.stationary] != tensor:
            bits = _lanes(array, RELEVANT[tensor]) * array.mac_bits
            counts.add(arch.holder(tensor).name, tensor, "read", "mantissa", bits)
    if STATIONARY[array.stationary] != "O":
        sums = _lanes(array, RELEVANT["O"]) * array.accumulator_bits
        counts.add(arch.holder("O").name, "O", "read", "psum", sums)
        counts.add(arch.holder("O").name, "O", "write", "psum", sums)
    return demands(arch, [Passed("all lanes", counts, 1)])


def _lanes(array: PEArray, dims: str) -> int:
    """Lanes along the axes of some dimensions; an axis that others fill up is full of its own."""
    return prod(axis.size for axis in array.axes if axis.dim[0] in dims)


def _passing(
    counts: Counts, arch: Arch, level: Level, tensors: Sequence[Tensor], direction: Direction
) -> int:
    """Bits that pass a memory in one direction through the ports that the array uses."""
    bits = sum(counts.total(level.name, tensor, direction) for tensor in tensors)
    if level is arch.levels[1] and arch.dma.port == "own":
        outer = arch.levels[0].name
        opposite: Direction = "read" if direction == "write" else "write"
        for tensor in tensors:  # bursts are padded outside alone
            transfers = counts.total(outer, tensor, opposite)
            bits -= transfers - counts.total(outer, tensor, opposite, "burst")
    return int(bits)
