"""The targets of a search: what is to be made least."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bfpsim.objects import immutable
from bfpsim.search.bitwidth.allocation import (
    SAME,
    Allocation,
    InfeasibleError,
    allocate,
    least_cost,
    least_loss,
)
from bfpsim.search.bitwidth.problem import Problem


@immutable
@dataclass(frozen=True, slots=True)
class Tradeoff:
    """Eq. 1 of BitQ: Acc_loss + alpha x DM_sum / DM_max."""

    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha={self.alpha!r}; allowed: a number from 0")

    def solve(self, problem: Problem, scale: float) -> Allocation:
        """The best choice; scale is DM_max."""
        return allocate(problem, self.alpha, scale)

    def value(self, loss: float, cost: float, scale: float) -> float:
        """The objective."""
        return loss + self.alpha * cost / scale

    def bound(self, allocation: Allocation, scale: float) -> float:
        """A bound that no choice's value is below, by the proof of the best one."""
        return allocation.bound


@immutable
@dataclass(frozen=True, slots=True)
class LossBudget:
    """The least cost for an Acc_loss of at most ``most``, a fraction of the images."""

    most: float

    def solve(self, problem: Problem, scale: float) -> Allocation:
        """The best choice; raises InfeasibleError."""
        return least_cost(problem, self.most)

    def value(self, loss: float, cost: float, scale: float) -> float:
        """The objective, DM_sum / DM_max; infinite beyond the budget."""
        return cost / scale if loss <= self.most * (1 + SAME) else math.inf

    def bound(self, allocation: Allocation, scale: float) -> float:
        """A bound that no choice's value is below, by the proof of the best one."""
        return allocation.bound / scale


@immutable
@dataclass(frozen=True, slots=True)
class CostBudget:
    """The least Acc_loss for a cost of at most ``most``: DRAM bits, pJ or cycles."""

    most: float

    def solve(self, problem: Problem, scale: float) -> Allocation:
        """The best choice; raises InfeasibleError."""
        return least_loss(problem, self.most)

    def value(self, loss: float, cost: float, scale: float) -> float:
        """The objective, Acc_loss; infinite beyond the budget."""
        return loss if cost <= self.most * (1 + SAME) else math.inf

    def bound(self, allocation: Allocation, scale: float) -> float:
        """A bound that no choice's value is below, by the proof of the best one."""
        return allocation.bound


Target = Tradeoff | LossBudget | CostBudget

ALPHAS = (0.015, 0.05, 0.15, 0.2, 0.25, 1.5, 3.0)
"""The values of Fig. 6."""

NEIGHBOURS = (0.25, 0.5, 2.0, 4.0)
"""Multiples of a trade-off's alpha whose choices are finalists too: losses are predictions."""


SHARES = (0.5, 0.25, 0.125)
"""Shares of a budget of loss whose choices are finalists too."""


def nearest(target: Target, problem: Problem, scale: float) -> Allocation:
    """The best choice, or the one that misses the budget least."""
    try:
        return target.solve(problem, scale)
    except InfeasibleError as error:
        return error.nearest


def front_alphas(target: Target) -> tuple[float, ...]:
    """The alphas whose choices a front is sure to have, ascending."""
    own = (target.alpha * f for f in (1.0, *NEIGHBOURS)) if isinstance(target, Tradeoff) else ()
    return tuple(sorted({*ALPHAS, *own}))
