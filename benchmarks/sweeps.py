"""Sweeps of a small network: points per second, overhead, 10,000 points.

``python -m benchmarks.sweeps`` prints the table of benchmarks/README.md; a few minutes.
"""

import os
import tempfile
import time
from pathlib import Path

from search.sweep.evaluate import attempt
from search.sweep.plan import plan
from search.sweep.point import program
from search.sweep.run import sweep
from search.sweep.spec import load_spec
from workloads import Network, NetworkBuilder

FEW = 40  # values of the last axis in the comparison; 25 times as many points as values
MANY = 400  # in the long run


def main() -> None:
    """Compare evaluation alone with one worker and two, then run 10,000 points."""
    few, many = (load_spec(small_sweep(values)) for values in (FEW, MANY))
    points = plan(few)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{len(points):,} points of a network of {len(points[0].network.layers)} layers")
        start = time.perf_counter()
        for point in points:
            attempt(point, program())
        alone = (time.perf_counter() - start) / len(points)
        show("evaluation alone, in one process", alone)
        for workers in (1, 2):
            took = seconds(few, folder / f"{workers}.sqlite", workers) / len(points)
            overhead = f", overhead {1000 * (took - alone):.1f} ms" if workers == 1 else ""
            show(f"sweep, {workers} workers", took, overhead)
        start = time.perf_counter()
        results = sweep(few, folder / "2.sqlite")
        again = time.perf_counter() - start
        print(f"  the same again, all of it in the store{again:>12.2f} s")
        long(many, folder)


def long(spec, folder: Path) -> None:
    """The long sweep, and its files."""
    start = time.perf_counter()
    points = plan(spec)
    keys = {point.key for point in points}
    print(f"\n{len(keys):,} points of the same network, {os.cpu_count()} workers")
    print(f"  planned, keys included      {time.perf_counter() - start:>10.1f} s")
    store = folder / "long.sqlite"
    took = seconds(spec, store, 2)
    show("sweep, 2 workers", took / len(keys))
    print(f"  from first to last point    {took:>10.1f} s")
    print(f"  store                       {store.stat().st_size / 2**20:>10.1f} MiB")
    start = time.perf_counter()
    results = sweep(spec, store)
    files = results.export(folder / "out")
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"  read and exported           {time.perf_counter() - start:>10.1f} s {size:>8.1f} MiB")
    errors = results.points_table()["error"].notna().sum()
    print(f"  points without a mapping    {errors:>10,}")


def seconds(spec, store: Path, workers: int) -> float:
    """Wall time of a sweep from when its workers are up until its last point is kept."""
    times = []
    sweep(spec, store, workers=workers, progress=lambda _: times.append(time.perf_counter()))
    return times[-1] - times[0]


def show(what: str, each: float, more: str = "") -> None:
    """A row: time per point, and points per second."""
    print(f"  {what:36}{1000 * each:>8.1f} ms a point {1 / each:>8.1f} points/s{more}", flush=True)


def small_sweep(values: int) -> dict:
    """25 points for each of so many latencies."""
    return {
        "arch": "edge-16k",
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
