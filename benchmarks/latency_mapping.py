"""Mapping to the least simulated cycles: ``python -m benchmarks.latency_mapping``.

Of each distinct layer: cycles, the proven bound, runs, CPU seconds; beside the cycles of
the mapping of least DRAM traffic.
"""

import argparse
import time

from bfpsim.arch import load_arch
from bfpsim.mapping import timed
from bfpsim.mapping.mapper import best_mappings, orders
from bfpsim.mapping.models import stored
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import load_workload

MACHINES = ("ideal-64k", "ideal-64k-double", "ideal-64k-split", "ideal-16k")


def main() -> None:
    """Print a table per network and machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["resnet18", "mobilenetv2-eca"])
    parser.add_argument("--machines", nargs="*", default=MACHINES)
    parser.add_argument("--format", default="bfp8")
    given = parser.parse_args()
    for network in given.networks:
        for machine in given.machines:
            table(network, machine, given.format)


def table(name: str, machine: str, fmt: str) -> None:
    """Every distinct layer of a network on a machine."""
    arch, formats = load_arch(machine), LayerFormats.uniform(parse_format(fmt))
    print(f"Least cycles of {name} on {machine}, {fmt}")
    print(f"  {'layer':28}{'cycles':>11}{'bound':>11}{'runs':>6}{'[s]':>7}{'by dram':>11}")
    total = open_gaps = 0
    seconds = 0.0
    for layer, _ in load_workload(name).unique_layers:
        start = time.process_time()
        kept = stored(layer, arch)
        timetable = timed.Timetable(kept, arch, formats, orders(kept))
        ((cost, mapping),), bound = timetable.best(timed.latency, 1)
        taken = time.process_time() - start
        cycles = simulate(layer, arch, mapping, formats).cycles
        dram = best_mappings(layer, arch, formats, 1, "dram", "full")[0].mapping
        by_dram = simulate(layer, arch, dram, formats).cycles
        if cycles != cost[0] or cycles > by_dram:
            raise SystemExit(f"{layer.name}: {cycles} simulated, {cost[0]} priced, {by_dram}")
        total, seconds, open_gaps = total + cycles, seconds + taken, open_gaps + (bound < cycles)
        print(
            f"  {layer.name:28}{cycles:>11,}{min(bound, cycles):>11,}{timetable.runs:>6}"
            f"{taken:>7.2f}{by_dram:>11,}",
            flush=True,
        )
    print(
        f"  {'all':28}{total:>11,}; {seconds:.1f} CPU s, {open_gaps} layers not proven", flush=True
    )


if __name__ == "__main__":
    main()
