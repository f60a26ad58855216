"""Mappings chosen by simulation: the best few of a model, run, and the best of those kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import overload

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.mapper import Model, best_mappings
from bfpsim.mapping.nest import Mapping
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.sources import FormatsSource, formats_by_layer
from bfpsim.quant.formats import FormatSource, LayerFormats, layer_formats
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer, NetworkSource, load_workload


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


@overload
def find_mapping(
    layer: ConvLayer,
    arch: ArchSource,
    formats: FormatSource,
    *,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    constraints: Constraints = FREE,
) -> Mapping: ...
@overload
def find_mapping(
    layer: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    *,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    constraints: Constraints = FREE,
) -> dict[str, Mapping]: ...
def find_mapping(
    layer: ConvLayer | NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    *,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    constraints: Constraints = FREE,
) -> Mapping | dict[str, Mapping]:
    """The best legal mapping of a layer, or of each layer of a network by its name.

    layer, arch, formats: themselves, or what stands for them (`simulate`)
    objective: least "dram" bits, "energy" (Eq. 8), "latency" or "edp" (energy x cycles)
    model: "exact", to a proven optimum, or "full", which counts whole bursts; cycles always do
    rescore: simulate that many of the model's best and take the one with the least simulated cost
    constraints: what the mapping must keep to: the best of those that do

    Raises MappingError if no mapping is legal: which buffer is short, by how many bits, and the
    smallest capacity that would do; or which constraint leaves nothing.
    """
    arch = load_arch(arch)
    if not isinstance(layer, ConvLayer):
        network = load_workload(layer)
        chosen = formats_by_layer(formats, network)
        known: dict[object, Mapping] = {}
        found = {}
        for own in network.layers:
            of_layer = chosen if isinstance(chosen, LayerFormats) else chosen[own.name]
            key = replace(own, name="layer"), of_layer
            if key not in known:
                known[key] = find_mapping(
                    own, arch, of_layer, objective=objective, model=model, rescore=rescore,
                    constraints=constraints,
                )  # fmt: skip
            found[own.name] = known[key]
        return found
    formats = layer_formats(formats)
    if rescore is None:
        return best_mappings(layer, arch, formats, 1, objective, model, constraints)[0].mapping
    return rescored(layer, arch, formats, rescore, objective, model, constraints).chosen


def rescored(
    layer: ConvLayer,
    arch: ArchSource,
    formats: FormatSource,
    count: int,
    objective: Objective = "dram",
    model: Model = "exact",
    constraints: Constraints = FREE,
) -> Rescored:
    """Simulate the model's `count` best mappings; ties go to the model's order."""
    arch = load_arch(arch)
    formats = layer_formats(formats)
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
