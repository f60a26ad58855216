"""The whole search: prices by every model, the choice that each leads to, and their simulations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from bfpsim.arch import Arch, ArchSource, dump_arch, load_arch
from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.objective import Objective
from bfpsim.objects import brief
from bfpsim.quant.formats import Format, LayerFormats, candidates
from bfpsim.search.bitwidth.allocation import (
    Allocation,
    InfeasibleError,
    cost_missed,
    loss_missed,
    pareto_front,
    relative_gap,
)
from bfpsim.search.bitwidth.costs import Costs, mapping_of, mapping_record, packed, unpacked
from bfpsim.search.bitwidth.pricing import Model, model_costs, pool_costs
from bfpsim.search.bitwidth.problem import make_losses, make_problem, no_losses
from bfpsim.search.bitwidth.refinement import (
    Choice,
    Refinement,
    Simulations,
    best_in,
    refine,
    seed_mappings,
)
from bfpsim.search.bitwidth.space import Space, make_space
from bfpsim.search.bitwidth.target import (
    CostBudget,
    LossBudget,
    Target,
    Tradeoff,
    front_alphas,
    nearest,
)
from bfpsim.search.crew import Run
from bfpsim.search.crew import workers as processes
from bfpsim.search.store import Stages, open_stages
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.quant.study.sensitivity import Sensitivity

Cost = Literal["simulated", "exact", "paper"]


@dataclass(frozen=True)
class Proposal:
    """A choice, and what it loses and costs.

    cost: the prices that led to it
    loss: Acc_loss, predicted
    predicted: DM_sum by those prices: DRAM bits, pJ or cycles; simulated: by the simulator
    dm_max: DM_sum of the candidate that moves most, one format for all tensors, by those prices
    value: what was made least, by those prices; bound: what no choice is below at those prices
    """

    cost: Cost
    choice: Choice
    loss: float
    predicted: float
    simulated: float
    dm_max: float
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """The fraction by which the value may be above the least one at these prices."""
        return relative_gap(self.value, self.bound)

    @property
    def error(self) -> float:
        """The fraction by which the prices were off: predicted / simulated - 1."""
        return self.predicted / self.simulated - 1


@brief
@dataclass(frozen=True)
class SearchResult:
    """The result of a search: what it proposes, and the front.

    proposals: the choice that each kind of price leads to, `simulated` first
    front: choices that no other one beats in both loss and cost at the simulated prices, by
        ascending loss: what each of `front_alphas` leads to, and other alphas until there are
        `POINTS`; and some between, where no alpha leads, if asked for
    floor: what no value is below, whatever the formats and mappings of the whole space: payload
        alone, over the simulated dm_max
    rounds, simulations: solutions of the allocation, and layers simulated, until it was stable
    """

    space: Space
    arch: Arch
    objective: Objective
    target: Target
    proposals: tuple[Proposal, ...]
    front: tuple[Proposal, ...]
    floor: float
    rounds: int
    simulations: int

    def by(self, cost: Cost) -> Proposal:
        """The proposal of one kind of price."""
        return next(own for own in self.proposals if own.cost == cost)

    def at(self, alpha: float) -> Proposal:
        """The choice of the front that is best by Eq. 1 with this alpha.

        No other choice is better at the front's prices if it is one of `front_alphas`.
        """
        return min(self.front, key=lambda own: own.loss + alpha * own.simulated / own.dm_max)

    def formats(self, proposal: Proposal) -> dict[str, LayerFormats]:
        """A choice's formats by layer."""
        return self.space.layer_formats(proposal.choice.formats)

    def value(self, proposal: Proposal) -> float:
        """The value that was to be made least, of a choice as simulated."""
        scale = self.by("simulated").dm_max
        return self.target.value(proposal.loss, proposal.simulated, scale)

    def gap(self, proposal: Proposal) -> float:
        """The fraction by which a choice's value may be above the least at simulated prices."""
        return relative_gap(self.value(proposal), self.by("simulated").bound)

    def comparison(self) -> pd.DataFrame:
        """A row per kind of price: was the model good enough?

        Columns: cost, loss, predicted, simulated, error (predicted / simulated - 1), value
        (simulated), excess (simulated cost above that of the search with simulated prices, as a
        fraction), other_formats (stored tensors that have another format than there), gap.
        """
        import pandas as pd

        best = self.by("simulated")
        return pd.DataFrame(
            {
                "cost": own.cost,
                "loss": own.loss,
                "predicted": own.predicted,
                "simulated": own.simulated,
                "error": own.error,
                "value": self.value(own),
                "excess": own.simulated / best.simulated - 1,
                "other_formats": sum(
                    a != b for a, b in zip(own.choice.formats, best.choice.formats, strict=True)
                ),
                "gap": own.gap,
            }
            for own in self.proposals
        )


