"""How long a report of 10,000 points takes, and its page to open: `python -m benchmarks.report`.

The store is made up: 50 points are simulated, and stand for 200 each, at other bandwidths and
latencies. Chromium and Selenium time the page; where they are missing, that line is left out.
"""

import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bfpsim.reports.store.write import write_report
from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS
from bfpsim.search.sweep.spec import load_spec
from bfpsim.workloads import Network, NetworkBuilder

SPEC = {
    "arch": "ideal-16k",
    "formats": ["bfp8", "bfp16"],
    "axes": {
        "sram.capacity": [f"{kib} KiB" for kib in range(2, 52, 2)],
        "dram.bandwidth": [f"{rate} GB/s" for rate in range(1, 21)],
        "dram.latency": [f"{time} ns" for time in range(10, 110, 10)],
    },
}


def network() -> Network:
    """Five layers."""
    build = NetworkBuilder("five-layers", input_shape=(1, 16, 16, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    for number in (2, 3, 4):
        x = build.conv(f"conv{number}", x, 16, kernel=3, padding=1)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    return build.network()


def fill(path: Path) -> int:
    """Write the store; how many points it has."""
    points = plan(load_spec(SPEC | {"networks": [network()]}))
    known = {}
    with Store(path) as store:
        for point in points:
            kind = (point.formats, point.arch.sram)
            if kind not in known:
                known[kind] = evaluate(point)
            record = replace(known[kind], arch=point.arch)
            store.put(POINTS, point.key, record.to_json())
    return len(points)


def opened(page: Path) -> tuple[float, float] | None:
    """Seconds until the page is there, and until a sorted table of layers is."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        return None
    if browser is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    chromium = webdriver.Chrome(options, Service(driver))
    try:
        start = time.perf_counter()
        chromium.get(page.absolute().as_uri())
        loaded = time.perf_counter() - start
        script = "document.querySelector('#table-layers th button').click()"
        start = time.perf_counter()
        chromium.execute_script(script)
        return loaded, time.perf_counter() - start
    finally:
        chromium.quit()


def main() -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "sweep.sqlite", Path(folder) / "report"
        points = fill(store)
        print(f"{points:,} points, store of {store.stat().st_size / 2**20:.0f} MiB")
        start, worked = time.perf_counter(), time.process_time()
        write_report(store, out)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        page = out / "report.html"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"report: {seconds:.1f} s ({worked:.1f} s of CPU), peak {peak:.0f} MiB")
        print(f"page: {page.stat().st_size / 2**20:.1f} MiB")
        if (times := opened(page)) is not None:
            print(f"page opens in {times[0]:.1f} s, sorts its layers in {times[1]:.1f} s")


if __name__ == "__main__":
    main()
