"""Mappings chosen by simulation: the best few of a model, run, and the best of those kept."""

from __future__ import annotations

from dataclasses import dataclass

from bfpsim.arch import Arch
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.mapper import Model, best_mappings
from bfpsim.mapping.nest import Mapping
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, slots=True)
class Rescored:
    """What simulating a model's best mappings says.

    chosen, cost: the mapping with the least simulated cost (DRAM bits, pJ or cycles)
    trusted, trusted_cost: the model's own first choice, and its simulated cost
    predicted: what the model said of its first choice
    rank: the chosen mapping's place in the model's order, 0 if it is the first
    simulated: how many mappings were run
    """

    chosen: Mapping
    cost: float
    trusted: Mapping
    trusted_cost: float
    predicted: float
    rank: int
    simulated: int

    @property
    def regret(self) -> float:
        """How much more the model's choice costs than the simulated one, as a fraction."""
        return self.trusted_cost / self.cost - 1


def find_mapping(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    *,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    constraints: Constraints = FREE,
) -> Mapping:
    """The best legal mapping of a layer.

    objective: least "dram" bits, "energy" (Eq. 8), "latency" or "edp" (energy x cycles)
    model: "exact", to a proven optimum, or "full", which counts whole bursts; cycles always do
    rescore: simulate that many of the model's best and take the one with the least simulated cost
    constraints: what the mapping must keep to: the best of those that do

    Raises MappingError if no mapping is legal: which buffer is short, by how many bits, and the
    smallest capacity that would do; or which constraint leaves nothing.
    """
    if rescore is None:
        return best_mappings(layer, arch, formats, 1, objective, model, constraints)[0].mapping
    return rescored(layer, arch, formats, rescore, objective, model, constraints).chosen


def rescored(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    count: int,
    objective: Objective = "dram",
    model: Model = "exact",
    constraints: Constraints = FREE,
) -> Rescored:
    """Simulate the model's `count` best mappings; ties go to the model's order."""
    found = best_mappings(layer, arch, formats, count, objective, model, constraints)
    costs = [
        simulated_cost(simulate(layer, arch, one.mapping, formats), objective) for one in found
    ]
    rank = min(range(len(found)), key=lambda i: costs[i])
    return Rescored(
        found[rank].mapping,
        costs[rank],
        found[0].mapping,
        costs[0],
        found[0].cost,
        rank,
        len(found),
    )


def simulated_cost(result: LayerResult, objective: Objective) -> float:
    """What a simulation says of an objective: DRAM bits, pJ, cycles, or pJ x cycles."""
    if objective == "dram":
        return int(result.counts.total(result.arch.levels[0].name))
    if objective == "energy":
        return result.energy_pj
    if objective == "edp":
        return result.energy_pj * result.cycles
    return result.cycles