POINTS = 32
"""Choices of the front's hull at which no more are looked for."""

_SEEDS = 3

_BATCH = 16
"""Kinds of layers that are priced at a time, and then kept."""


def search_network(
    network: NetworkSource,
    arch: ArchSource,
    *,
    bits: int = 8,
    also: Sequence[Format] = (),
    target: Target | None = None,
    objective: Objective = "energy",
    sensitivity: Sensitivity | None = None,
    loss_per_nat: float = 1.0,
    tied: bool = True,
    workers: int = 1,
    store: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    between: int = 0,
) -> SearchResult:
    """Choose a format of BitQ's Table 2 for every stored tensor, and a mapping for every layer.

    bits: 16 or 8
    also: formats to choose from beside those, as MX and NVFP4
    target: `Tradeoff(alpha)` (Eq. 1, the default with 0.2), `LossBudget` or `CostBudget`
    objective: what movement is measured in: "dram" bits, "energy" [pJ] or "latency" [cycles]
    sensitivity: what formats cost in accuracy (`measure_sensitivity`); without it movement alone
        is searched
    loss_per_nat: top-1 lost per nat of the table's divergences
    tied: a stored tensor has one format, for whoever reads or writes it
    store: file of finished stages, to go on from after a stop
    between: choices of the front to look for where no alpha leads, each a budget's proof

    Raises FormatError for other bits or a table that lacks a tensor or format, MappingError if a
    layer fits in no format, InfeasibleError for a budget that nothing meets, StoreError.
    """
    network = load_workload(network)
    arch = load_arch(arch)
    space = make_space(network, tuple(dict.fromkeys((*candidates(bits), *also))), tied=tied)
    losses = no_losses(space)
    if sensitivity is not None:
        losses = make_losses(space, sensitivity, loss_per_nat)
    aim = target or Tradeoff()
    with open_stages(store) as stages, processes(workers) as run:
        return search_formats(space, arch, losses, aim, objective, run, stages, progress, between)


def search_formats(
    space: Space,
    arch: Arch,
    losses: Values,
    target: Target,
    objective: Objective,
    run: Run,
    stages: Stages,
    progress: Callable[[str], None] | None = None,
    between: int = 0,
) -> SearchResult:
    """Choose a format for every stored tensor, and a mapping for every layer.

    losses: Acc_loss by stored tensor and format (`search.bitwidth.losses`)
    objective: DM_sum is "dram" bits, "energy" of both levels [pJ], or "latency" [cycles]
    stages: what is finished is taken from there, and kept there
    progress: called with what was done
    between: choices of the front to look for where no alpha leads, each a budget's proof

    Raises MappingError if a layer has no legal mapping in any format, InfeasibleError for a budget
    that nothing meets.
    """
    if objective == "edp":
        raise ValueError("objective='edp'; allowed: dram, energy, latency")
    tell = progress or (lambda _: None)
    search = _Search(space, arch, losses, target, objective, run, stages, tell, between)
    deciding = (space, dump_arch(arch), losses.tolist(), target, objective, between)
    record = stages.once("search", deciding, lambda: _to_record(search.all()))
    return _from_record(space, arch, objective, target, record)


