"""The search with simulated costs: price, allocate, simulate what was chosen, until it is stable.

A pool of mappings per kind of layer is priced in every format, whole bursts counted. Each round
solves the allocation over the pools, looks for the best mapping of every layer in its chosen
formats, and simulates it; a mapping that is new joins the pool, which lowers prices. When no round
brings anything new, every price of the choice is a simulated one. DRAM bits and energy of the pool
equal the simulator's bit for bit. Of the latency no closed form is sure: simulated values take the
place of the model's bounds as they come. For some rounds what was not simulated looks as cheap as
its kind of layer allows, so that it is tried, then as dear, so that the rounds end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isclose

from bfpsim.arch import Arch
from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats
from bfpsim.search.bitwidth.allocation import SAME, Allocation
from bfpsim.search.bitwidth.costs import Costs
from bfpsim.search.bitwidth.pricing import pool_costs
from bfpsim.search.bitwidth.problem import Problem, make_problem
from bfpsim.search.bitwidth.space import Space, Triple
from bfpsim.search.crew import Run
from bfpsim.search.rescore import simulated_cost
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer

Solve = Callable[[Problem], Allocation]

_EXPLORING = 8
"""Rounds in which what was not simulated looks cheap."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Formats for a network, and a mapping for every layer.

    formats: the place in `Space.formats` of every stored tensor
    mappings: by layer
    """

    formats: tuple[int, ...]
    mappings: Mapping[str, Tiling]


class Simulations:
    """Layers simulated so far, each combination of formats and mapping once."""

    def __init__(self, space: Space, arch: Arch, objective: Objective) -> None:
        self._space, self._arch, self._objective = space, arch, objective
        self._known: dict[tuple[int, Triple, Tiling], LayerResult] = {}

    @property
    def count(self) -> int:
        """The number of simulations."""
        return len(self._known)

    def cost(self, kind: int, formats: Triple, mapping: Tiling) -> float:
        """DRAM bits, pJ or cycles of one run of a layer."""
        key = kind, formats, mapping
        if key not in self._known:
            self._known[key] = simulate(
                self._space.kinds[kind], self._arch, mapping, self._space.formats_at(formats)
            )
        return simulated_cost(self._known[key], self._objective)

    def cheapest(self, kind: int, formats: Triple, pool: Costs) -> tuple[float, Tiling]:
        """The least cost of any mapping of a pool, whose own costs are not above the simulated.

        Raises MappingError if none is legal.
        """
        ranked = pool.ranked(*formats)
        _, mapping = next(ranked)
        least = self.cost(kind, formats, mapping)
        for bound, own in ranked:
            if bound * (1 + SAME) >= least:
                break
            cost = self.cost(kind, formats, own)
            if cost < least:
                least, mapping = cost, own
        return least, mapping

    def choice(self, formats: tuple[int, ...], pools: Sequence[Costs]) -> Choice:
        """A choice of formats, every layer with its cheapest mapping."""
        return Choice(
            formats,
            {
                p.name: self.cheapest(p.kind, p.places(formats), pools[p.kind])[1]
                for p in self._space.products
            },
        )

    def total(self, choice: Choice) -> float:
        """DM_sum of a choice, simulated: of all runs of all layers."""
        return sum(
            self.cost(p.kind, p.places(choice.formats), choice.mappings[p.name]) * p.repeats
            for p in self._space.products
        )


@dataclass(frozen=True)
class Refinement:
    """The end of the rounds.

    problem, allocation: as last solved
    choice: its formats and mappings
    tried: the formats that each round chose
    costs: by kind of layer, the pool as priced
    """

    problem: Problem
    allocation: Allocation
    choice: Choice
    costs: tuple[Costs, ...]
    tried: tuple[tuple[int, ...], ...]

    @property
    def rounds(self) -> int:
        """The number of times that the allocation was solved."""
        return len(self.tried)

    @property
    def pools(self) -> list[list[Tiling]]:
        """The mappings priced, by kind of layer."""
        return [list(own.mappings) for own in self.costs]


def best_mapping(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, objective: Objective
) -> Tiling | None:
    """The best mapping with whole bursts counted; None if none is legal."""
    try:
        return best_mappings(layer, arch, formats, 1, objective, "full")[0].mapping
    except MappingError:
        return None


def refine(
    space: Space,
    arch: Arch,
    objective: Objective,
    losses: Values,
    seeds: Sequence[Sequence[Tiling]],
    solve: Solve,
    simulations: Simulations,
    run: Run,
    progress: Callable[[str], None] | None = None,
) -> Refinement:
    """Solve and simulate until the choice is stable.

    seeds: by kind of layer, the mappings to begin with
    solve: which objective, or which budget
    progress: called with what was done

    Raises MappingError as `make_problem` and `solve` do.
    """
    pools = [list(dict.fromkeys(own)) for own in seeds]
    costs = _prices(space, arch, objective, [(k, pool) for k, pool in enumerate(pools)], run)
    searched: dict[tuple[int, Triple], Tiling] = {}
    measured: dict[tuple[int, Triple], float] = {}
    tried: list[tuple[int, ...]] = []
    while True:
        guess = min if len(tried) < _EXPLORING else max
        problem = make_problem(space, costs, losses, measured, guess)
        allocation = solve(problem)
        formats = problem.formats(allocation.choice)
        tried.append(formats)
        wanted = dict.fromkeys((p.kind, p.places(formats)) for p in space.products)
        unknown = [key for key in wanted if key not in searched]
        mappings = run(
            best_mapping,
            [(space.kinds[k], arch, space.formats_at(f), objective) for k, f in unknown],
        )
        fresh: dict[int, list[Tiling]] = {}
        for key, mapping in zip(unknown, mappings, strict=True):
            # None is the best where the pool has one that the mapper's candidates lack.
            searched[key] = mapping or costs[key[0]].best(*key[1])[1]
            kind = key[0]
            if searched[key] not in pools[kind]:
                pools[kind].append(searched[key])
                fresh.setdefault(kind, []).append(searched[key])
        added = _prices(space, arch, objective, list(fresh.items()), run)
        for kind, new in zip(fresh, added, strict=True):
            costs[kind] = costs[kind].joined(new)
        surprised = False
        for kind, own in wanted:
            predicted = costs[kind].best(*own)[0]
            cost, _ = simulations.cheapest(kind, own, costs[kind])
            if not isclose(measured.get((kind, own), predicted), cost, rel_tol=SAME):
                measured[kind, own] = cost
                surprised = True
        if progress is not None:
            progress(f"round {len(tried)}: {simulations.count} simulations")
        if not fresh and not surprised:
            break
    choice = simulations.choice(formats, costs)
    return Refinement(problem, allocation, choice, tuple(costs), tuple(tried))


def best_in(space: Space, costs: Sequence[Costs], formats: Sequence[int]) -> dict[str, Tiling]:
    """The mapping of least cost in a choice of formats, by layer."""
    return {p.name: costs[p.kind].best(*p.places(formats))[1] for p in space.products}


def seed_mappings(
    space: Space, arch: Arch, objective: Objective, formats: Sequence[int], run: Run
) -> list[list[Tiling]]:
    """The best mappings if all three tensors have each of these formats, by kind of layer."""
    keys = list(product(range(len(space.kinds)), formats))
    mappings = run(
        best_mapping,
        [(space.kinds[k], arch, space.formats_at((f, f, f)), objective) for k, f in keys],
    )
    seeds: list[list[Tiling]] = [[] for _ in space.kinds]
    for (kind, _), mapping in zip(keys, mappings, strict=True):
        if mapping is not None:
            seeds[kind].append(mapping)
    return seeds


def _prices(
    space: Space,
    arch: Arch,
    objective: Objective,
    wanted: Sequence[tuple[int, Sequence[Tiling]]],
    run: Run,
) -> list[Costs]:
    return run(
        pool_costs,
        [
            (space.kinds[k], arch, space.formats, objective, tuple(pool), "full")
            for k, pool in wanted
        ],
    )
