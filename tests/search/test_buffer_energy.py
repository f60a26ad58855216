"""A price that grows with the buffer changes which buffer is the best."""

import math

import numpy as np
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.buffers import sweep_capacity
from bfpsim.sim.simulate import simulate_network
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

    moved = [column for column in constant if "energy" not in column]
    assert constant[moved].equals(table[moved])
    assert constant["dram_energy_pj"].equals(table["dram_energy_pj"])
    # Reads and writes by CACTI at 45 nm, 128-bit words; traffic by direction, simulated apart.
    prices = ((0.084, 0.181), (0.307, 0.282), (0.595, 0.497), (1.20, 1.01))
    for capacity, price, total in zip(capacities, prices, table["sram_energy_pj"], strict=True):
        sized = replace(load_arch("ideal-64k"), "sram.capacity", capacity)
        counts = simulate_network(network, sized, formats).layers[0].counts
        moved = [counts.total("SRAM", direction=way) for way in ("read", "write")]
        assert total == pytest.approx(math.fsum(np.multiply(moved, price)), rel=1e-12)
    assert constant["energy_pj"].idxmin() >= 2
    assert table["energy_pj"].idxmin() < 2
