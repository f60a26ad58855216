"""The DRAM channel of a program: one transfer at a time, those that are waited for first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import simpy
from simpy.events import NORMAL, EventPriority

from bfpsim.mapping.channel import Timing
from bfpsim.mapping.counts import Direction


class _EndOfCycle(simpy.Event):
    """An event behind all else that happens in a cycle, so many cycles from now."""

    callbacks: list[Callable[[simpy.Event], None]]

    def __init__(self, env: simpy.Environment, cycles: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, EventPriority(NORMAL + 1), cycles)


@dataclass(slots=True)
class Transfer:
    """A transfer on its way.

    place: of the operation that asks
    direction: of its bits
    cycles: for which it holds the channel
    granted: the event at which it gets the channel, where that is not known from the beginning
    start, end: the cycles it gets and leaves the channel, once they are known
    """

    place: int
    direction: Direction
    cycles: int
    granted: simpy.Event | None = None
    start: int = -1
    end: int = -1


class Arbiter:
    """Serves the operations up to the one under way before any prefetch for later ones.

    Among each, transfers are served in the order of their requests; one that becomes waited for
    joins those that are then. What has begun is not broken off; so it is known at once when a
    transfer that is no prefetch is served. A prefetch begins once all that is asked for in a cycle
    is known.

    env: the simulation
    timing: how long the channel rests between two directions
    """

    def __init__(self, env: simpy.Environment, timing: Timing) -> None:
        self._env = env
        self._timing = timing
        self._free_at = 0
        self._last: Direction | None = None
        self._front = 0
        self._prefetches: deque[Transfer] = deque()
        self._woken = False

    @property
    def front(self) -> int:
        """The place of the earliest operation that still computes."""
        return self._front

    def move_front(self, place: int) -> None:
        """Go on to an operation: what was prefetched for it is waited for now."""
        self._front = place
        due = [own for own in self._prefetches if own.place <= place]
        if due:
            self._prefetches = deque(own for own in self._prefetches if own.place > place)
        for own in due:
            self._serve(own)

    def request(self, place: int, direction: Direction, cycles: int) -> Transfer:
        """Put a transfer on the channel."""
        own = Transfer(place, direction, cycles)
        if place <= self._front:
            self._serve(own)
        else:
            own.granted = self._env.event()
            self._prefetches.append(own)
            self._wake()
        return own

    @property
    def state(self) -> Hashable:
        """What it has yet to do, relative to now and to the operation under way."""
        left = self._free_at - int(self._env.now)
        waits = (left + self._timing.rest(self._last, way) for way in ("read", "write"))
        prefetches = tuple(
            (own.place - self._front, own.direction, own.cycles) for own in self._prefetches
        )
        return max(0, left), *(max(0, cycles) for cycles in waits), prefetches

    def _serve(self, own: Transfer) -> None:
        rested = self._free_at + self._timing.rest(self._last, own.direction)
        own.start = max(int(self._env.now), rested)
        own.end = self._free_at = own.start + own.cycles
        self._last = own.direction
        if own.granted is not None:
            own.granted.succeed()

    def _wake(self) -> None:
        """See to the prefetches when the channel will be free, as far as is known."""
        if self._woken or not self._prefetches:
            return
        self._woken = True
        event = _EndOfCycle(self._env, max(0, self._free_at - int(self._env.now)))
        event.callbacks.append(self._next)

    def _next(self, _: simpy.Event) -> None:
        self._woken = False
        if self._prefetches and self._free_at <= self._env.now:
            self._serve(self._prefetches.popleft())
        self._wake()
