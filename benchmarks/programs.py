"""Every shipped network alone and as a program: ``python -m benchmarks.programs [NETWORK ...]``.

``--machine NAME`` takes another than edge-64k (one without a vector unit gets 16 lanes),
``--capacities`` other sizes of its SRAM, ``--burst "1 bit"`` payload alone, which plans faster.
"""

import argparse
import sys
import time

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import layer_formats
from bfpsim.search.experiments.program import outer_bits
from bfpsim.sim.program import plan_program
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import load_workload, names


def main(arguments: list[str]) -> None:
    """Print a row per network and capacity: traffic, cycles, energy, and what it takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--machine", default="edge-64k")
    parser.add_argument("--capacities", default="64 KiB,256 KiB,1 MiB")
    parser.add_argument("--burst")
    given = parser.parse_args(arguments)
    formats, machine = layer_formats("bfp8"), load_arch(given.machine)
    if machine.vector is None:
        machine = replace(machine, "vector", {"lanes": 16})
    if given.burst is not None:
        machine = replace(machine, "dram.burst", given.burst)
    print(f"{machine.name} with its SRAM resized, bfp8: layers alone -> one program")
    print(
        f"  {'network':26}{'SRAM':>9}{'DRAM [Mbit]':>24}{'cycles [million]':>20}"
        f"{'energy [mJ]':>22}{'stay':>11}{'above least':>12}{'plan [s]':>10}{'run [s]':>9}"
    )
    for name in given.networks or names():
        network = load_workload(name)
        for capacity in given.capacities.split(","):
            arch = replace(machine, "sram.capacity", capacity)
            start = time.perf_counter()
            try:
                planned = plan_program(network, arch, formats)
            except MappingError as error:
                print(f"  {name:26}{capacity:>9}  {error}", flush=True)
                continue
            known = time.perf_counter()
            program = planned.run()
            done = time.perf_counter()
            alone = simulate_layers(network, arch, formats)
            allocation = planned.allocation
            stay = f"{len(allocation.residents)}/{len(program.program.activations)}"
            above = allocation.total_bits / allocation.bound - 1
            print(
                f"  {name:26}{capacity:>9}"
                f"{outer_bits(alone) / 1e6:>12,.1f}{outer_bits(program) / 1e6:>12,.1f}"
                f"{alone.cycles / 1e6:>10,.2f}{program.cycles / 1e6:>10,.2f}"
                f"{alone.energy_pj / 1e9:>11,.3f}{program.energy_pj / 1e9:>11,.3f}"
                f"{stay:>11}{above:>12.2%}{known - start:>10.1f}{done - known:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
