"""SimPy's environment, which also tells what it has yet to do."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

import simpy
from simpy.events import NORMAL, Event, EventPriority


class Clock(simpy.Environment):
    """An environment that keeps what is scheduled, until it is asked what is `pending`."""

    def __init__(self) -> None:
        self._scheduled: list[tuple[float, EventPriority, Event]] = []
        super().__init__()

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Schedule an event, as SimPy does."""
        super().schedule(event, priority, delay)
        self._scheduled.append((self.now + delay, priority, event))

    def pending(self) -> Iterator[tuple[int, object]]:
        """Who resumes, how many cycles from now, in the order in which it will happen.

        A process; or whatever else is called back.
        """
        # A processed event has no callbacks. Of events at one time the first scheduled is first.
        left = [one for one in self._scheduled if one[2].callbacks is not None]
        left.sort(key=itemgetter(0, 1))
        self._scheduled = left
        now = int(self.now)
        for when, _, event in left:
            for resumed in event.callbacks:
                yield int(when) - now, resumed.__self__  # type: ignore[attr-defined]
