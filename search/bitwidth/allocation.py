"""The best choices of a problem, proven: an integer program in Pyomo, solved by HiGHS.

One binary variable per candidate of every stored tensor that several operands share, and one
variable per layer and combination of its tensors' candidates, linked: of each layer's combinations
those with a candidate add up to the candidate's variable. What a single layer alone uses (its
weights) is chosen best for every combination beforehand, so that it needs no variable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from bfpsim.mapping.nest import MappingError
from bfpsim.search.bitwidth.problem import LayerCosts, Problem

_TOLERANCE = 1e-9
"""HiGHS' feasibility tolerances: a thousandth of the default, for losses differ by 1e-8."""

SAME = 1e-9
"""Losses or costs that differ by no more, as a fraction, are the same: summed in other orders."""

_ILLEGAL = (
    "in every choice of formats some layer has no legal mapping; allowed: other formats, or a "
    "larger buffer"
)

BUDGET_GAP = 1e-4
"""A budget makes a knapsack of the problem: the last digits of its proof take the most time."""

_FRONT_GAP = 1e-3
"""The gap of choices between those of the hull, which only fill a figure."""

_EXTREME = 1e9
"""An alpha, or its inverse, that leaves the other criterion to decide between equals."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A choice: the place in `Problem.candidates` of every stored tensor.

    loss, cost: Acc_loss and DM_sum of the choice
    objective: what was minimised
    bound: what no choice can be below, as HiGHS proved it
    """

    choice: tuple[int, ...]
    loss: float
    cost: float
    objective: float
    bound: float

    @property
    def gap(self) -> float:
        """The fraction by which the objective may be above the least one."""
        return relative_gap(self.objective, self.bound)


def relative_gap(value: float, bound: float) -> float:
    """The fraction by which a value may be above the least; infinite where it is infinite."""
    if math.isinf(value):  # a budget is missed
        return math.inf
    return max(value - bound, 0.0) / max(abs(value), 1e-300)


class InfeasibleError(ValueError):
    """A budget that no choice meets.

    nearest: the choice that misses it least
    """

    def __init__(self, message: str, nearest: Allocation) -> None:
        super().__init__(message)
        self.nearest = nearest


class _Column(NamedTuple):
    """Candidates of a layer's I, W and O, and their share of the objective."""

    picks: tuple[int, int, int]
    loss: float  # of the tensors that no other layer has
    cost: float


def allocate(problem: Problem, alpha: float, scale: float) -> Allocation:
    """Minimise Acc_loss + alpha x DM_sum / scale (Eq. 1 and 2); scale is DM_max.

    Raises MappingError if in every choice some layer has no legal mapping.
    """
    weight = alpha / scale
    return _solve(problem, 1.0, weight, None, None)


def least_cost(problem: Problem, most_loss: float, gap: float = BUDGET_GAP) -> Allocation:
    """The least DM_sum for an Acc_loss of at most so much, proven to within ``gap``, a fraction.

    Raises InfeasibleError that says what the least loss is, and MappingError as `allocate`.
    """
    least = float(sum(own.min() for own in problem.losses))
    legal = all(np.isfinite(layer.costs).all() for layer in problem.layers)
    if not legal or least > most_loss * (1 + SAME):
        nearest = _solve(problem, 1.0, 0.0, None, None)
        if nearest.loss > most_loss * (1 + SAME):
            raise InfeasibleError(loss_missed(most_loss, nearest.loss), nearest)
    return _solve(problem, 0.0, 1.0, most_loss, None, gap)


def least_loss(problem: Problem, most_cost: float, gap: float = BUDGET_GAP) -> Allocation:
    """The least Acc_loss for a DM_sum of at most so much, proven to within ``gap``, a fraction.

    Raises InfeasibleError that says what the least cost is, and MappingError as `allocate`.
    """
    cheapest = _solve(problem, 0.0, 1.0, None, None)
    if cheapest.cost > most_cost * (1 + SAME):
        raise InfeasibleError(cost_missed(most_cost, cheapest.cost), cheapest)
    return _solve(problem, 1.0, 0.0, None, max(most_cost, cheapest.cost), gap)


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
    hull = _unbeaten([allocate(problem, own, scale) for own in (1 / _EXTREME, _EXTREME)])
    if len(hull) > 1:
        hull = _unbeaten([*hull, *(allocate(problem, alpha, scale) for alpha in alphas)])
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
            hull = _unbeaten([*hull, middle])
    front, tried = hull, set[float]()
    for _ in range(between):
        gaps = [(a, b) for a, b in pairwise(front) if (a.loss + b.loss) / 2 not in tried]
        if not gaps:
            break
        a, b = max(gaps, key=lambda pair: pair[0].cost - pair[1].cost)
        tried.add((a.loss + b.loss) / 2)
        front = _unbeaten([*front, least_cost(problem, (a.loss + b.loss) / 2, _FRONT_GAP)])
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


