"""Mapping and size-only simulation of every shipped network: ``python -m benchmarks.networks``.

Layers that are equal but for their names are mapped and simulated once.
"""

import sys
import time

from bfpsim.arch import load_arch
from bfpsim.mapping.mapper import find_mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import load_workload, names


def main(chosen: list[str]) -> None:
    """Print a row per network: its size, and what mapping and simulating it takes."""
    arch, formats = load_arch("ideal-64k"), LayerFormats.uniform(BFP(8, 3, 16))
    print("Every shipped network on ideal-64k, bfp8; mappings with bursts counted (model full)")
    print(
        f"  {'network':26}{'layers':>7}{'distinct':>9}{'GMAC':>11}{'map [s]':>9}"
        f"{'simulate [s]':>13}{'steps':>13}{'DRAM [Gbit]':>12}{'energy [mJ]':>12}"
    )
    for name in chosen or names():
        network = load_workload(name)
        start = time.perf_counter()
        found = {
            layer: find_mapping(layer, arch, formats, model="full")
            for layer, _ in network.unique_layers
        }
        mapped = time.perf_counter()
        by_kind = {_kind(layer): mapping for layer, mapping in found.items()}
        mappings = {layer.name: by_kind[_kind(layer)] for layer in network.layers}
        result = simulate_layers(network, arch, formats, mappings)
        done = time.perf_counter()
        dram = sum(int(layer.counts.total("DRAM")) for layer in result.layers)
        print(
            f"  {name:26}{len(network.layers):>7}{result.simulations:>9}{network.macs / 1e9:>11.3f}"
            f"{mapped - start:>9.1f}{done - mapped:>13.1f}"
            f"{sum(layer.steps // layer.repeats for layer in result.layers):>13,}"
            f"{dram / 1e9:>12.3f}{result.energy_pj / 1e9:>12.2f}",
            flush=True,
        )


def _kind(layer):
    return (*layer.dims.values(), layer.strides, layer.paddings, layer.dilations,
            layer.height, layer.width)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
