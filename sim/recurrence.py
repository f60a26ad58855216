"""States that a machine has been in, and how much of what followed one of them will happen again.

A run is a deterministic machine that takes tiles from a few streams. If it is in a state again,
and each stream goes on with tiles like those it took since, it does all of it once more, as far as
the tiles are alike. Looking costs about as much as a step, so it is done where the streams
themselves, known before the run, say that much may repeat, and seldom while it never does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Kinds = NDArray[np.integer[Any]]

_REMEMBERED = 1 << 14
_FIRST_CHUNK = 1 << 6
_LEAST = 12  # steps worth looking for
SHORTEST = 4 * _LEAST
"""Steps of a nest that pay for looking."""
_FREE_LOOKS, _STEPS_PER_LOOK = 10, 150  # what looking may cost while it finds nothing
_GAIN_PER_LOOK = 12  # steps skipped that pay for one more look
_TURNS_BACK = 8
_SHOWING, _TRIED, _SELDOM = 1 << 13, 3, 16
_WIDTHS, _COMPARED = (1, 2, 4, 8, 16, 32), (16, 64)
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no kind is lost
_STEPS_PER_SURE_LOOK = 160
_INTO = (0, 1, 2, 3, *(1 << place for place in range(2, 20)))
_BEFORE_END = 20
_SOME, _MUCH = 1, 2


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run had come: per stream, the tiles done with, and those taken or looked at.

    The first stream is that of the steps.
    sizes: of the tiles that each buffer holds [bit]
    cycle: when
    row, length: of its timeline
    totals: all that it had counted
    """

    done: tuple[int, ...]
    taken: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    cycle: int
    row: int
    length: int
    totals: tuple[int, ...]


class Recurrence:
    """The states of a run so far; a bounded number, the latest moment at each step.

    streams: the kind of every tile, per stream, the steps first
    in_use: per step, kinds of the tiles in use, which say with the step's own what is alike
    turns: steps in a turn of each loop of the nest, the shortest first
    """

    def __init__(
        self, streams: tuple[Kinds, ...], in_use: Sequence[Kinds] = (), turns: Sequence[int] = (1,)
    ) -> None:
        self._streams = tuple(map(_narrow, streams))
        kinds = (self._streams[0], *map(_narrow, in_use))
        self._turns = sorted({*turns, *_distances(kinds)})
        self._promising = promising(kinds, self._turns)
        self._moments: dict[int, Moment] = {}
        self._steps_in: dict[Hashable, list[int]] = {}
        self._looks = self._skipped = 0

    def worth_a_look(self, step: int) -> bool:
        """Whether to look at this step: much may repeat, and looking has not cost much so far."""
        promise = self._promising[step]
        if promise != _SOME:
            return promise == _MUCH
        run = step - self._skipped
        paid = run // _STEPS_PER_LOOK + self._skipped // _GAIN_PER_LOOK
        if self._looks >= _FREE_LOOKS + paid:
            return False
        self._looks += 1
        return True

    def remember(self, state: Hashable, moment: Moment) -> None:
        """The machine is in this state now."""
        if len(self._moments) == _REMEMBERED:
            self._moments.clear()
            self._steps_in.clear()
        step = moment.done[0]
        self._moments[step] = moment
        self._steps_in.setdefault(state, []).append(step)

    def again(self, state: Hashable, now: Moment) -> list[tuple[Moment, Moment, int]]:
        """What the machine will do again from now on, one after the other: all that it did from one
        moment to another, and how often.

        That is whole turns since it was in this state, then as much of a turn as goes on alike and
        ends in this state.
        """
        found: list[tuple[Moment, Moment, int]] = []
        most = _LEAST - 1
        for before in self._in_state(state, now):
            reach = self._reach(before, now)
            times = _times(before, now, reach)
            gained = [times * (done - was) for was, done in zip(before.done, now.done, strict=True)]
            left = [alike - gain for alike, gain in zip(reach, gained, strict=True)]
            part = self._within(state, before, now, left)
            steps = gained[0] + (part.done[0] - before.done[0] if part else 0)
            if steps > most:
                most = steps
                found = [(before, now, times)] if times else []
                found += [(before, part, 1)] if part else []
        self._skipped += most if found else 0
        return found

    def _in_state(self, state: Hashable, now: Moment) -> Iterator[Moment]:
        """Moments in this state: some turns of each loop ago, and the latest."""
        known, step = self._steps_in.get(state, []), now.done[0]
        places = {known[-1]} if known else set()
        for turn in self._turns:
            earliest = max(-1, step - 1 - _TURNS_BACK * turn)
            for at in range(step - turn, earliest, -turn):
                place = bisect_left(known, at)
                if place < len(known) and known[place] == at:
                    places.add(at)
                    break
        kinds = self._streams[0]
        next_few = kinds[step : step + _LEAST].tobytes()
        for at in sorted(places):
            if kinds[at : at + _LEAST].tobytes() == next_few:
                yield self._moments[at]

    def _reach(self, before: Moment, now: Moment) -> list[int]:
        """Per stream, how many tiles from now on are like those from a moment before on."""
        return [
            alike(kinds, done, done - was) if done > was else len(kinds)
            for kinds, was, done in zip(self._streams, before.done, now.done, strict=True)
        ]

    def _within(
        self, state: Hashable, before: Moment, now: Moment, reach: Sequence[int]
    ) -> Moment | None:
        """The last moment between two that is in this state and within reach of the first."""
        known = self._steps_in[state]

        def fits(step: int) -> bool:
            return all(
                taken - was <= alike
                for taken, was, alike in zip(
                    self._moments[step].taken, before.done, reach, strict=True
                )
            )

        first = bisect_right(known, before.done[0])
        last = bisect_left(known, now.done[0])
        beyond = bisect_left(known, True, first, last, key=lambda step: not fits(step))
        return self._moments[known[beyond - 1]] if beyond > first else None


