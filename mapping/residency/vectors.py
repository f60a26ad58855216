"""Operations of the vector unit with some of their operands on chip."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bfpsim.arch import Arch
from bfpsim.mapping.nest import Tensor
from bfpsim.mapping.residency.cut import Cut, Residence, Slot, VectorTiling
from bfpsim.mapping.residency.products import room_taken
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.objects import immutable
from bfpsim.quant.formats import ActivationLayout, Format
from bfpsim.workloads.layer import Shape
from bfpsim.workloads.node import Pool


@immutable
@dataclass(frozen=True, slots=True)
class VectorWork:
    """A vector operation: all that decides its costs.

    operands: shape and format of its reads, then of its addends
    writes: shape and format; pool: its window; readings: how often it goes through its reads
    """

    operands: tuple[tuple[Shape, Format], ...]
    writes: tuple[Shape, Format]
    pool: Pool | None = None
    readings: int = 1


class VectorCuts:
    """The tiles of a vector operation: a row of the output with the rows that it needs, or a pixel.

    limit: the room that there is at most [bit]
    """

    def __init__(self, work: VectorWork, arch: Arch, limit: int) -> None:
        self._work, self._arch, self._limit = work, arch, limit

    def stairs(self, residence: Residence) -> Stairs:
        """What is read and written off chip, from the room that the least tile takes on."""
        needs = [self._room(self._slots(residence, whole)) for whole in (True, False)]
        if min(needs) > self._limit:
            return Stairs((), ())
        bits = 0 if residence.writes else self._moved(*self._work.writes)
        on_chip = (*residence.reads, *residence.addends)
        for place, (operand, resident) in enumerate(zip(self._work.operands, on_chip, strict=True)):
            if not resident:
                readings = self._work.readings if place < len(residence.reads) else 1
                bits += self._moved(*operand) * readings
        return Stairs((min(needs),), (bits,))

    def cost(self, residence: Residence, room: int) -> float:
        """The same, in so much room."""
        return self.stairs(residence).at(room)

    def best(self, residence: Residence, room: int) -> Cut | None:
        """The largest of the tiles that fit."""
        bits = self.stairs(residence).at(room)
        if math.isinf(bits):
            return None
        _, _, columns, channels = self._work.writes[0]
        whole = self._room(self._slots(residence, whole=True)) <= room
        tiling = VectorTiling(1, columns if whole else 1, channels)
        return Cut(tiling, int(bits), self._slots(residence, whole))

    def _moved(self, shape: Shape, fmt: Format) -> int:
        burst = self._arch.dram.burst
        return -(-ActivationLayout(shape, fmt).bits // burst) * burst

    def _room(self, slots: tuple[Slot, ...]) -> int:
        output = len(self._work.operands)
        named: list[tuple[Tensor, int, int]] = [
            ("O" if own.operand == output else "I", own.operand, own.bits) for own in slots
        ]
        return int(room_taken(named, self._arch))

    def _slots(self, residence: Residence, whole: bool) -> tuple[Slot, ...]:
        """Of tiles of whole rows, or of single columns."""
        resident = (*residence.reads, *residence.addends, residence.writes)
        tensors = (*self._work.operands, self._work.writes)
        slots = []
        for place, ((shape, fmt), on_chip) in enumerate(zip(tensors, resident, strict=True)):
            if on_chip:
                continue
            rows = columns = 1
            if self._work.pool is not None and place < len(residence.reads):
                rows, columns = self._work.pool.kernel
            columns = shape[2] if whole else min(columns, shape[2])
            tile = (1, min(rows, shape[1]), columns, shape[3])
            buffer = self._arch.buffer("O" if place == len(self._work.operands) else "I")
            copies = 2 if buffer.double_buffered else 1
            slots.append(Slot("V", place, ActivationLayout(tile, fmt).bits * copies))
        return tuple(slots)
