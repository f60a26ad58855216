"""Energy of buffers that a table prices by capacity."""

import math

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.mapper import best_mappings, find_mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))
LAYER = ConvLayer("conv", K=64, C=64, P=14, Q=14, R=3, S=3, padding=1)
SPLIT = load_arch("ideal-64k-split")  # I 32 KiB, W and O 16 KiB, of 128-bit words


def test_each_tensors_buffer_has_its_own_energy_and_the_table_adds_up() -> None:
    arch = replace(SPLIT, "sram.input.energy", "cacti-45nm")
    arch = replace(arch, "sram.weight.energy", "cacti-65nm")
    result = simulate(LAYER, arch, find_mapping(LAYER, arch, BFP8), BFP8)

    per_bit = {"I": 0.159, "W": 0.151, "O": 0.16}
    sram = result.traffic[result.traffic["level"] == "SRAM"]
    assert set(sram["tensor"]) == set(per_bit)
    for row in sram.itertuples():
        assert row.energy_pj == row.bits * per_bit[row.tensor]
    assert math.fsum(result.traffic["energy_pj"]) == result.energy_pj


def test_the_mapper_weighs_buffers_by_the_table() -> None:
    """Its price of a mapping is the simulated energy, bursts left aside."""
    arch = replace(replace(SPLIT, "dram.burst", "1 bit"), "sram.output.energy", "cacti-22nm")
    (found,) = best_mappings(LAYER, arch, BFP8, 1, "energy")
    simulated = simulate(LAYER, arch, found.mapping, BFP8).energy_pj
    assert math.isclose(found.cost, simulated, rel_tol=1e-12)
    constant = best_mappings(
        LAYER, replace(arch, "sram.output.energy", "0.16 pJ/bit"), BFP8, 1, "energy"
    )
    assert found.cost < constant[0].cost
