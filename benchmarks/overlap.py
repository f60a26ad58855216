"""What overlap of a network's operations is worth: ``python -m benchmarks.overlap [NETWORK ...]``.

``--machines``, ``--bandwidths`` [GB/s] and ``--parts`` of SRAM that mappings are made for choose.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from bfpsim.arch import Arch, load_arch, replace
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.quant.formats import LayerFormats, layer_formats
from bfpsim.sim.program import plan_program
from bfpsim.workloads import ConvLayer, Network, load_workload


class Overlap(NamedTuple):
    """Cycles of a program, of its operations one by one, and what no order goes below.

    bound: the more of the array's and of the DRAM channel's cycles
    dram_bits: off chip
    """

    cycles: int
    one_by_one: int
    bound: int
    dram_bits: int


def overlap(
    network: Network,
    arch: Arch,
    formats: LayerFormats,
    mappings: Mapping[str, Tiling] | None = None,
) -> Overlap:
    """What overlap gives, with the mappings that move least or with given ones."""
    planned = plan_program(network, arch, formats, mappings)
    result = planned.run()
    bound = max(result.compute_cycles, result.dram_busy_cycles)
    return Overlap(result.cycles, planned.one_by_one(), bound, planned.allocation.total_bits)


def mappings_for_part(
    network: Network, arch: Arch, formats: LayerFormats, part: Fraction
) -> dict[str, Tiling]:
    """Of every layer, that of least traffic, bursts included, in a part of SRAM."""
    capacity = int(arch.buffer("I").capacity * part)
    smaller = replace(arch, "sram.capacity", f"{capacity} bit")
    known: dict[ConvLayer, Tiling] = {}
    for layer in network.layers:
        kind = dataclasses.replace(layer, name="any")
        if kind not in known:
            known[kind] = find_mapping(layer, smaller, formats, model="full")
    return {layer.name: known[dataclasses.replace(layer, name="any")] for layer in network.layers}


def main(arguments: list[str]) -> None:
    """Print a row per network, machine and bandwidth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenetv2-eca"])
    parser.add_argument("--machines", default="ideal-64k,ideal-64k-double,edge-64k")
    parser.add_argument("--bandwidths", default="1.6,6.4,25.6")
    parser.add_argument("--parts", default="1/2,1/3")
    given = parser.parse_args(arguments)
    parts = [Fraction(part) for part in given.parts.split(",")]
    formats = layer_formats("bfp8")
    print("million cycles of the program, its operations one by one, and at least; DRAM [Mbit]")
    heads = ["least traffic", *(f"tiles for {part}" for part in parts)]
    print(f"  {'network':17}{'machine':17}{'GB/s':>6}" + "".join(f"{own:>28}" for own in heads))
    for name in given.networks:
        network = load_workload(name)
        for machine in given.machines.split(","):
            arch = replace(load_arch(machine), "vector", {"lanes": 16})
            ways = [{}, *(mappings_for_part(network, arch, formats, part) for part in parts)]
            for bandwidth in given.bandwidths.split(","):
                paced = replace(arch, "dram.bandwidth", f"{bandwidth} GB/s")
                row = f"  {name:17}{machine:17}{bandwidth:>6}"
                for mappings in ways:
                    own = overlap(network, paced, formats, mappings)
                    row += "".join(f"{figure / 1e6:>7.2f}" for figure in own[:3])
                    row += f"{own.dram_bits / 1e6:>7.1f}"
                print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
