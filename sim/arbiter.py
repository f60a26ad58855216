"""The DRAM channel of a program: one transfer at a time, those that are waited for first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import simpy


@dataclass(slots=True)
class Transfer:
    """A transfer that waits for the channel, or has it.

    place: of the operation that asks
    cycles: for which it holds the channel; latency: trails them, and holds up nothing behind
    done: the event of its end
    start, end: the cycles it gets and leaves the channel, once `done`
    """

    place: int
    cycles: int
    latency: int
    done: simpy.Event
    start: int = -1
    end: int = -1


class Arbiter:
    """Serves the operation that is under way, and those before it, before any prefetch.

    Among each, transfers are served in the order of their requests. What has begun is not broken
    off.

    env: the simulation
    front: the place of the earliest operation that still computes; moved on by the machine
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._free_at = 0
        self._waiting: list[Transfer] = []
        self.front = 0

    def request(self, place: int, cycles: int, latency: int) -> Transfer:
        """Put a transfer on the channel."""
        own = Transfer(place, cycles, latency, self._env.event())
        now = int(self._env.now)
        if now >= self._free_at and not self._waiting:
            self._start(own, now)
        else:
            if not self._waiting:
                self._after(self._free_at - now, self._next)
            self._waiting.append(own)
        return own

    @property
    def state(self) -> Hashable:
        """What it has yet to do, relative to now and to the operation under way."""
        left = max(0, self._free_at - int(self._env.now))
        waiting = tuple((own.place - self.front, own.cycles, own.latency) for own in self._waiting)
        return left, waiting

    def _start(self, own: Transfer, now: int) -> None:
        own.start, own.end = now, now + own.cycles
        self._free_at = own.end
        self._after(own.cycles + own.latency, own.done.trigger)

    def _after(self, delay: int, then: Callable[[simpy.Event], None]) -> None:
        event = self._env.timeout(delay)
        assert event.callbacks is not None
        event.callbacks.append(then)

    def _next(self, _: simpy.Event) -> None:
        now = int(self._env.now)
        chosen = next((own for own in self._waiting if own.place <= self.front), self._waiting[0])
        self._waiting.remove(chosen)
        self._start(chosen, now)
        if self._waiting:
            self._after(self._free_at - now, self._next)
