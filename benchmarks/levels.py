"""Mapping and simulating on machines with levels inside SRAM: ``python -m benchmarks.levels``.

Of every objective: seconds for all distinct layers of a network, what the whole network then
moves and takes in simulation, and how far the mapper's own bound is away. Bits and energy are
mapped by payload, without bursts.
"""

import argparse
import time
from dataclasses import replace

from bfpsim.arch import load_arch
from bfpsim.mapping.mapper import best_mappings
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import load_workload

MACHINES = ("edge-64k", "edge-64k-double")
OBJECTIVES = ("dram", "energy", "latency")


def main() -> None:
    """Print a table per network and machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["resnet18"])
    parser.add_argument("--machines", nargs="*", default=MACHINES)
    parser.add_argument("--objectives", nargs="*", default=OBJECTIVES)
    parser.add_argument("--format", default="bfp8")
    given = parser.parse_args()
    for network in given.networks:
        for machine in given.machines:
            table(network, machine, given.objectives, given.format)


def table(name: str, machine: str, objectives: list[str], fmt: str) -> None:
    """Every objective on a machine."""
    arch, formats = load_arch(machine), LayerFormats.uniform(parse_format(fmt))
    network = load_workload(name)
    print(f"{name} on {machine}, {fmt}")
    print(
        f"  {'least':9}{'map [s]':>9}{'run [s]':>9}{'DRAM':>9}{'SRAM [Mbit]':>13}"
        f"{'energy [uJ]':>13}{'cycles':>13}{'used [%]':>10}  gaps"
    )
    for objective in objectives:
        start = time.perf_counter()
        found = {
            layer: best_mappings(layer, arch, formats, 1, objective)[0]
            for layer, _ in network.unique_layers
        }
        mapped = time.perf_counter() - start
        kinds = {replace(layer, name="any"): own.mapping for layer, own in found.items()}
        mappings = {layer.name: kinds[replace(layer, name="any")] for layer in network.layers}
        start = time.perf_counter()
        result = simulate_layers(network, arch, formats, mappings)
        ran = time.perf_counter() - start
        moved = [
            sum(int(layer.counts.total(level)) for layer in result.layers) / 1e6
            for level in ("DRAM", "SRAM")
        ]
        gaps = [1 - own.bound / own.cost for own in found.values()]
        print(
            f"  {objective:9}{mapped:>9.2f}{ran:>9.3f}{moved[0]:>9.2f}{moved[1]:>13.1f}"
            f"{result.energy_pj / 1e6:>13.1f}{result.cycles:>13,}"
            f"{100 * result.utilisation.overall:>10.1f}"
            f"  {sum(gap > 1e-9 for gap in gaps)} of {len(gaps)}, at most {100 * max(gaps):.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