class _Search:
    """One search, from prices to the comparison."""

    def __init__(
        self,
        space: Space,
        arch: Arch,
        losses: Values,
        target: Target,
        objective: Objective,
        run: Run,
        stages: Stages,
        progress: Callable[[str], None],
        between: int,
    ) -> None:
        self._space, self._arch, self._losses, self._target = space, arch, losses, target
        self._objective, self._run, self._stages, self._progress = objective, run, stages, progress
        self._between = between
        self._inside = len(arch.levels) > 2  # prices of all mappings are bounds, no model's
        self._simulations = Simulations(space, arch, objective)

    def all(self) -> SearchResult:
        """Every kind of price, and what it leads to."""
        priced = self._prices()
        exact = priced["exact"]
        largest = self._largest(exact)
        payload = make_problem(self._space, exact, self._losses)
        by_models: tuple[Proposal, ...] = ()
        if not self._inside:
            by_models = tuple(self._by_model(own, priced[own]) for own in get_args(Model))
        refined, dm_max = self._refine(exact, largest, [own.choice for own in by_models])
        if self._inside:
            by_models = tuple(self._of_pools(own, refined.pools) for own in get_args(Model))
        floor = self._target.bound(self._target.solve(payload, dm_max), dm_max)
        # Of the latency no closed form is sure, so its floor is the only bound.
        sure = self._objective != "latency"
        bound = self._target.bound(refined.allocation, dm_max) if sure else floor
        front = self._front(refined, dm_max)
        choices = [refined.choice, *(own.choice for own in (*front, *by_models))]
        if not sure:
            choices += self._others(refined, exact, dm_max)
        simulated = min(
            (self._proposal("simulated", choice, bound, dm_max) for choice in choices),
            key=lambda own: own.value,
        )
        if math.isinf(simulated.value):
            raise InfeasibleError(self._message(refined.allocation), refined.allocation)
        return SearchResult(
            self._space,
            self._arch,
            self._objective,
            self._target,
            (simulated, *by_models),
            front,
            floor,
            refined.rounds,
            self._simulations.count,
        )

    def _prices(self) -> dict[Model, list[Costs]]:
        """Prices of every kind of layer by each model, those kept not made again."""
        space, arch, objective, stages = self._space, self._arch, self._objective, self._stages
        deciding = [(kind, dump_arch(arch), space.formats, objective) for kind in space.kinds]
        missing = [at for at, own in enumerate(deciding) if not stages.has("costs", own)]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            made = self._run(
                model_costs, [(space.kinds[at], arch, space.formats, objective) for at in batch]
            )
            for at, costs in zip(batch, made, strict=True):
                stages.put(
                    "costs", deciding[at], {model: packed(own) for model, own in costs.items()}
                )
            self._progress(f"priced {min(start + _BATCH, len(missing))} of {len(missing)} layers")
        kept = [stages.get("costs", own) for own in deciding]
        return {
            model: [
                unpacked(record[model], kind, arch, space.formats, objective)
                for kind, record in zip(space.kinds, kept, strict=True)
            ]
            for model in get_args(Model)
            if model in kept[0]
        }

    def _uniform(self, costs: Sequence[Costs], fmt: int) -> float:
        """DM_sum with one format for everything; infinite if a layer has no legal mapping then."""
        try:
            return sum(
                costs[p.kind].best(fmt, fmt, fmt)[0] * p.repeats for p in self._space.products
            )
        except MappingError:
            return float("inf")

    def _largest(self, costs: Sequence[Costs]) -> int:
        """The format that moves most if all tensors have it."""
        totals = [self._uniform(costs, f) for f in range(len(self._space.formats))]
        finite = [f for f, total in enumerate(totals) if np.isfinite(total)]
        if not finite:
            raise MappingError(
                f"{self._space.network}: no candidate format lets every layer fit "
                f"{self._arch.name}; allowed: a larger buffer"
            )
        return max(finite, key=lambda f: totals[f])

    def _refine(
        self, exact: Sequence[Costs], largest: int, others: Sequence[Choice]
    ) -> tuple[Refinement, float]:
        """The simulated search; where one format for all may be better still, with its mappings.

        others: choices whose mappings are tried too
        """
        space, arch, objective, run = self._space, self._arch, self._objective, self._run
        spread = np.linspace(0, len(space.formats) - 1, _SEEDS).astype(int).tolist()
        seeds = list(dict.fromkeys([largest, *spread]))
        pools = seed_mappings(space, arch, objective, seeds, run)
        if not all(pools):
            kind = space.kinds[pools.index([])]
            raise MappingError(
                f"{space.network}: a layer of {kind.macs} multiplications has no mapping that fits "
                f"{arch.name} inside SRAM; allowed: larger levels"
            )
        dm_max = sum(
            self._simulations.cost(p.kind, (largest,) * 3, pools[p.kind][0]) * p.repeats
            for p in space.products
        )
        for p, choice in product(space.products, others):
            pools[p.kind].append(choice.mappings[p.name])
        while True:
            refined = refine(
                space,
                arch,
                objective,
                self._losses,
                pools,
                lambda problem: nearest(self._target, problem, dm_max),
                self._simulations,
                run,
                self._progress,
            )
            value = self._target.value(refined.allocation.loss, refined.allocation.cost, dm_max)
            rivals = [f for f in self._rivals(exact, dm_max, value) if f not in seeds]
            if not rivals:
                return refined, dm_max
            seeds += rivals
            extra = seed_mappings(space, arch, objective, rivals, run)
            pools = [own + new for own, new in zip(refined.pools, extra, strict=True)]

    def _rivals(self, exact: Sequence[Costs], dm_max: float, value: float) -> list[int]:
        """Formats that, for all tensors at once, payload does not rule out to be better.

        None with levels inside SRAM: bounds there are too loose to rule out much.
        """
        if self._inside:
            return []
        loss = self._losses.sum(axis=0)
        return [
            f
            for f in range(len(self._space.formats))
            if self._target.value(float(loss[f]), self._uniform(exact, f), dm_max) < value
        ]

    def _of_pools(self, model: Model, pools: Sequence[Sequence[Tiling]]) -> Proposal:
        """The proposal of a model's prices of some mappings."""
        space, own = self._space, (self._arch, self._space.formats, self._objective)
        each = zip(space.kinds, pools, strict=True)
        costs = self._run(pool_costs, [(kind, *own, tuple(pool), model) for kind, pool in each])
        return self._by_model(model, costs)

    def _by_model(self, model: Model, costs: Sequence[Costs]) -> Proposal:
        """The proposal of a model's prices."""
        dm_max = self._uniform(costs, self._largest(costs))
        problem = make_problem(self._space, costs, self._losses)
        # Payload is a lower bound: what it cannot meet nothing can. The paper's model is none.
        sure = model == "exact" and not self._inside
        solve = self._target.solve if sure else partial(nearest, self._target)
        allocation = solve(problem, dm_max)
        formats = problem.formats(allocation.choice)
        choice = Choice(formats, best_in(self._space, costs, formats))
        self._progress(f"chosen by the {model} model")
        return Proposal(
            model,
            choice,
            allocation.loss,
            allocation.cost,
            self._simulations.total(choice),
            dm_max,
            self._target.value(allocation.loss, allocation.cost, dm_max),
            self._target.bound(allocation, dm_max),
        )

    def _proposal(self, cost: Cost, choice: Choice, bound: float, dm_max: float) -> Proposal:
        total = self._simulations.total(choice)
        loss = float(sum(self._losses[t, f] for t, f in enumerate(choice.formats)))
        value = self._target.value(loss, total, dm_max)
        return Proposal(cost, choice, loss, total, total, dm_max, value, min(bound, value))

    def _others(self, refined: Refinement, exact: Sequence[Costs], dm_max: float) -> list[Choice]:
        """Choices on the way, and one format for all tensors where that may be better."""
        value = self._target.value(refined.allocation.loss, refined.allocation.cost, dm_max)
        rivals = [(f,) * len(self._space.tensors) for f in self._rivals(exact, dm_max, value)]
        choices = []
        for formats in dict.fromkeys((*refined.tried, *rivals)):
            try:
                choices.append(self._simulations.choice(formats, refined.costs))
            except MappingError:
                continue
        return choices

    def _message(self, allocation: Allocation) -> str:
        """Say that payload alone meets a budget, and nothing that was simulated does."""
        if isinstance(self._target, LossBudget):
            return loss_missed(self._target.most, allocation.loss, "was found")
        if isinstance(self._target, CostBudget):
            return cost_missed(self._target.most, allocation.cost, "was found")
        return f"{self._space.network}: nothing that was found is legal; allowed: a larger buffer"

    def _front(self, refined: Refinement, dm_max: float) -> tuple[Proposal, ...]:
        front = []
        alphas = front_alphas(self._target)
        for allocation in pareto_front(refined.problem, dm_max, alphas, POINTS, self._between):
            formats = refined.problem.formats(allocation.choice)
            choice = self._simulations.choice(formats, refined.costs)
            front.append(self._proposal("simulated", choice, -math.inf, dm_max))
        self._progress(f"front of {len(front)} choices")
        return tuple(front)


