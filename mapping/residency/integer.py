"""The best choice of residents as an integer program, solved by HiGHS: where many live at once.

One binary variable per activation, and one per operation, set of its operands that are resident,
and step of that cost's staircase. The steps of an operation with an operand add up to the operand's
variable; what is live and the chosen step's room fit into the capacity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import highspy
import numpy as np

from bfpsim.mapping.residency.frontier import (
    InfeasibleError,
    Members,
    Problem,
    Solution,
    cost_of,
    subsets,
)

MOST_NODES = 20_000
"""Of the search tree; beyond, the best choice so far and the bound that is left."""


class _Row(NamedTuple):
    """terms: of variables by their number; low, high: of the row's value."""

    terms: list[tuple[int, float]]
    low: float
    high: float


def solve(problem: Problem) -> Solution:
    """The least cost, or the best of so many nodes and what none is below.

    Raises InfeasibleError if nothing fits.
    """
    rows, costs = _rows(problem)
    scale = max(costs) or 1.0
    highs = highspy.Highs()
    for option, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", 0),
        ("mip_rel_gap", 0.0),
        ("mip_abs_gap", 0.5 / scale),  # costs are whole numbers
        ("mip_feasibility_tolerance", 1e-9),
        ("primal_feasibility_tolerance", 1e-9),
        ("dual_feasibility_tolerance", 1e-9),
        ("mip_max_nodes", MOST_NODES),
    ):
        highs.setOptionValue(option, value)
    highs.passModel(_model(rows, np.array(costs) / scale))
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        raise InfeasibleError(_first_too_small(problem))
    values = highs.getSolution().col_value
    chosen = sum(1 << n for n in range(len(problem.sizes)) if values[n] > 0.5)
    cost = cost_of(problem, chosen)
    bound = math.ceil(highs.getInfo().mip_dual_bound * scale * (1 - 1e-9) - 0.5)
    return Solution(chosen, cost, min(bound, cost))


def _rows(problem: Problem) -> tuple[list[_Row], list[float]]:
    """The rows, and what each variable costs; those of activations come first."""
    sizes, capacity = problem.sizes, problem.capacity
    costs = [0.0] * len(sizes)
    rows: list[_Row] = []
    alive: Members = 0
    for stage in problem.stages:
        if stage.begins is not None:
            alive |= 1 << stage.begins
        room = [(n, size / capacity) for n, size in enumerate(sizes) if alive >> n & 1]
        steps: list[tuple[int, Members]] = []
        for key in subsets(stage.uses) if stage.costs is not None else ():
            spared = capacity - problem.room(stage, key, capacity)
            for need, cost in stage.costs(key) if stage.costs is not None else ():
                steps.append((len(costs), key))
                room.append((len(costs), (need + spared - capacity) / capacity))
                costs.append(float(cost))
        if stage.costs is not None:
            rows.append(_Row([(own, 1.0) for own, _ in steps], 1, 1))
            for number in range(len(sizes)):
                if stage.uses >> number & 1:
                    with_it = [(own, 1.0) for own, key in steps if key >> number & 1]
                    rows.append(_Row([*with_it, (number, -1.0)], 0, 0))
        rows.append(_Row(room, -math.inf, 1))
        alive &= ~stage.ends
    return rows, costs


def _model(rows: list[_Row], costs: np.ndarray) -> highspy.HighsLp:
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(costs), len(rows)
    model.col_cost_ = costs
    model.col_lower_, model.col_upper_ = np.zeros(len(costs)), np.ones(len(costs))
    model.row_lower_ = np.array([row.low for row in rows])
    model.row_upper_ = np.array([row.high for row in rows])
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(costs)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.cumsum([0, *(len(row.terms) for row in rows)])
    model.a_matrix_.index_ = np.array([number for row in rows for number, _ in row.terms])
    model.a_matrix_.value_ = np.array([value for row in rows for _, value in row.terms])
    return model


def _first_too_small(problem: Problem) -> int:
    """The first operation that does not fit by itself, or the first of all."""
    for place, least in enumerate(problem.least()):
        if math.isinf(least):
            return place
    return 0
