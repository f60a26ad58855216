"""Choosing by simulation: never worse than trusting the model, and worth it where bursts bite."""

import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.mappings import map_network
from bfpsim.search.rescore import find_mapping, rescored
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer, load_workload

ARCH, FORMATS = load_arch("ideal-64k"), LayerFormats.uniform(BFP(8, 3, 16))
LAYER = ConvLayer("deep", K=64, C=128, P=7, Q=7, R=3, S=3, padding=1)
SMALL = load_arch("ideal-16k")


def cost(mapping, objective: str) -> float:
    result = simulate(LAYER, SMALL, mapping, FORMATS)
    return {
        "dram": result.counts.total("DRAM"),
        "energy": result.energy_pj,
        "latency": result.cycles,
    }[objective]


@pytest.mark.parametrize("objective", ["dram", "energy", "latency"])
def test_the_least_simulated_of_the_k_best_is_chosen(objective: str) -> None:
    found = best_mappings(LAYER, SMALL, FORMATS, 6, objective)
    costs = [cost(one.mapping, objective) for one in found]
    chosen = rescored(LAYER, SMALL, FORMATS, 6, objective)
    assert chosen.cost == min(costs)
    assert chosen.chosen == found[costs.index(min(costs))].mapping
    assert chosen.rank == costs.index(min(costs))
    assert (chosen.trusted, chosen.trusted_cost) == (found[0].mapping, costs[0])
    assert chosen.regret == costs[0] / min(costs) - 1
    assert find_mapping(LAYER, SMALL, FORMATS, objective=objective, rescore=6) == chosen.chosen
    assert find_mapping(LAYER, SMALL, FORMATS, objective=objective) == found[0].mapping


def test_trusting_the_payload_model_can_cost_several_times_the_traffic() -> None:
    """Narrow C tiles cut the packed weights into runs far shorter than a burst."""
    layer = load_workload("resnet18").layers[16]
    chosen = rescored(layer, ARCH, FORMATS, 10)
    assert layer.name == "layer4.0.conv2"
    assert chosen.regret > 1
    full = best_mappings(layer, ARCH, FORMATS, 1, "dram", "full")[0]
    assert full.cost < chosen.cost
    assert rescored(layer, ARCH, FORMATS, 3, "dram", "full").regret == 0


def test_a_networks_table() -> None:
    network = load_workload("resnet18-fashion")
    seen: list[str] = []
    frame = map_network(network, ARCH, FORMATS, rescore=3, progress=seen.append)
    assert list(frame["layer"]) == seen == [layer.name for layer, _ in network.unique_layers]
    assert frame["layers"].sum() == len(network.layers)
    assert (frame["regret"] >= 0).all()
    assert ((frame["rank"] == 0) == (frame["order"] + frame["tile"]).eq(
        frame["trusted_order"] + frame["trusted_tile"])).all()  # fmt: skip
    plain = map_network(network, ARCH, FORMATS)
    assert list(plain["cost"]) == list(frame["cost"])


def test_a_layer_that_fits_nowhere_is_named() -> None:
    from bfpsim.arch import replace

    with pytest.raises(MappingError, match="conv1: no mapping fits"):
        map_network(load_workload("resnet18"), replace(ARCH, "sram.capacity", "8 B"), FORMATS)
    with pytest.raises(ValueError, match="count=0; allowed"):
        rescored(LAYER, ARCH, FORMATS, 0)
