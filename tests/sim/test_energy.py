"""Energy of buffers that a table prices by capacity."""

import csv
import math
from pathlib import Path

from bfpsim.arch import cacti, load_arch, replace
from bfpsim.mapping.mapper import best_mappings, find_mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))
LAYER = ConvLayer("conv", K=64, C=64, P=14, Q=14, R=3, S=3, padding=1)
SPLIT = load_arch("ideal-64k-split")  # I 32 KiB, W and O 16 KiB, of 128-bit words


def table(node: int, kib: int) -> dict[str, float]:
    """What the file says of 128-bit words [pJ/bit]."""
    lines = Path(cacti.__file__).with_name("cacti.csv").read_text().splitlines()
    (row,) = (
        row
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
        if (row["node_nm"], row["capacity_kib"], row["word_bits"]) == (str(node), str(kib), "128")
    )
    return {way: float(row[f"{way}_pj_per_bit"]) for way in ("read", "write")}


def test_each_tensors_buffer_has_its_own_energy_and_the_table_adds_up() -> None:
    arch = replace(SPLIT, "sram.input.energy", "cacti-45nm")
    arch = replace(arch, "sram.weight.energy", "cacti-65nm")
    result = simulate(LAYER, arch, find_mapping(LAYER, arch, BFP8), BFP8)

    prices = {"I": table(45, 32), "W": table(65, 16), "O": {"read": 0.16, "write": 0.16}}
    assert prices["W"] == {"read": 0.151, "write": 0.334}
    sram = result.traffic[result.traffic["level"] == "SRAM"]
    assert {*zip(sram["tensor"], sram["direction"], strict=True)} == {
        (tensor, way) for tensor in prices for way in ("read", "write")
    }
    for row in sram.itertuples():
        assert row.energy_pj == row.bits * prices[row.tensor][row.direction]
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
