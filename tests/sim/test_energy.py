"""Energy of buffers that a table prices by capacity."""

import csv
import math
from fractions import Fraction
from pathlib import Path

import pytest

from bfpsim.arch import cacti, load_arch, replace, replace_all
from bfpsim.mapping.mapper import best_mappings, find_mapping
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.simulate import simulate, simulate_layers
from bfpsim.workloads import ConvLayer, load_workload

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


PRICES = {
    "pe_array.mac_energy": {4: "0.0625 pJ", 8: "0.25 pJ"},
    "sram.weight.leakage": "cacti-45nm",
    "dram.background": "10 mW",
}


@pytest.mark.parametrize(
    ("formats", "passes", "price"),
    [
        (BFP8, 1, Fraction(1, 4)),  # 5-bit significands
        (LayerFormats.uniform(BFP(8, 4, 16)), 1, Fraction(1, 16)),  # 4 bits
        (LayerFormats.uniform(Plain(32)), 9, Fraction(1, 4)),  # 24 bits in three pieces each
        (LayerFormats(BFP(8, 4, 16), Plain(16), BFP(8, 4, 16)), 2, Fraction(1, 4)),  # 4 and 11
    ],
)
def test_a_run_is_priced_part_by_part(formats: LayerFormats, passes: int, price: Fraction) -> None:
    arch = replace_all(SPLIT, PRICES)
    result = simulate(LAYER, arch, find_mapping(LAYER, arch, formats), formats)
    parts = {(p.part, p.where, p.direction): p.energy_pj for p in result.energy.parts}
    by_way = result.traffic.groupby(["level", "direction"])["energy_pj"]
    moved = {("movement", *key): math.fsum(own) for key, own in by_way}
    leakage = Fraction("0.000498") / 1000  # 16 KiB of 128-bit words at 45 nm [W]
    seconds = Fraction(result.cycles, 500_000_000)
    assert parts == moved | {
        ("macs", "PE array", ""): float(64 * 64 * 14 * 14 * 9 * passes * price),
        ("leakage", "SRAM W", ""): float(leakage * seconds * 10**12),
        ("background", "DRAM", ""): float(Fraction(10, 1000) * seconds * 10**12),
    }
    assert result.energy.movement_pj == result.energy_pj == math.fsum(result.traffic["energy_pj"])
    rest = [own for (part, _, _), own in parts.items() if part != "movement"]
    assert result.energy.all_pj == math.fsum([*result.traffic["energy_pj"], *rest])


def test_a_network_costs_what_its_layers_do() -> None:
    arch = replace_all(load_arch("ideal-64k"), {"sram.leakage": "1 mW"})
    network = load_workload("resnet18-fashion")
    result = simulate_layers(network, arch, BFP8)
    assert result.energy.movement_pj == result.energy_pj == math.fsum(result.traffic["energy_pj"])
    (leakage,) = (part.energy_pj for part in result.energy.parts if part.part == "leakage")
    assert leakage == float(Fraction(result.cycles, 500_000_000) * 10**9)
    layers = math.fsum(layer.energy.all_pj for layer in result.layers)
    assert result.energy.all_pj == pytest.approx(layers, rel=1e-12)


def test_what_is_priced_beyond_movement_changes_nothing_else() -> None:
    arch = replace_all(SPLIT, PRICES)
    mapping = find_mapping(LAYER, SPLIT, BFP8, objective="energy")
    assert find_mapping(LAYER, arch, BFP8, objective="energy") == mapping
    plain, priced = (simulate(LAYER, own, mapping, BFP8) for own in (SPLIT, arch))
    assert (priced.counts, priced.cycles) == (plain.counts, plain.cycles)
    assert priced.energy_pj == plain.energy_pj == plain.energy.all_pj < priced.energy.all_pj
    assert not any(part.part != "movement" for part in plain.energy.parts)
