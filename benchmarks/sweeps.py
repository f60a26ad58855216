"""Sweeps of a small network: points per second, overhead, 10,000 points.

``python -m benchmarks.sweeps`` prints the table of benchmarks/README.md; a few minutes.
"""

import os
import tempfile
import time
from pathlib import Path

from bfpsim.search.sweep.evaluate import attempt
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import program
from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.spec import load_spec
from bfpsim.workloads import Network, NetworkBuilder

FEW, MANY = 40, 400
"""Values of the last axis; 25 points each."""


def main() -> None:
    """Compare evaluation alone with one worker and two, then run 10,000 points."""
    few, many = (load_spec(small_sweep(values)) for values in (FEW, MANY))
    with tempfile.TemporaryDirectory() as folder:
        short(few, Path(folder))
        long(many, Path(folder))


def short(spec, folder: Path) -> None:
    """What the sweep adds to evaluation, in time and in processor time."""
    points = plan(spec)
    nothing = small_sweep(0) | {"axes": {"sram.capacity": ["1 bit"]}}  # which no layer fits
    print(f"{len(points):,} points of a network of {len(points[0].network.layers)} layers")
    wall, cpu = time.perf_counter(), time.process_time()
    for point in points:
        attempt(point, program())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    show("evaluation alone, one process", wall, len(points), cpu)
    for workers in (1, 2):
        started = processor_seconds()
        sweep(nothing, folder / f"start{workers}.sqlite", workers=workers)
        started = processor_seconds() - started
        before = processor_seconds()
        took = seconds(spec, folder / f"{workers}.sqlite", workers)
        busy = processor_seconds() - before - started
        show(f"sweep, {workers} worker{'s' * (workers > 1)}", took, len(points), busy)
        added = 1000 * (busy - cpu) / len(points)
        print(f"    added to evaluation: {added:.1f} ms of processor time a point")
    start = time.perf_counter()
    sweep(spec, folder / "2.sqlite")
    print(f"  the same again, all of it in the store: {time.perf_counter() - start:.2f} s")


def long(spec, folder: Path) -> None:
    """The long sweep, and its files."""
    start = time.perf_counter()
    points = plan(spec)
    distinct = len({point.key for point in points})
    print(f"\n{distinct:,} points of the same network")
    print(f"  planned, with their keys: {time.perf_counter() - start:.1f} s")
    store = folder / "long.sqlite"
    show("sweep, 2 workers", seconds(spec, store, 2), distinct)
    print(f"  store: {store.stat().st_size / 2**20:.1f} MiB")
    start = time.perf_counter()
    files = sweep(spec, store).export(folder / "out")
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"  looked up and exported: {time.perf_counter() - start:.1f} s, {size:.1f} MiB")


def seconds(spec, store: Path, workers: int) -> float:
    """Wall time of a sweep from when a worker is up until the last point is kept."""
    times = []
    sweep(spec, store, workers=workers, progress=lambda _: times.append(time.perf_counter()))
    return times[-1] - times[0]


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return sum(times[:4])


def show(what: str, took: float, points: int, busy: float | None = None) -> None:
    """A row: time per point and points per second, by the clock; processor time."""
    row = f"  {what:32}{1000 * took / points:>7.1f} ms a point, {points / took:>6.1f} points/s"
    if busy is not None:
        row += f"; processor {1000 * busy / points:>5.1f} ms a point"
    print(row, flush=True)


def small_sweep(values: int) -> dict:
    """25 points for each of so many latencies."""
    return {
        "arch": "ideal-16k",
        "networks": [small_network()],
        "formats": ["bfp8"],
        "axes": {
            "sram.capacity": ["1 KiB", "2 KiB", "4 KiB", "8 KiB", "16 KiB"],
            "dram.bandwidth": ["1 GB/s", "2 GB/s", "4 GB/s", "8 GB/s", "16 GB/s"],
            "dram.latency": [f"{value} ns" for value in range(values)],
        },
    }


def small_network() -> Network:
    """Two convolutions and a linear layer."""
    build = NetworkBuilder("small", input_shape=(1, 8, 8, 4))
    x = build.conv("conv1", "input", 8, kernel=3, padding=1)
    x = build.conv("conv2", x, 16, kernel=3, stride=2, padding=1)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    return build.network()


if __name__ == "__main__":
    main()
