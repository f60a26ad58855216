"""A cost that falls with room: a staircase."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bfpsim.objects import immutable


@immutable
@dataclass(frozen=True, slots=True)
class Stairs:
    """From each of `rooms` on, ascending, the cost is that of `costs`, falling."""

    rooms: tuple[int, ...]
    costs: tuple[int, ...]

    @classmethod
    def of(cls, rooms: NDArray[np.int64], costs: NDArray[np.int64]) -> Stairs:
        """The least of points: those that none of less or equal room and cost precedes."""
        if not rooms.size:
            return cls((), ())
        ascending = np.lexsort((costs, rooms))
        rooms, costs = rooms[ascending], costs[ascending]
        best = np.minimum.accumulate(costs)
        falls = np.r_[True, best[1:] < best[:-1]]
        return cls(tuple(rooms[falls].tolist()), tuple(best[falls].tolist()))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.rooms, self.costs, strict=True)

    def __len__(self) -> int:
        return len(self.rooms)

    def at(self, room: int) -> float:
        """The cost in so much room; infinite where that is too little."""
        place = bisect_right(self.rooms, room)
        return self.costs[place - 1] if place else math.inf

    def end(self, room: int) -> float:
        """The most room at which the cost is the same as in so much."""
        place = bisect_right(self.rooms, room)
        return self.rooms[place] - 1 if place < len(self.rooms) else math.inf

    def raised(self, room: int, cost: float) -> Stairs:
        """At least so high up to some room; nothing there if `cost` is infinite."""
        points = [(own, max(c, cost)) for own, c in self if own <= room]
        after = (room + 1, self.at(room))
        points += [after, *((own, c) for own, c in self if own > room)]
        return Stairs._least(points)

    @classmethod
    def _least(cls, points: Iterable[tuple[int, float]]) -> Stairs:
        kept: list[tuple[int, int]] = []
        for room, cost in points:
            if math.isfinite(cost) and (not kept or cost < kept[-1][1]):
                kept.append((room, int(cost)))
        return cls(tuple(own for own, _ in kept), tuple(cost for _, cost in kept))
