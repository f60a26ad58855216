"""What activations that stay on chip save: ``python -m benchmarks.residency``.

Payload off chip (no bursts) of whole networks in bfp8 on ideal-64k with a vector unit and a buffer
of any size: nothing resident, then the best residency; the tiles that find addresses; CPU seconds.
With ``--burst "32 B"`` whole bursts.
"""

import argparse
import time

from bfpsim.arch import load_arch, replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.residency import allocate
from bfpsim.mapping.residency.placement import placement
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.workloads import load_workload
from bfpsim.workloads.program import program_of

NETWORKS = ("resnet18", "mobilenetv2-eca", "resnet50", "yolov8n")
KIB = (64, 256, 512, 1024, 2048)


def main() -> None:
    """Print a line per network and capacity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--kib", nargs="*", type=int, default=KIB)
    parser.add_argument("--burst", default="1 bit")
    given = parser.parse_args()
    formats = LayerFormats.uniform(parse_format("bfp8"))
    machine = replace(load_arch("ideal-64k"), "vector", Vector(lanes=16))
    machine = replace(machine, "dram.burst", given.burst)
    print(f"DRAM Mbit, bfp8, bursts of {given.burst}: nothing resident -> resident")
    for name in given.networks:
        program = program_of(load_workload(name), block=formats.O.block_size)
        for kib in given.kib:
            arch = replace(machine, "sram.capacity", f"{kib} KiB")
            start = time.process_time()
            nothing = allocate(program, arch, formats, keep=())
            middle = time.process_time()
            best = allocate(program, arch, formats)
            end = time.process_time()
            placed = placement(best, program, arch)
            need = max(placed.needs[own] / placed.capacities[own] for own in placed.needs)
            print(
                f"  {name:16}{kib:5} KiB {nothing.total_bits / 1e6:8.1f} -> "
                f"{best.total_bits / 1e6:6.1f} {'proven' if best.proven else 'open'}, "
                f"{len(best.residents)} stay, {len(best.overwrites)} in place, addresses need "
                f"{need:.3f}; {middle - start:.2f} and {end - middle:.2f} CPU s",
                flush=True,
            )


if __name__ == "__main__":
    main()
