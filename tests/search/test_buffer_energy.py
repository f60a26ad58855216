"""A price that grows with the buffer changes which buffer is the best."""

import math

import numpy as np
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.buffers import constant_prices, sweep_capacity
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import NetworkBuilder


def test_the_largest_buffer_is_the_best_only_by_a_constant() -> None:
    build = NetworkBuilder("tiny", input_shape=(1, 28, 28, 64))
    build.conv("conv", "input", 128, kernel=3, padding=1)
    network, formats = build.network(), LayerFormats.uniform(BFP(8, 3, 16))
    capacities = ["16 KiB", "64 KiB", "256 KiB", "1 MiB"]
    sweeps = {
        energy: sweep_capacity(
            network, replace(load_arch("ideal-64k"), "sram.energy", energy), formats, capacities
        )
        for energy in ("0.16 pJ/bit", "cacti-45nm")
    }
    constant, table = sweeps.values()

    moved = [column for column in constant if "energy" not in column and "_pj" not in column]
    assert constant[moved].equals(table[moved])
    assert constant["dram_energy_pj"].equals(table["dram_energy_pj"])
    # Reads and writes by CACTI at 45 nm, 128-bit words; traffic by direction, simulated apart.
    prices = ((0.084, 0.181), (0.307, 0.282), (0.595, 0.497), (1.20, 1.01))
    for capacity, price, total in zip(capacities, prices, table["sram_energy_pj"], strict=True):
        sized = replace(load_arch("ideal-64k"), "sram.capacity", capacity)
        counts = simulate_layers(network, sized, formats).layers[0].counts
        moved = [counts.total("SRAM", direction=way) for way in ("read", "write")]
        assert total == pytest.approx(math.fsum(np.multiply(moved, price)), rel=1e-12)
    assert constant["energy"].tolist() == ["0.16 pJ/bit"] * 4
    assert {*constant["read_pj"], *constant["write_pj"]} == {0.16}
    assert [*zip(table["read_pj"], table["write_pj"], strict=True)] == list(prices)
    assert table["all_energy_pj"].equals(table["energy_pj"])
    assert constant["energy_pj"].idxmin() >= 2
    assert table["energy_pj"].idxmin() < 2


def test_a_memory_is_named_if_some_of_its_sizes_have_the_same_price() -> None:
    edge = load_arch("ideal-64k")
    acc = {"name": "acc", "tensors": ["O"], "capacity": "4 KiB"}
    deep = replace(edge, "levels", [acc])
    larger = [replace(deep, f"{part}.capacity", "1 MiB") for part in ("sram", "levels.acc")]
    assert constant_prices([edge, edge]) == ()
    assert constant_prices([deep, larger[0]]) == ("SRAM",)
    assert constant_prices([deep, larger[1]]) == ("acc",)
    assert constant_prices([deep, *larger]) == ("SRAM", "acc")
    for energy in ("cacti-45nm", "0.2 pJ/bit"):
        assert constant_prices([deep, replace(larger[0], "sram.energy", energy)]) == ()
    apart = {"read": "0.16 pJ/bit", "write": "0.1 pJ/bit"}
    assert constant_prices([deep, replace(larger[0], "sram.energy", apart)]) == ()
