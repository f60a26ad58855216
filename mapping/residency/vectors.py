"""Operations of the vector unit: every tiling priced, with some of the operands on chip."""

from __future__ import annotations

from collections.abc import Mapping as ByName
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.closed.vector import vector_traffic
from bfpsim.mapping.nest import Tensor
from bfpsim.mapping.residency.cut import Cut, Residence
from bfpsim.mapping.residency.products import named, room_taken
from bfpsim.mapping.residency.ranking import Part, Ranking
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.steps.vector import vector_tiles
from bfpsim.mapping.vector import VectorTiling, plan_of, vector_tilings
from bfpsim.quant.formats import Format
from bfpsim.workloads.program import Operation, View


class VectorWork(NamedTuple):
    """A vector operation without names: all that decides its costs.

    operation: whose activations are numbered in the order in which it names them
    formats: of these
    """

    operation: Operation
    formats: tuple[tuple[str, Format], ...]

    @classmethod
    def of(cls, operation: Operation, stored: ByName[str, Format]) -> VectorWork:
        """What an operation has in common with equal ones.

        stored: format by activation
        """
        views = (*operation.reads, *operation.addends, operation.writes)
        numbers = {
            name: str(n) for n, name in enumerate(dict.fromkeys(v.activation for v in views))
        }

        def numbered(view: View) -> View:
            return view._replace(activation=numbers[view.activation], first=0)

        nodes = tuple(
            replace(node, name="any", inputs=("any",) * len(node.inputs), unverified="")
            for node in operation.nodes
        )
        own = replace(
            operation,
            name="any",
            nodes=nodes,
            reads=tuple(map(numbered, operation.reads)),
            addends=tuple(map(numbered, operation.addends)),
            writes=numbered(operation.writes),
        )
        return cls(own, tuple((number, stored[name]) for name, number in numbers.items()))


class VectorCuts:
    """All tilings of a vector operation that may fit.

    limit: the room that there is at most [bit]
    """

    def __init__(self, work: VectorWork, arch: Arch, limit: int) -> None:
        self._operation, self._formats = work.operation, dict(work.formats)
        self._arch, self._limit = arch, limit
        plan = plan_of(self._operation)
        self._views = [own.view for own in plan.reads]
        self._ranked: dict[Residence, Ranking] = {}
        self._stairs: dict[Residence, Stairs] = {}

    def stairs(self, residence: Residence) -> Stairs:
        """The least payload off chip over room [bit]."""
        if residence not in self._stairs:
            rooms, bits = self._points(residence)
            fits = rooms <= self._limit
            self._stairs[residence] = Stairs.of(rooms[fits], bits[fits])
        return self._stairs[residence]

    def cost(self, residence: Residence, room: int) -> float:
        """The least traffic off chip, bursts included, in so much room; infinite if nothing fits.

        [bit]
        """
        return self._ranking(residence).least(room, 1)[0]

    def best(self, residence: Residence, room: int) -> Cut | None:
        """The largest of the tiles of that cost; None if nothing fits."""
        bits, choice = self._ranking(residence).least(room, 1)
        if not len(choice):
            return None
        place = int(choice[0])
        return Cut(self._tilings[place], int(bits), named(self._slots(residence, place)))

    @cached_property
    def _tilings(self) -> tuple[VectorTiling, ...]:
        return vector_tilings(self._operation, self._formats)

    @cached_property
    def _traffic(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """By tiling: the room and the payload of each distinct operand and of the results [bit]."""
        found = []
        for tiling in self._tilings:
            moved = vector_traffic(self._operation, tiling, self._arch, self._formats)
            found.append((tuple(own.room for own in moved), tuple(own.bits for own in moved)))
        return found

    def _points(self, residence: Residence) -> tuple[Vector, Vector]:
        on_chip = self._on_chip(residence)
        rooms, payloads = [], []
        for place, (_, bits) in enumerate(self._traffic):
            rooms.append(int(room_taken(self._slots(residence, place), self._arch)))
            payloads.append(
                sum(b for b, resident in zip(bits, on_chip, strict=True) if not resident)
            )
        return np.array(rooms, np.int64), np.array(payloads, np.int64)

    def _on_chip(self, residence: Residence) -> tuple[bool, ...]:
        """Whether each distinct operand is resident, and the results."""
        views = (*self._operation.reads, *self._operation.addends)
        resident = dict(zip(views, (*residence.reads, *residence.addends), strict=True))
        return (*(resident[view] for view in self._views), residence.writes)

    def _slots(self, residence: Residence, place: int) -> list[tuple[Tensor, int, int]]:
        """As `Product.slots`: operands in the buffer of I, results in that of O."""
        slots: list[tuple[Tensor, int, int]] = []
        on_chip = self._on_chip(residence)
        for operand, (bits, resident) in enumerate(
            zip(self._traffic[place][0], on_chip, strict=True)
        ):
            tensor: Tensor = "O" if operand == len(self._views) else "I"
            if not resident:
                double = self._arch.buffer(tensor).double_buffered
                slots.append((tensor, operand, bits * (2 if double else 1)))
        return slots

    def _ranking(self, residence: Residence) -> Ranking:
        if residence not in self._ranked:
            rooms, payloads = self._points(residence)
            largest_first = np.arange(len(rooms))
            parts = []
            if self._arch.dram.burst > 1:
                on_chip = self._on_chip(residence)
                parts.append(Part(largest_first, 1, lambda place: self._padding(place, on_chip)))
            self._ranked[residence] = Ranking(payloads, rooms, parts)
        return self._ranked[residence]

    def _padding(self, place: int, on_chip: tuple[bool, ...]) -> int:
        """Burst padding of all that goes off chip [bit]."""
        tiles = vector_tiles(self._operation, self._tilings[place], self._arch, self._formats)
        total = 0
        streams = (*(own.stays for own in tiles.operands), tiles.results.stays)
        for stays, resident in zip(streams, on_chip, strict=True):
            if not resident:
                times = np.bincount(stays.kinds, minlength=len(stays.prices)).tolist()
                total += sum(
                    (stay.arrives.burst + stay.leaves.burst) * many
                    for stay, many in zip(stays.prices, times, strict=True)
                )
        return total