def _narrow(kinds: Kinds) -> Kinds:
    """Kinds in as few bytes each as hold them: comparing them is most of looking."""
    return kinds.astype(np.min_scalar_type(int(kinds.max(initial=0))))


def _times(before: Moment, now: Moment, reach: Sequence[int]) -> int:
    """How often what the machine did from one moment to the other is within reach once more."""
    times = [
        (alike - (taken - done)) // (done - was)  # tiles that are resident must be alike, too
        for alike, was, done, taken in zip(reach, before.done, now.done, now.taken, strict=True)
        if done > was
    ]
    return max(0, min(times, default=0))


def promising(in_use: Sequence[Kinds], turns: Sequence[int]) -> bytes:
    """By step, whether looking for a recurrence may pay: 0 not at all, 1 some, 2 much.

    Where many steps are like those a turn of some loop before: at the first of them and further in,
    a turn before each of these, and where the turn before went as far as they do.
    """
    steps = len(in_use[0])
    marked = bytearray(steps)
    for turn in turns:
        if steps - turn < _LEAST:
            break
        same = np.zeros(steps - turn + 2, bool)
        same[1:-1] = True
        for kinds in in_use:
            same[1:-1] &= kinds[turn:] == kinds[:-turn]
        edges = np.flatnonzero(same[1:] != same[:-1]) + turn
        begins, ends = edges[::2], edges[1::2]
        long = ends - begins >= _LEAST
        for begin, end in zip(begins[long].tolist(), ends[long].tolist(), strict=True):
            last = end - _LEAST + 1
            sure = (end - begin) // _STEPS_PER_SURE_LOOK
            for place, at in enumerate(_looks(begin, end, last, turn)):
                marked[at] = max(marked[at], _MUCH if place < sure else _SOME)
            for at in range(begin + turn, last, turn):
                marked[at] = marked[at] or _SOME
    return bytes(marked)


def _distances(in_use: Sequence[Kinds]) -> list[int]:
    """The most frequent distances between steps that go on alike for a while, shortest first.

    A loop's turns are not all: tiles that begin anywhere in a burst are alike after as many as
    nearly fill bursts. The first steps show it.
    """
    shown = min(len(in_use[0]), _SHOWING)
    ahead = np.zeros(shown, np.uint64)
    for kinds in in_use:
        ahead = ahead * _PRIME + kinds[:shown].astype(np.uint64)
    frequent: set[int] = set()
    for width in _WIDTHS:  # a number for each step and those that follow it, twice as many a time
        if len(ahead) <= width:
            break
        ahead = ahead[:-width] * _PRIME + ahead[width:]
        if 2 * width not in _COMPARED:
            continue
        order = np.argsort(ahead, kind="stable")
        again = ahead[order[1:]] == ahead[order[:-1]]
        found, often = np.unique((order[1:] - order[:-1])[again], return_counts=True)
        most = np.argsort(-often, kind="stable")[:_TRIED]
        frequent.update(found[most][often[most] * _SELDOM >= shown].tolist())
    return sorted(frequent)


def _looks(begin: int, end: int, last: int, turn: int) -> Iterator[int]:
    """Steps to look at, the most useful first, where the steps of a range are like those before."""
    for into in _INTO:
        if begin + into >= last:
            break
        yield begin + into - turn
        yield begin + into
        if into < _BEFORE_END and end - 1 - into >= begin:
            yield end - turn - 1 - into


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
