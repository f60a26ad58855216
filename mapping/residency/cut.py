"""How an operation is cut into tiles while some of its operands stay on chip; what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from bfpsim.mapping.nest import Mapping, Tensor
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.vector import VectorTiling
from bfpsim.objects import immutable


@dataclass(frozen=True, slots=True)
class Residence:
    """Which operands of an operation are resident, by their order in it.

    reads: of `Operation.reads`; addends: of `Operation.addends`; writes: its output
    """

    reads: tuple[bool, ...]
    addends: tuple[bool, ...]
    writes: bool

    @property
    def weights(self) -> bool:
        """Whether what stands where a product's weights do is resident."""
        return len(self.reads) > 1 and self.reads[1]


class Slot(NamedTuple):
    """A tensor's room while an operation runs.

    tensor: V of what the vector unit reads
    operand: which of these: the place of a product's addend, or of a vector operation's distinct
        reads and addends
    bits: of the largest tile, twice if the tensor's buffer is double-buffered
    buffer: the tensor whose buffer it is in
    """

    tensor: Literal["I", "W", "O", "V"]
    operand: int
    bits: int
    buffer: Tensor


@immutable
@dataclass(frozen=True, slots=True)
class Cut:
    """Tiles of an operation and what they cost.

    tiles: a mapping of a product, a tiling of a vector operation
    dram_bits: that it moves off chip, bursts included
    slots: what it takes of the buffers
    """

    tiles: Mapping | VectorTiling
    dram_bits: int
    slots: tuple[Slot, ...]


class Cuts(Protocol):
    """All ways to cut an operation.

    Room is that of the buffer in which activations stay, free of them; the other buffers of a split
    memory are the operation's alone.
    """

    def stairs(self, residence: Residence) -> Stairs:
        """The least payload off chip over room [bit]: what no cut is below, bursts included."""

    def cost(self, residence: Residence, room: int) -> float:
        """The least traffic off chip, bursts included, in so much room; infinite if nothing fits.

        [bit]
        """

    def best(self, residence: Residence, room: int) -> Cut | None:
        """The best cut of that cost; None if nothing fits."""
