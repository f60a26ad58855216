"""The allocation against every choice of small problems, and against what budgets mean."""

import random

import numpy as np
import pytest

from bfpsim.mapping.nest import MappingError
from bfpsim.search.bitwidth.allocation import (
    InfeasibleError,
    allocate,
    least_cost,
    least_loss,
    pareto_front,
)
from bfpsim.search.bitwidth.problem import Problem
from tests.search.bitwidth.small import every_choice, random_problem


def costs(problem: Problem) -> list[tuple[float, float]]:
    found = [(problem.loss(c), problem.cost(c)) for c in every_choice(problem)]
    return [(loss, cost) for loss, cost in found if np.isfinite(cost)]


@pytest.mark.parametrize("seed", range(40))
def test_the_allocation_is_the_least_of_all_choices(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng)
    every = costs(problem)
    if not every:
        return
    alpha, scale = rng.choice([0.0, 0.05, 0.2, 3.0]), rng.choice([1.0, 17.0])
    found = allocate(problem, alpha, scale)
    least = min(loss + alpha * cost / scale for loss, cost in every)
    assert found.objective == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert (found.loss, found.cost) == (problem.loss(found.choice), problem.cost(found.choice))
    assert found.gap <= 1e-7
    assert found.bound <= found.objective


@pytest.mark.parametrize("seed", range(40, 70))
def test_budgets_are_kept_and_used_best(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng)
    every = costs(problem)
    if not every:
        return
    most_loss = rng.choice(every)[0]
    found = least_cost(problem, most_loss, 0.0)
    assert found.loss <= most_loss + 1e-9
    assert found.cost == pytest.approx(min(c for l, c in every if l <= most_loss + 1e-12))  # noqa: E741
    most_cost = rng.choice(every)[1]
    found = least_loss(problem, most_cost, 0.0)
    assert found.cost <= most_cost * (1 + 1e-9)
    least = min(l for l, c in every if c <= most_cost * (1 + 1e-12))  # noqa: E741
    assert found.loss == pytest.approx(least, abs=1e-9)


def test_a_budget_that_nothing_meets_says_how_far_off_it_is() -> None:
    problem = random_problem(random.Random(3))
    every = costs(problem)
    least = sum(own.min() for own in problem.losses)
    problem = Problem(problem.candidates, tuple(own + 1 for own in problem.losses), problem.layers)
    with pytest.raises(
        InfeasibleError, match=r"0.5 \(50 points\): the least that any choice has is"
    ):
        least_cost(problem, 0.5)
    assert least <= min(loss for loss, _ in every)
    cheapest = min(cost for _, cost in every)
    with pytest.raises(InfeasibleError, match=f"{cheapest:.12g}, .* allowed: at least that"):
        least_loss(problem, cheapest / 2)


@pytest.mark.parametrize("seed", range(70, 90))
def test_the_front_has_every_alphas_choice_and_nothing_dominated(seed: int) -> None:
    problem = random_problem(random.Random(seed))
    every = costs(problem)
    if not every:
        return
    front = pareto_front(problem, 10.0, (), 40, 5)
    points = [(own.loss, own.cost) for own in front]
    assert points == sorted(points)
    for loss, cost in points:
        assert not any(
            (l <= loss and c < cost - 1e-9) or (l < loss - 1e-9 and c <= cost)
            for l, c in every  # noqa: E741
        )
    for alpha in (0.015, 0.05, 0.2, 1.5, 3.0, 50.0):
        least = min(loss + alpha * cost / 10 for loss, cost in every)
        best = min(loss + alpha * cost / 10 for loss, cost in points)
        assert best == pytest.approx(least, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("seed", range(90, 100))
def test_a_front_cut_short_has_the_choices_of_the_alphas_asked_for(seed: int) -> None:
    problem = random_problem(random.Random(seed))
    every = costs(problem)
    if not every:
        return
    alphas = (0.0, 0.05, 0.2, 0.7, 3.0)
    front = pareto_front(problem, 10.0, alphas, 0, 0)
    assert len(front) <= len(alphas) + 2
    for alpha in alphas:
        best = min(own.loss + alpha * own.cost / 10 for own in front)
        least = min(loss + alpha * cost / 10 for loss, cost in every)
        assert best == pytest.approx(least, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("seed", range(100, 130))
def test_budgets_where_some_combinations_are_illegal(seed: int) -> None:
    """The choice of least loss may be one of them."""
    problem = random_problem(random.Random(seed))
    for layer in problem.layers:
        layer.costs[(0,) * 3] = np.inf
    every = costs(problem)
    if not every:
        with pytest.raises(MappingError, match="in every choice of formats some layer"):
            least_cost(problem, 10.0)
        return
    least = min(loss for loss, _ in every)
    if least > 0:
        with pytest.raises(InfeasibleError, match="allowed: at least that") as caught:
            least_cost(problem, least / 2)
        assert caught.value.nearest.loss == pytest.approx(least)
    assert least_cost(problem, least).loss == pytest.approx(least)
    cheapest = min(cost for _, cost in every)
    assert least_loss(problem, cheapest).cost == pytest.approx(cheapest)
