"""The best choice of residents by a dynamic program over the frontier of live activations.

A state is the set of residents among the activations that are live after an operation; its value
the least cost of all operations so far. It is exact, and small where few activations live at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bfpsim.mapping.residency.stairs import Stairs

MOST_STATES = 50_000
"""Sets of residents after an operation that are followed; beyond, it is an integer program."""

_BEAM = 64
"""The best states that a first, inexact pass follows, for a bound to prune by."""

Members = int
"""A set of activations as bits of a number: activation i is 1 << i."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An operation as the allocation sees it; activations are numbered.

    begins: the activation that it is the first to write, if that may stay; ends: those that die
    after it; uses: those that it reads or writes
    replaces: what its output would overwrite and the output, both numbers, or None
    costs: over room, by which of `uses` are resident; None for an operation that costs nothing
    """

    begins: int | None
    ends: Members
    uses: Members
    replaces: tuple[int, int] | None
    costs: Callable[[Members], Stairs] | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Stages in program order; what each activation takes; and the room that there is [bit]."""

    stages: Sequence[Stage]
    sizes: Sequence[int]
    capacity: int

    def room(self, stage: Stage, residents: Members, used: int) -> int:
        """What is left to an operation, given the residents and what they take together [bit]."""
        room = self.capacity - used
        if stage.replaces is not None:
            old, new = stage.replaces
            if residents >> old & 1 and residents >> new & 1:
                room += self.sizes[new]
        return room

    def least(self) -> list[float]:
        """What each operation costs at least: whatever is resident, in all the room."""
        return [
            0 if stage.costs is None else min(stage.costs(own).at(self.capacity)
                                              for own in subsets(stage.uses))
            for stage in self.stages
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Solution:
    """The residents, and the cost; bound: what no choice is below."""

    residents: Members
    cost: float
    bound: float


def subsets(members: Members) -> list[Members]:
    """All subsets, the empty one first."""
    every, own = [0], members
    while own:
        bit = own & -own
        every += [one | bit for one in every]
        own ^= bit
    return every


def cost_of(problem: Problem, residents: Members) -> float:
    """What all operations cost with some residents; infinite if something does not fit."""
    return sum(
        math.inf if room < 0 else 0 if stage.costs is None
        else stage.costs(residents & stage.uses).at(room)
        for stage, room in zip(problem.stages, rooms(problem, residents), strict=True)
    )  # fmt: skip


def rooms(problem: Problem, residents: Members) -> list[int]:
    """What each operation has left, in program order [bit]."""
    alive = used = 0
    found = []
    for stage in problem.stages:
        if stage.begins is not None and residents >> stage.begins & 1:
            alive |= 1 << stage.begins
            used += problem.sizes[stage.begins]
        found.append(problem.room(stage, alive, used))
        ending = alive & stage.ends
        alive &= ~stage.ends
        used -= sum(size for n, size in enumerate(problem.sizes) if ending >> n & 1)
    return found


class TooWideError(ValueError):
    """More states than the dynamic program follows."""


class InfeasibleError(ValueError):
    """No choice leaves an operation enough room.

    stage: the first operation that no state gets past
    """

    def __init__(self, stage: int) -> None:
        super().__init__(f"operation {stage} fits in no state")
        self.stage = stage


def solve(problem: Problem) -> Solution:
    """The least cost, and of equal ones the residents that take the least room together.

    Raises TooWideError beyond `MOST_STATES`, and InfeasibleError if nothing fits.
    """
    rest = [0.0]
    for least in reversed(problem.least()):
        rest.append(rest[-1] + least)
    rest.reverse()
    limit = math.inf
    try:
        found = _run(problem, rest, limit, 8 * _BEAM, beam=False)
    except TooWideError:
        try:
            limit = _run(problem, rest, limit, _BEAM, beam=True)[0]
        except InfeasibleError:
            limit = math.inf
        found = _run(problem, rest, limit, MOST_STATES, beam=False)
    cost, residents = found
    return Solution(residents, cost, cost)


_State = tuple[float, int, int, Members]
"""Cost; room of all residents so far, over their lives; room of those alive; residents so far."""


def _run(
    problem: Problem, rest: Sequence[float], limit: float, most: int, *, beam: bool
) -> tuple[float, Members]:
    """Follow all states whose cost may stay within `limit`, or the best ones."""
    sizes = problem.sizes
    states: dict[Members, _State] = {0: (0.0, 0, 0, 0)}
    for number, stage in enumerate(problem.stages):
        after: dict[Members, _State] = {}
        known: dict[Members, Stairs] = {}
        for alive, (cost, weight, used, chosen) in states.items():
            branches = [(alive, weight, used, chosen)]
            if stage.begins is not None:
                own, size = 1 << stage.begins, sizes[stage.begins]
                branches.append((alive | own, weight + size, used + size, chosen | own))
            for residents, own_weight, own_used, own_chosen in branches:
                room = problem.room(stage, residents, own_used)
                if room < 0:
                    continue
                total = cost
                if stage.costs is not None:
                    key = residents & stage.uses
                    stairs = known.get(key)
                    if stairs is None:
                        stairs = known[key] = stage.costs(key)
                    total += stairs.at(room)
                if total + rest[number + 1] > limit or total == math.inf:
                    continue
                left, ending = residents & ~stage.ends, residents & stage.ends
                while ending:
                    own_used -= sizes[(ending & -ending).bit_length() - 1]
                    ending &= ending - 1
                before = after.get(left)
                if before is None or (total, own_weight) < before[:2]:
                    after[left] = (total, own_weight, own_used, own_chosen)
        if not after:
            raise InfeasibleError(number)
        if len(after) > most:
            if not beam:
                raise TooWideError(len(after))
            best = sorted(after.items(), key=lambda own: (own[1][:2], own[0]))[:most]
            after = dict(best)
        states = after
    cost, _, _, residents = min(states.values())
    return cost, residents
