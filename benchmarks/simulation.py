"""Size-only simulation of a network under its best mappings: time, memory, events.

Run by `benchmarks.run` in a process of its own, so that its peak memory is the simulation's.
Reads {layer: [order, tile]} as JSON on stdin, prints its figures as JSON.
"""

import json
import resource
import sys
import time

from bfpsim.arch import load_arch
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.sim.simulate import simulate, simulate_layers
from bfpsim.workloads import load_workload


def main() -> None:
    """Simulate argv: network, arch, format."""
    network, arch = load_workload(sys.argv[1]), load_arch(sys.argv[2])
    formats = LayerFormats.uniform(parse_format(sys.argv[3]))
    mappings = {name: Mapping(*point) for name, point in json.load(sys.stdin).items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = time.perf_counter()
    simulate_layers(network, arch, formats, mappings)
    first = time.perf_counter() - first
    best = every = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        result = simulate_layers(network, arch, formats, mappings)
        best = min(best, time.perf_counter() - start)
        start = time.perf_counter()
        for layer in network.layers:
            simulate(layer, arch, mappings[layer.name], formats)
        every = min(every, time.perf_counter() - start)
    steps = sum(r.steps for r in result.layers)
    transfers = sum(r.transfers for r in result.layers)
    print(
        json.dumps(
            {
                "seconds_first": first,
                "seconds": best,
                "seconds_every_layer": every,
                "simulations": result.simulations,
                "layers": len(result.layers),
                "steps": steps,
                "transfers": transfers,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "import_mib": before / 1024,
                "cycles": result.cycles,
            }
        )
    )


if __name__ == "__main__":
    main()
