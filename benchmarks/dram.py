"""DRAM devices: ``python -m benchmarks.dram``, and ``--figure PATH`` for where energy goes.

How many row segments a second are served bank by bank, what prices add to the simulation of a
network, and energy of a network by component over bandwidth and buffer size.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from bfpsim.arch import Arch, devices, load_arch, replace_all
from bfpsim.mapping.steps.dram import BankedDevice, Place, service
from bfpsim.quant.formats.layout import Runs
from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION, drawing, save
from bfpsim.sim.result import NetworkResult
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import load_workload

DEVICE = "lpddr4-3200-x16"
FORMATS = "bfp8"
ARRAY = {"pe_array.rows.size": 64, "pe_array.cols.size": 64}


def main() -> None:
    """Print the tables, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--figure", help="draw where energy goes, as PNG, PDF or SVG")
    given = parser.parse_args()
    if given.figure:
        draw(given.network, given.figure)
        return
    speed()
    for name in ("ideal-64k", "ideal-64k-double"):
        overhead(given.network, name)


def speed() -> None:
    """Row segments a second, of one device that is never without work."""
    rng = np.random.default_rng(0)
    many = 1 << 18
    patterns = {
        "whole rows": (np.arange(many) * 64, 64),
        "256 B in turn of three banks": ((np.arange(many)[:, None] + [0, 128, 256]).ravel() * 8, 8),
        "random 128 B": (rng.integers(0, 1 << 25, many) * 4, 4),
        "random 32 B": (rng.integers(0, 1 << 25, many), 1),
        "32 B at a pitch of 16 KiB": (np.arange(many) * 512, 1),
    }
    print("bank by bank, 1e6 row segments a second of processor time")
    for name, (starts, bursts) in patterns.items():
        burst = devices()[DEVICE].burst
        place = Place(0, Runs(starts * burst, (starts + bursts) * burst))

        def run(place: Place = place) -> tuple[BankedDevice, float]:
            device = BankedDevice(devices()[DEVICE])
            device.put(0, place, "read")
            return device, seconds(device.finish)

        run()
        device, taken = min((run() for _ in range(3)), key=lambda own: own[1])
        print(f"  {name:30}{device.activates / taken / 1e6:>7.1f}")


def overhead(network: str, name: str) -> None:
    """A network's simulation with its mappings given: ideal, with prices, and bank by bank."""
    ideal = load_arch(name)
    own = {
        "ideal": ideal,
        "priced": replace_all(ideal, {"dram": {"device": DEVICE}}),
        "banked": replace_all(ideal, {"dram": {"device": DEVICE, "timing": "banked"}}),
    }
    found = simulate_layers(network, ideal, FORMATS)
    mappings = {layer.layer.name: layer.mapping for layer in found.layers}
    print(f"{network} on {name}, simulated with mappings given [ms], and cycles")
    for timing, arch in own.items():

        def run(arch: Arch = arch) -> None:
            service.cache_clear()
            simulate_layers(network, arch, FORMATS, mappings)

        run()
        taken = sorted(seconds(run) for _ in range(9))[4]
        cycles = simulate_layers(network, arch, FORMATS, mappings).cycles
        print(f"  {timing:8}{1e3 * taken:>8.1f}{cycles:>14,}")


def seconds(run: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


# --- where energy goes --------------------------------------------------------------------------

COMPONENTS = {
    "SRAM": GREY,
    "read and write": BLUE,
    "activate": SKY,
    "refresh": ORANGE,
    "background": VERMILION,
}
BANDWIDTHS = {
    "4.8": {"device": "lpddr4-2400-x16"},
    "6.4": {"device": DEVICE},
    "12.8": {"device": DEVICE, "channels": 2},
    "25.6": {"device": DEVICE, "channels": 4},
}
CAPACITIES = (16, 32, 64, 128, 256, 512)


def parts_of(result: NetworkResult) -> dict[str, float]:
    """Energy by component [mJ]."""
    found = dict.fromkeys(COMPONENTS, 0.0)
    for part in result.energy.parts:
        name = "read and write" if part.part == "movement" else part.part
        found["SRAM" if part.where == "SRAM" else name] += part.energy_pj / 1e9
    return found


def draw(network: str, path: str) -> None:
    """Energy over bandwidth, of a small and of a large array, and over the buffer's size."""
    of = load_workload(network)

    def run(changes: dict[str, object]) -> NetworkResult:
        print(", ".join(f"{key} {own}" for key, own in changes.items()), flush=True)
        arch = replace_all(load_arch("ideal-64k"), changes)
        return simulate_layers(of, arch, FORMATS)

    panels = {
        "16 x 16 PEs": {rate: run({"dram": own}) for rate, own in BANDWIDTHS.items()},
        "64 x 64 PEs": {rate: run({"dram": own} | ARRAY) for rate, own in BANDWIDTHS.items()},
        "16 x 16 PEs, 6.4 GB/s": {
            f"{size}": run({"dram": {"device": DEVICE}, "sram.capacity": f"{size} KiB"})
            for size in CAPACITIES
        },
    }
    with drawing() as figure:
        axes = figure.subplots(1, 3, sharey=True, width_ratios=[4, 4, 6])
        for axis, (title, results) in zip(axes, panels.items(), strict=True):
            low = np.zeros(len(results))
            for name, colour in COMPONENTS.items():
                height = [parts_of(result)[name] for result in results.values()]
                axis.bar([*results], height, 0.7, low, color=colour, label=name)
                low += height
            for place, result in enumerate(results.values()):
                axis.annotate(
                    f"{1e3 * result.seconds:.1f} ms",
                    (place, low[place]),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            axis.set_title(title)
            axis.set_xlabel("SRAM [KiB]" if axis is axes[-1] else "DRAM [GB/s]")
        axes[0].set_ylabel("energy [mJ]")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=5)
        figure.suptitle(
            f"Energy of {of.name} in 8-bit BFP, LPDDR4, mapped for the fewest DRAM bits"
        )
        save(figure, path)


if __name__ == "__main__":
    main()
