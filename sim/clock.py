"""SimPy's environment, which also tells what it has yet to do."""

from __future__ import annotations

from collections.abc import Iterator

import simpy
from simpy.events import NORMAL, Event, EventPriority

_MOST = 16


class Clock(simpy.Environment):
    """An environment that keeps what is scheduled, in the order in which it will be processed."""

    def __init__(self) -> None:
        self._scheduled: list[tuple[float, EventPriority, int, Event]] = []
        self._number = 0
        super().__init__()

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Schedule an event, as SimPy does."""
        super().schedule(event, priority, delay)
        if len(self._scheduled) > _MOST:
            self._scheduled = [one for one in self._scheduled if not one[-1].processed]
        self._number += 1
        self._scheduled.append((self.now + delay, priority, self._number, event))

    def pending(self) -> Iterator[tuple[int, simpy.Process]]:
        """Who resumes, how many cycles from now, in order."""
        self._scheduled = sorted(one for one in self._scheduled if not one[-1].processed)
        for when, _, _, event in self._scheduled:
            for resumed in event.callbacks or ():
                yield int(when - self.now), resumed.__self__  # type: ignore[attr-defined]
