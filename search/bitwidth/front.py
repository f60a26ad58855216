"""The Pareto front of accuracy and cost at given prices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bfpsim.search.bitwidth.allocation import SAME, Allocation, allocate, least_cost
from bfpsim.search.bitwidth.problem import Problem

_GAP = 1e-3
"""Of choices between those of the hull, which only fill a figure."""

_EXTREME = 1e9
"""An alpha, or its inverse, that leaves the other criterion to decide between equals."""


def pareto_front(
    problem: Problem, scale: float, alphas: Sequence[float], points: int, between: int
) -> list[Allocation]:
    """Choices that no choice found beats in both loss and cost, by ascending loss.

    First the lower convex hull: every choice that is best for some alpha is on it. Beside its ends
    it has those of the alphas asked for; then each step solves for the alpha at which two
    neighbours are equally good, until nothing better is between any two (Aneja and Nair's
    dichotomic scheme). Then the widest gaps are narrowed by the least cost for a loss in the
    middle, where no alpha leads.

    scale: DM_max; points: choices of the hull at which the steps end; between: gaps to look into
    """
    hull = _undominated([allocate(problem, own, scale) for own in (1 / _EXTREME, _EXTREME)])
    if len(hull) > 1:
        hull = _undominated([*hull, *(allocate(problem, alpha, scale) for alpha in alphas)])
    settled: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    while len(hull) < points:
        pair = _widest(hull, settled, scale)
        if pair is None:
            break
        a, b = pair
        settled.add((a.choice, b.choice))
        alpha = (b.loss - a.loss) / (a.cost - b.cost) * scale
        middle = allocate(problem, alpha, scale)
        line = a.loss + alpha * a.cost / scale
        if middle.objective < line * (1 - SAME):
            hull = _undominated([*hull, middle])
    front, tried = hull, set[float]()
    for _ in range(between):
        gaps = [(a, b) for a, b in pairwise(front) if (a.loss + b.loss) / 2 not in tried]
        if not gaps:
            break
        a, b = max(gaps, key=lambda pair: pair[0].cost - pair[1].cost)
        tried.add((a.loss + b.loss) / 2)
        front = _undominated([*front, least_cost(problem, (a.loss + b.loss) / 2, _GAP)])
    return front


def _widest(
    hull: Sequence[Allocation], settled: set[tuple[tuple[int, ...], tuple[int, ...]]], scale: float
) -> tuple[Allocation, Allocation] | None:
    """The neighbours farthest apart between which nothing was looked for."""
    loss = (hull[-1].loss - hull[0].loss) or 1.0
    pairs = [(a, b) for a, b in pairwise(hull) if (a.choice, b.choice) not in settled]
    return max(
        pairs,
        key=lambda p: (p[1].loss - p[0].loss) / loss + (p[0].cost - p[1].cost) / scale,
        default=None,
    )


def _undominated(found: Sequence[Allocation]) -> list[Allocation]:
    kept: list[Allocation] = []
    for own in sorted(found, key=lambda one: (one.loss, one.cost)):
        if not kept or own.cost < kept[-1].cost:
            kept.append(own)
    return kept