def _to_record(result: SearchResult) -> dict[str, object]:
    def record(proposal: Proposal) -> dict[str, object]:
        mappings = proposal.choice.mappings.items()
        plain = {name: mapping_record(mapping) for name, mapping in mappings}
        choice = {"formats": proposal.choice.formats, "mappings": plain}
        return asdict(replace(proposal, choice=Choice((), {}))) | {"choice": choice}

    return {
        "proposals": [record(own) for own in result.proposals],
        "front": [record(own) for own in result.front],
        "floor": result.floor,
        "rounds": result.rounds,
        "simulations": result.simulations,
    }


def _from_record(
    space: Space, arch: Arch, objective: Objective, target: Target, kept: dict[str, object]
) -> SearchResult:
    def proposal(record: dict[str, object]) -> Proposal:
        choice = cast("dict[str, object]", record["choice"])
        mappings = cast("dict[str, dict[str, object]]", choice["mappings"])
        made = Choice(
            tuple(cast("list[int]", choice["formats"])),
            {name: mapping_of(one) for name, one in mappings.items()},
        )
        return Proposal(**(record | {"choice": made}))  # type: ignore[arg-type]

    return SearchResult(
        space,
        arch,
        objective,
        target,
        tuple(proposal(one) for one in cast("list[dict[str, object]]", kept["proposals"])),
        tuple(proposal(one) for one in cast("list[dict[str, object]]", kept["front"])),
        cast(float, kept["floor"]),
        cast(int, kept["rounds"]),
        cast(int, kept["simulations"]),
    )
