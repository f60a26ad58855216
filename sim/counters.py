"""What a run counts: named whole numbers that only grow."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

Moment = tuple[int, ...]
"""All counters at one time."""


class Counters:
    """A vector of counters by name.

    What a stretch of a run added is the difference of two moments, whatever is counted.
    """

    def __init__(self, names: Iterable[Hashable]) -> None:
        self._place = {name: place for place, name in enumerate(names)}
        self._values = [0] * len(self._place)

    def __getitem__(self, name: Hashable) -> int:
        return self._values[self._place[name]]

    def at(self, moment: Moment, name: Hashable) -> int:
        """A counter as it was at a moment."""
        return moment[self._place[name]]

    def add(self, name: Hashable, amount: int) -> None:
        """Count `amount` more."""
        self._values[self._place[name]] += amount

    def add_all(self, first: Hashable, amounts: Iterable[int]) -> None:
        """Count more of a counter and of those named behind it."""
        place = self._place[first]
        for amount in amounts:
            self._values[place] += amount
            place += 1

    def moment(self) -> Moment:
        """All counters as they are now."""
        return tuple(self._values)

    def repeat(self, before: Moment, now: Moment, times: int) -> None:
        """Count what was added between two moments `times` times more."""
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            self._values[place] += times * (new - old)
