"""All benchmarks: prints the tables of benchmarks/README.md. `make bench` runs it."""

import json
import platform
import resource
import subprocess
import sys
import time

import simpy

from bfpsim.arch import load_arch
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.mapper import ORDERS, find_mapping
from bfpsim.mapping.models import EXACT, FULL, PAPER, model_counts
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.reports.mapping import regret_line
from bfpsim.search.mappings import map_network
from bfpsim.search.solvers import compare_solvers
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer, load_workload

SCALE_SIM_SECONDS = 678.0
"""SCALE-Sim v3, ResNet-18 at 224, on a 2-core machine of this kind; not run again here."""


def main() -> None:
    """Run everything, in order."""
    print(f"Python {platform.python_version()}, {platform.machine()}, {_cores()} cores\n")
    network, formats = load_workload("resnet18"), LayerFormats.uniform(BFP(8, 3, 16))
    mappings = mapper(network, formats)
    simulation(mappings)
    long_nest()
    same_accounting()
    regret()
    solvers()


def mapper(network, formats):
    """Time the mapper on every distinct layer, without and with bursts."""
    print("Mapper, ResNet-18, ideal-64k, bfp8, 12 distinct layers")
    arch = load_arch("ideal-64k")
    for model in ("exact", "full"):
        start = time.perf_counter()
        found = {
            layer: find_mapping(layer, arch, formats, model=model)
            for layer, _ in network.unique_layers
        }
        print(f"  model {model}: {time.perf_counter() - start:.2f} s")
    tilings = seconds = 0.0
    for layer, _ in network.unique_layers:
        grid = grid_of(layer, arch, formats)
        start = time.perf_counter()
        for order in ORDERS:
            tilings += sum(grid.outer_bits(order).values()).size
        seconds += time.perf_counter() - start
    print(
        f"  {tilings:,.0f} mappings priced in {seconds:.3f} s: {tilings / seconds:,.0f} per second"
    )
    convs = [item for item, _ in load_workload("googlenet").unique_layers if item.name != "fc"]
    start = time.perf_counter()
    for layer in convs:
        find_mapping(layer, arch, formats)
    seconds = time.perf_counter() - start
    print(f"  GoogLeNet, model exact: {seconds:.2f} s, {len(convs)} distinct of 57 convs")
    by_shape = {(layer.dims["K"], layer.C, layer.P, layer.R): m for layer, m in found.items()}
    return {
        layer.name: by_shape[layer.dims["K"], layer.C, layer.P, layer.R] for layer in network.layers
    }


