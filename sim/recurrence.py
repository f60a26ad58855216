"""States that a machine has been in, and how long what followed one of them will repeat.

A run is a deterministic machine that takes tiles from a few streams. If it is in a state again,
and each stream goes on with tiles like those it took since, it does all of it once more.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Kinds = NDArray[np.int64]

_REMEMBERED = 1 << 14
_FIRST_CHUNK = 1 << 6


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run had come: per stream, the tiles done with, and those taken or looked at.

    cycle: when
    row, length: of its timeline
    totals: all that it had counted
    """

    done: tuple[int, ...]
    taken: tuple[int, ...]
    cycle: int
    row: int
    length: int
    totals: tuple[int, ...]


class Recurrence:
    """The states of a run so far; a bounded number, the latest moment of each.

    streams: the kind of every tile, per stream
    """

    def __init__(self, streams: tuple[Kinds, ...]) -> None:
        self._streams = streams
        self._moments: dict[Hashable, Moment] = {}

    def remember(self, state: Hashable, moment: Moment) -> None:
        """The machine is in this state now."""
        if len(self._moments) == _REMEMBERED:
            self._moments.clear()
        self._moments[state] = moment

    def before(self, state: Hashable) -> Moment | None:
        """When the machine was last in this state."""
        return self._moments.get(state)

    def repeats(self, before: Moment, now: Moment) -> int:
        """How often what the machine did from one moment to the other will repeat from now on."""
        most = None
        for kinds, was_done, done, taken in zip(
            self._streams, before.done, now.done, now.taken, strict=True
        ):
            period = done - was_done
            if period == 0:
                continue
            # The tiles that are resident must be alike, too.
            times = (alike(kinds, done, period) - (taken - done)) // period
            most = times if most is None else min(most, times)
            if most <= 0:
                return 0
        return most or 0


def alike(kinds: Kinds, start: int, period: int) -> int:
    """How many tiles from `start` on are each like the one `period` before."""
    chunk, at = _FIRST_CHUNK, start
    while at < len(kinds):
        end = min(at + chunk, len(kinds))
        other = kinds[at:end] != kinds[at - period : end - period]
        first = int(other.argmax())
        if other[first]:
            return at + first - start
        at, chunk = end, 2 * chunk
    return at - start
