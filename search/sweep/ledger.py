"""What of a sweep is done and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import Outcome
from bfpsim.search.sweep.point import Point

POINTS = "point"
"""The kind under which a store keeps points."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is.

    total, done, failed: distinct points, those of earlier runs included; failed ones are done
    stopping: whether only what the workers have begun is still waited for
    best: the least costly point of this run on the network of its latest one, and that cost: DRAM
        bits, pJ or cycles, by its objective
    """

    total: int
    done: int
    failed: int
    stopping: bool
    best: tuple[Point, float] | None


class Ledger:
    """A sweep's distinct points, beside the store that keeps their outcomes.

    missing: points to evaluate, by key
    retry: whether those that failed are missing
    """

    def __init__(
        self,
        points: Sequence[Point],
        store: Store,
        retry: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._store, self._retry, self._progress = store, retry, progress
        self.missing = {point.key: point for point in points}
        self.total = len(self.missing)
        self._failed: set[str] = set()
        self._best: dict[str, tuple[Point, float]] = {}
        self._network = ""
        for key, succeeded in store.keys(POINTS).items():
            if key in self.missing and (succeeded or not retry):
                self._tick_off(key, succeeded)

    @property
    def done(self) -> int:
        """Points that are not missing."""
        return self.total - len(self.missing)

    def wants(self, point: Point) -> bool:
        """Whether a point is still missing; another process may have come first."""
        entry = self._store.get(POINTS, point.key)
        if entry is not None and (entry.error is None or not self._retry):
            self._tick_off(point.key, entry.error is None)
        return point.key in self.missing

    def keep(self, point: Point, outcome: Outcome) -> None:
        """Put an outcome into the store."""
        if outcome.record is None:
            self._store.put_error(POINTS, point.key, outcome.error or "")
        else:
            self._store.put(POINTS, point.key, outcome.record)
        self._tick_off(point.key, outcome.record is not None)
        self._network = point.network.name
        known = self._best.get(self._network)
        if outcome.record is not None and (known is None or outcome.cost < known[1]):
            self._best[self._network] = point, outcome.cost

    def report(self, stopping: bool) -> None:
        """Tell whoever wants to know how far the sweep is."""
        if self._progress is not None:
            best = self._best.get(self._network)
            self._progress(Progress(self.total, self.done, len(self._failed), stopping, best))

    def _tick_off(self, key: str, succeeded: bool) -> None:
        del self.missing[key]
        if not succeeded:
            self._failed.add(key)
