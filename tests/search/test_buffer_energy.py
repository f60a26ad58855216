"""A price that grows with the buffer changes which buffer is the best."""

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.buffers import sweep_capacity
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
    for share, price in zip(
        table["sram_energy_pj"] / constant["sram_energy_pj"],
        (0.084, 0.307, 0.595, 1.20),
        strict=True,
    ):
        assert abs(share - price / 0.16) < 1e-12
    assert constant["energy_pj"].idxmin() >= 2
    assert table["energy_pj"].idxmin() < 2
