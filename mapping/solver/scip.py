"""SCIP through Pyomo; both are imported only where a model is built or solved."""

from __future__ import annotations

from typing import Any

Outcome = tuple[dict[str, Any] | None, float, float, str]
"""Of a tiling model: the point by dimension (None without one), its objective and the bound [bit],
and the status: "optimal", "infeasible", "time limit" or SCIP's other reason to stop."""

FEASIBILITY = 1e-9
"""SCIP's feasibility tolerance: a thousandth of its default, for buffers are filled to the bit."""


def run_scip(model: Any, seconds: float) -> tuple[float, float, str]:
    """Solve in place; (objective, bound, status). The objective is infinite without a solution.

    seconds: wall-clock limit
    """
    from pyomo.contrib.solver.common.factory import SolverFactory
    from pyomo.contrib.solver.common.results import TerminationCondition

    results = SolverFactory("scip_direct").solve(
        model,
        time_limit=max(seconds, 1e-3),
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        solver_options={"numerics/feastol": FEASIBILITY},
    )
    status = {
        TerminationCondition.convergenceCriteriaSatisfied: "optimal",
        TerminationCondition.provenInfeasible: "infeasible",
        TerminationCondition.maxTimeLimit: "time limit",
    }.get(results.termination_condition, results.termination_condition.name)
    objective = results.incumbent_objective
    if objective is None:
        return float("inf"), results.objective_bound, status
    results.solution_loader.load_vars()
    return objective, results.objective_bound, status
