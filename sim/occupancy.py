"""How many bits each buffer holds, and when: told from the slices of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import TENSORS, Tensor
from bfpsim.mapping.steps.price import Priced, Stay, streams_of
from bfpsim.mapping.steps.tiles import visits_of

if TYPE_CHECKING:
    from bfpsim.sim.result import LayerResult

Changes = list[tuple[int, int, Tensor]]
"""A heap of (cycle, bits more or less, tensor)."""


def occupancy(
    result: LayerResult, most: int | None = None
) -> Iterator[tuple[int, dict[Tensor, int]]]:
    """The cycles at which what is held changes, and the bits of each tensor held from then on.

    most: slices of the timeline to look at; stops where the others begin to matter
    """
    arch = result.arch
    nest = check(stored(result.layer, arch), arch, result.mapping, result.formats)
    stays = streams_of(nest, arch, result.formats).stays
    changes: Changes = []
    engines = {
        tensor: _Engine(tensor, stays[tensor], 1 + arch.buffer(tensor).double_buffered, changes)
        for tensor in TENSORS
    }
    inputs: tuple[Tensor, ...] = ("I", "W")
    last_steps = {tensor: set((visits_of(nest, tensor).ends - 1).tolist()) for tensor in inputs}
    held: dict[Tensor, int] = dict.fromkeys(TENSORS, 0)
    for piece in islice(result.timeline, most):
        if piece.unit == "dram" or piece.stream == "V" or piece.activity.startswith("wait"):
            continue  # a layer alone has no V
        # The others come in the order of their starts, and change nothing before.
        yield from _until(piece.start, changes, held)
        if piece.stream == "steps":
            for tensor, last in last_steps.items():
                if piece.tile in last:
                    engines[tensor].release(piece.end)
        elif piece.activity == "write":
            engines[piece.stream].release(piece.end)
        else:
            engines[piece.stream].deliver(piece.end)
    if most is None or most >= len(result.timeline):
        yield from _until(None, changes, held)


class _Engine:
    """A DMA engine: it reserves a tile when the one before is there and a slot is free.

    slots: tiles of the tensor that may be held at once
    changes: where reservations and releases go
    """

    def __init__(self, tensor: Tensor, stays: Priced[Stay], slots: int, changes: Changes) -> None:
        self._tensor = tensor
        self._stays = stays
        self._changes = changes
        self._free = deque([0] * slots)  # since when
        self._arrived = 0
        self._waiting = False
        self._reserved = 0
        self._released = 0
        self._reserve()

    def deliver(self, cycle: int) -> None:
        """The tile on its way is there."""
        self._arrived, self._waiting = cycle, False
        self._reserve()

    def release(self, cycle: int) -> None:
        """The oldest tile goes."""
        self._change(cycle, -self._stays[self._released].held)
        self._released += 1
        self._free.append(cycle)
        self._reserve()

    def _reserve(self) -> None:
        while self._free and not self._waiting and self._reserved < len(self._stays):
            stay = self._stays[self._reserved]
            self._arrived = max(self._arrived, self._free.popleft())
            self._change(self._arrived, stay.held)
            self._reserved += 1
            self._waiting = stay.arrives.payload > 0  # else it is there at once

    def _change(self, cycle: int, bits: int) -> None:
        heappush(self._changes, (cycle, bits, self._tensor))


def _until(
    end: int | None, changes: Changes, held: dict[Tensor, int]
) -> Iterator[tuple[int, dict[Tensor, int]]]:
    """What is held after each cycle before `end` that changes it."""
    while changes and (end is None or changes[0][0] < end):
        cycle, before = changes[0][0], dict(held)
        while changes and changes[0][0] == cycle:
            _, bits, tensor = heappop(changes)
            held[tensor] += bits
        if held != before:
            yield cycle, dict(held)
