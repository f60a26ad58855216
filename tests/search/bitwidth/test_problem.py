"""Candidates left out as dominated are not missed, and measured costs take their place."""

import numpy as np
import pytest

from bfpsim.quant.formats import candidates
from bfpsim.search.bitwidth.allocation import allocate, least_cost
from bfpsim.search.bitwidth.pricing import model_costs
from bfpsim.search.bitwidth.problem import LayerCosts, Problem, make_problem
from bfpsim.search.bitwidth.space import Space, make_space
from tests.long import often
from tests.search.bitwidth.small import block_network, every_choice, random_losses, small_arch


def whole_problem(space: Space, costs, losses) -> Problem:
    """No candidate left out."""
    every = tuple(range(len(space.formats)))
    layers = tuple(
        LayerCosts(p.name, p.tensors, costs[p.kind].prices(every, every, every) * p.repeats)
        for p in space.products
    )
    return Problem((every,) * len(space.tensors), tuple(losses), layers)


@pytest.mark.parametrize("objective", ["dram", "energy", "latency"])
@pytest.mark.parametrize("seed", often(1, [2, 0, 1]))
def test_nothing_is_lost_by_dominance(seed: int, objective: str) -> None:
    space = make_space(block_network(), candidates(8)[::3], tied=seed != 2)
    arch = small_arch(3000 + 700 * seed)
    costs = [model_costs(k, arch, space.formats, objective)["exact"] for k in space.kinds]
    losses = random_losses(space, seed)
    thin, whole = make_problem(space, costs, losses), whole_problem(space, costs, losses)
    assert sum(map(len, thin.candidates)) < sum(map(len, whole.candidates))
    scale = whole.cost([0] * len(space.tensors))
    for alpha in (0.02, 0.3):
        a, b = allocate(thin, alpha, scale), allocate(whole, alpha, scale)
        assert a.objective == pytest.approx(b.objective, rel=1e-9)
    budget = 1.5 * float(sum(own.min() for own in losses))
    thin_cost, whole_cost = (least_cost(own, budget, 0.0).cost for own in (thin, whole))
    assert thin_cost == pytest.approx(whole_cost, rel=1e-9)


def test_a_choices_loss_cost_and_formats() -> None:
    space = make_space(block_network(), candidates(8)[:2])
    costs = [model_costs(k, small_arch(), space.formats, "dram")["exact"] for k in space.kinds]
    losses = random_losses(space, 1)
    problem = make_problem(space, costs, losses)
    for choice in every_choice(problem)[:4]:
        formats = problem.formats(choice)
        assert problem.loss(choice) == pytest.approx(
            sum(losses[t, f] for t, f in enumerate(formats))
        )
        total = sum(costs[p.kind].best(*p.places(formats))[0] for p in space.products)
        assert problem.cost(choice) == total


def test_measured_costs_replace_prices_and_raise_the_others() -> None:
    space = make_space(block_network(), candidates(8)[:3])
    costs = [model_costs(k, small_arch(), space.formats, "latency")["exact"] for k in space.kinds]
    losses = random_losses(space, 0)
    before = make_problem(space, costs, losses)
    product, layer = space.products[1], before.layers[1]
    own = tuple(before.candidates[t][0] for t in product.tensors)
    price = layer.costs[0, 0, 0]
    after = make_problem(space, costs, losses, {(product.kind, own): 2 * price})
    assert after.layers[1].costs[0, 0, 0] == 2 * price
    others = np.ones(layer.costs.shape, bool)
    others[0, 0, 0] = False
    assert np.array_equal(after.layers[1].costs[others], 2 * layer.costs[others])
    assert np.array_equal(after.layers[0].costs, before.layers[0].costs)