def _unbeaten(allocations: Sequence[Allocation]) -> list[Allocation]:
    """The allocations that no other one beats in both, by ascending loss."""
    kept: list[Allocation] = []
    for own in sorted(allocations, key=lambda one: (one.loss, one.cost)):
        if not kept or own.cost < kept[-1].cost:
            kept.append(own)
    return kept


def loss_missed(most: float, least: float, which: str = "any choice has") -> str:
    """Say by how much a budget of accuracy loss is missed, as fractions and in points."""
    return (
        f"accuracy loss of at most {most:.9g} ({100 * most:.9g} points): the least that {which} "
        f"is {least:.9g} ({100 * least:.9g} points), {least - most:.3g} more; allowed: at "
        f"least that"
    )


def cost_missed(most: float, least: float, which: str = "any choice has") -> str:
    """Say by how much a budget of movement is missed, in DRAM bits, pJ or cycles."""
    return (
        f"cost of at most {most:.12g}: the least that {which} is {least:.12g}, "
        f"{least - most:.3g} more; allowed: at least that"
    )


def _solve(
    problem: Problem,
    loss_weight: float,
    cost_weight: float,
    most_loss: float | None,
    most_cost: float | None,
    gap: float = 0.0,
) -> Allocation:
    budget = most_loss is not None or most_cost is not None
    uses = Counter(tensor for layer in problem.layers for tensor in layer.tensors)
    columns = [
        _columns(problem, layer, uses, loss_weight, cost_weight, budget) for layer in problem.layers
    ]
    if not all(columns):
        raise MappingError(_ILLEGAL)
    # A budget may mix what is behind a combination, so then every tensor has variables of its own.
    linked = [tensor for tensor, count in sorted(uses.items()) if count > 1 or budget]
    # The largest possible parts, so that the numbers that HiGHS sees are near 1.
    size = loss_weight * sum(float(own.max()) for own in problem.losses)
    size += cost_weight * sum(max(c.cost for c in own) for own in columns)
    size = size or 1.0
    model = _model(problem, columns, linked, uses, loss_weight / size, cost_weight / size)
    if most_loss is not None:
        model.most = _limit(model.loss, most_loss)
    if most_cost is not None:
        model.most = _limit(model.cost, most_cost)
    bound = _proven_bound(model, gap)
    choice = [-1] * len(problem.candidates)
    values = [variable.value for variable in model.y.values()]
    start = 0
    for layer, own in zip(problem.layers, columns, strict=True):
        chosen = own[max(range(len(own)), key=lambda at: values[start + at])]
        start += len(own)
        for tensor, pick in zip(layer.tensors, chosen.picks, strict=True):
            choice[tensor] = pick
    loss, cost = problem.loss(choice), problem.cost(choice)
    objective = loss_weight * loss + cost_weight * cost
    return Allocation(tuple(choice), loss, cost, objective, min(bound * size, objective))


def _columns(
    problem: Problem,
    layer: LayerCosts,
    uses: Counter[int],
    loss_weight: float,
    cost_weight: float,
    budget: bool,
) -> list[_Column]:
    """The combinations that can be best, for each combination of the shared tensors."""
    places = np.argwhere(np.isfinite(layer.costs))
    for a in range(3):  # one tensor that is two operands has one format
        for b in range(a):
            if layer.tensors[a] == layer.tensors[b]:
                places = places[places[:, a] == places[:, b]]
    costs = layer.costs[tuple(places.T)]
    losses, group = np.zeros(len(places)), np.zeros(len(places), np.int64)
    for role, tensor in enumerate(layer.tensors):
        if uses[tensor] > 1:
            group = group * layer.costs.shape[role] + places[:, role]
        else:
            losses += problem.losses[tensor][places[:, role]]
    weighted = loss_weight * losses + cost_weight * costs
    kept: list[_Column] = []
    order = np.lexsort((losses, costs, group) if budget else (weighted, group))
    last, least = -1, np.inf
    for at in order:
        if group[at] != last:
            last, least = group[at], np.inf
        elif not budget:
            continue
        if losses[at] < least:  # ascending cost: only less loss is worth more
            least = losses[at]
            i, w, o = (int(place) for place in places[at])
            kept.append(_Column((i, w, o), float(losses[at]), float(costs[at])))
    return kept


