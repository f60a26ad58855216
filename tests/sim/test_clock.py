"""A clock tells who resumes when, and keeps no more than it has to."""

import weakref
from collections.abc import Generator

import simpy

from bfpsim.sim.clock import Clock


def waits(env: Clock, *delays: int) -> Generator[simpy.Event, None, None]:
    for delay in delays:
        yield env.timeout(delay)


def test_pending_tells_who_resumes_in_order() -> None:
    env = Clock()
    late, soon, also = (env.process(waits(env, *d)) for d in ((9,), (4, 7), (4,)))
    env.run(until=1)
    assert list(env.pending()) == [(3, soon), (3, also), (8, late)]
    env.run(until=5)
    assert list(env.pending()) == [(4, late), (6, soon)]
    env.run()
    assert list(env.pending()) == []


def test_what_has_happened_is_let_go_when_asked() -> None:
    env = Clock()
    events = [weakref.ref(env.timeout(delay)) for delay in range(40)]
    env.run(until=30)
    assert list(env.pending()) == []  # nobody waits for the ten that are left
    assert sum(event() is not None for event in events) == 10
    env.run()
    assert list(env.pending()) == []
    assert sum(event() is not None for event in events) == 0


def test_what_begins_now_comes_before_what_waited_for_now() -> None:
    """A new process is urgent: SimPy starts it before timeouts of the same cycle."""
    env = Clock()
    waiting = env.process(waits(env, 0))
    env.step()
    new = env.process(waits(env, 2))
    assert list(env.pending()) == [(0, new), (0, waiting)]