def simulation(mappings):
    """Time the simulation in a fresh process, beside what SimPy alone can do."""
    points = {name: [m.order, m.tile] for name, m in mappings.items()}
    command = [sys.executable, "-m", "benchmarks.simulation"]
    figures = json.loads(
        subprocess.run(
            [*command, "resnet18", "ideal-64k", "bfp8"],
            input=json.dumps(points),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    events = figures["steps"] + figures["transfers"]
    raw = simpy_rate()
    print("\nSize-only simulation, ResNet-18 at 224, ideal-64k, bfp8, best mappings")
    print(f"  distinct layers once: {figures['seconds_first']:.3f} s in a fresh process, "
          f"{figures['seconds']:.3f} s later ({figures['simulations']} runs)")  # fmt: skip
    print(f"  every layer: {figures['seconds_every_layer']:.3f} s ({figures['layers']} runs)")
    print(f"  SCALE-Sim v3: {SCALE_SIM_SECONDS:.0f} s, "
          f"{SCALE_SIM_SECONDS / figures['seconds_first']:,.0f} times as long")  # fmt: skip
    print(f"  peak memory {figures['peak_mib']:.0f} MiB ({figures['import_mib']:.0f} at start)")
    print(f"  tile steps {figures['steps']:,}, transfers {figures['transfers']:,}")
    print(f"  {events / figures['seconds_every_layer']:,.0f} steps and transfers per second; "
          f"SimPy alone: {raw:,.0f} timeouts per second")  # fmt: skip


def long_nest():
    """A nest of many small tiles: the simulator's steady rate."""
    layer = ConvLayer("small tiles", K=256, C=256, P=28, Q=28, R=3, S=3, padding=1)
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    mapping = Mapping("KPQC", {"K": 16, "C": 64, "P": 2, "Q": 2})
    start = time.perf_counter()
    tally = Accelerator(layer, load_arch("ideal-64k"), mapping, formats, every_step=True).run()
    every = time.perf_counter() - start
    start = time.perf_counter()
    result = simulate(layer, load_arch("ideal-64k"), mapping, formats)
    seconds = time.perf_counter() - start
    raw = simpy_rate()
    rate = (tally.steps + tally.transfers) / every
    print("\nLong nest: 256x256x28x28 3x3 in tiles of 16x64x2x2")
    print(f"  {tally.steps:,} tile steps and {tally.transfers:,} transfers in {every:.2f} s")
    print(f"  {tally.steps / every:,.0f} tile steps, {rate:,.0f} events per second: "
          f"{rate / raw:.0%} of SimPy's own {raw:,.0f}")  # fmt: skip
    kept = result.timeline.rows / len(result.timeline)
    print(f"  without what repeats: {seconds:.2f} s, {kept:.1%} of the timeline run, "
          f"equal: {(tally.counts, tally.cycles) == (result.counts, result.cycles)}")  # fmt: skip
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    for name, effects in (("paper", PAPER), ("exact", EXACT), ("full", FULL)):
        start = time.perf_counter()
        model_counts(layer, load_arch("ideal-64k"), mapping, formats, effects)
        print(f"  model {name}: {(time.perf_counter() - start) * 1e3:.1f} ms")


def same_accounting():
    """conv2_x in 16-bit plain words, as outside tools count it."""
    from bfpsim.arch import replace

    layer = ConvLayer("conv2_x", K=64, C=64, P=56, Q=56, R=3, S=3)
    arch = load_arch("ideal-64k")
    for path, value in (("dram.burst", "1 bit"), ("pe_array.accumulator_bits", 16)):
        arch = replace(arch, path, value)
    formats = LayerFormats.uniform(Plain(16))
    mapping = find_mapping(layer, arch, formats)
    words = int(simulate(layer, arch, mapping, formats).counts.total("DRAM")) // 16
    print("\nconv2_x, 64 KiB shared, 16-bit words, input 58x58 stored: words moved (simulated)")
    for who, count in (
        ("AccelForge, called optimal", 854_272),
        ("Timeloop, 60,000 mappings in 30 s", 718_336),
        ("best mapping by hand", 668_160),
        (f"bfpsim, {mapping}", words),
    ):
        print(f"  {count:>9,}  {who}")


def regret():
    """What trusting the payload model costs, once simulated."""
    print("\nRe-scoring by simulation, ResNet-18, ideal-64k, bfp8: 8 best mappings of model exact")
    arch, formats = load_arch("ideal-64k"), LayerFormats.uniform(BFP(8, 3, 16))
    for objective in ("dram", "energy", "latency"):
        frame = map_network(load_workload("resnet18"), arch, formats, objective, rescore=8)
        print(f"  {objective}: {regret_line(frame)}")


def solvers():
    """Enumeration, SCIP and the relaxation on every distinct layer."""
    print("\nSolvers, ResNet-18, ideal-64k, bfp8, DRAM payload [bit]; 20 s per loop-order class")
    frame = compare_solvers(
        load_workload("resnet18"),
        load_arch("ideal-64k"),
        LayerFormats.uniform(BFP(8, 3, 16)),
        ("enumerate", "scip", "relaxed"),
        20.0,
    )
    for row in frame.to_dict(orient="records"):
        print(
            f"  {row['layer']:20} {row['solver']:10} {row['dram_bits']:>10,} "
            f"bound {row['bound']:>12,.0f} gap {row['gap']:.1e} {row['status']:8} "
            f"{row['seconds']:6.2f} s"
        )


def simpy_rate(count: int = 200_000) -> float:
    """Timeouts per second of one SimPy process that does nothing else."""
    env = simpy.Environment()

    def idle():
        for _ in range(count):
            yield env.timeout(1)

    env.process(idle())
    start = time.perf_counter()
    env.run()
    return count / (time.perf_counter() - start)


def _cores() -> int:
    import os

    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