def _model(
    problem: Problem,
    columns: Sequence[Sequence[_Column]],
    linked: Sequence[int],
    uses: Counter[int],
    loss_weight: float,
    cost_weight: float,
) -> Any:
    import pyomo.environ as pyo
    from pyomo.core.expr import LinearExpression

    model = pyo.ConcreteModel()
    flat = [column for own in columns for column in own]
    sizes = [len(problem.candidates[tensor]) for tensor in linked]
    model.x = pyo.Var(range(sum(sizes)), domain=pyo.Binary)
    # With every x whole, the links leave each layer one combination, whole too.
    model.y = pyo.Var(range(len(flat)), domain=pyo.NonNegativeReals)
    xs, ys = list(model.x.values()), list(model.y.values())
    picks = {
        tensor: xs[start : start + size]
        for tensor, start, size in zip(linked, accumulate(sizes, initial=0), sizes, strict=False)
    }
    model.links = pyo.ConstraintList()

    def link(variables: list[Any], minus: list[Any], total: int) -> None:
        signs = [1.0] * len(variables) + [-1.0] * len(minus)
        terms = LinearExpression(linear_coefs=signs, linear_vars=variables + minus)
        model.links.add(terms == total)

    for own_picks in picks.values():
        link(own_picks, [], 1)
    start = 0
    for layer, own in zip(problem.layers, columns, strict=True):
        mine = ys[start : start + len(own)]
        start += len(own)
        link(mine, [], 1)
        for role, tensor in enumerate(layer.tensors):
            if tensor not in picks or tensor in layer.tensors[:role]:
                continue
            with_pick: list[list[Any]] = [[] for _ in picks[tensor]]
            for column, variable in zip(own, mine, strict=True):
                with_pick[column.picks[role]].append(variable)
            for variables, pick in zip(with_pick, picks[tensor], strict=True):
                link(variables, [pick], 0)
    # The loss of a tensor that one layer alone uses is its columns'.
    losses = [
        float(loss) if uses[tensor] > 1 else 0.0
        for tensor in picks
        for loss in problem.losses[tensor]
    ]
    losses += [column.loss for column in flat]
    costs = [0.0] * len(xs) + [column.cost for column in flat]
    weighted = [loss_weight * a + cost_weight * b for a, b in zip(losses, costs, strict=True)]
    every = xs + ys
    model.loss = LinearExpression(linear_coefs=losses, linear_vars=every)
    model.cost = LinearExpression(linear_coefs=costs, linear_vars=every)
    model.objective = pyo.Objective(expr=LinearExpression(linear_coefs=weighted, linear_vars=every))
    return model


def _limit(expression: Any, most: float) -> Any:
    import pyomo.environ as pyo

    return pyo.Constraint(expr=expression / most <= 1 if most > 0 else expression <= most)


def _proven_bound(model: Any, gap: float) -> float:
    """Solve a model, which has the best choice then; the bound that no choice is below."""
    from pyomo.contrib.solver.common.factory import SolverFactory
    from pyomo.contrib.solver.common.util import NoOptimalSolutionError

    solver = SolverFactory("highs")
    try:
        results = solver.solve(
            model,
            threads=1,
            rel_gap=gap,
            abs_gap=0.0,
            solver_options={
                "random_seed": 0,
                "mip_feasibility_tolerance": _TOLERANCE,
                "primal_feasibility_tolerance": _TOLERANCE,
                "dual_feasibility_tolerance": _TOLERANCE,
            },
        )
    except NoOptimalSolutionError:
        raise MappingError(_ILLEGAL) from None
    return float(results.objective_bound)
