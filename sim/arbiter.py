"""The DRAM channel of a program: one transfer at a time, those that are waited for first."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import simpy


@dataclass(slots=True)
class _Waiting:
    """A transfer that waits for the channel."""

    place: int
    cycles: int
    latency: int
    done: simpy.Event


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
        self._waiting: list[_Waiting] = []
        self.front = 0

    def request(self, place: int, cycles: int, latency: int) -> simpy.Event:
        """The event of a transfer's end, whose value is the cycles it got and left the channel.

        place: of the operation that asks
        cycles: for which it holds the channel; latency: trails them, and holds up nothing behind
        """
        own = _Waiting(place, cycles, latency, self._env.event())
        now = int(self._env.now)
        if now >= self._free_at and not self._waiting:
            self._start(own, now)
        else:
            if not self._waiting:
                self._wake_at(self._free_at - now)
            self._waiting.append(own)
        return own.done

    @property
    def state(self) -> Hashable:
        """What it has yet to do, relative to now and to the operation under way."""
        left = max(0, self._free_at - int(self._env.now))
        waiting = tuple((own.place - self.front, own.cycles, own.latency) for own in self._waiting)
        return left, waiting

    def _start(self, own: _Waiting, now: int) -> None:
        self._free_at = now + own.cycles
        own.done._ok, own.done._value = True, (now, self._free_at)
        self._env.schedule(own.done, delay=own.cycles + own.latency)

    def _wake_at(self, delay: int) -> None:
        wake = self._env.timeout(delay)
        assert wake.callbacks is not None
        wake.callbacks.append(self._next)

    def _next(self, _: simpy.Event) -> None:
        now = int(self._env.now)
        chosen = next((own for own in self._waiting if own.place <= self.front), self._waiting[0])
        self._waiting.remove(chosen)
        self._start(chosen, now)
        if self._waiting:
            self._wake_at(self._free_at - now)
