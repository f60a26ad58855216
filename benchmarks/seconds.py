"""Daily use beside another checkout: ``python -m benchmarks.seconds ../before``.

Every case runs in a process of its own, in one checkout and the other by turns, so that a machine
that is busy for a while is busy for both. Processor time, the least of the turns; peak memory.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

PRELUDE = """
import time
import bfpsim as bs
from bfpsim.sim.accelerator import Accelerator
formats = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
arch = bs.load_arch("ideal-64k")
def took(call):
    start = time.process_time()
    call()
    print(time.process_time() - start)
"""
RESNET = """
layer = next(l for l in bs.load_workload("resnet18").layers if l.name == "layer3.0.conv2")
"""
CASES = {
    "simulate one layer, command line": """
from bfpsim.commands.app import run
run("simulate resnet18 --layer layer1.0.conv1 --arch ideal-64k".split())
print(time.process_time())
""",
    "layer3.0.conv2 under KCQP: K16 C8 P1 Q3": PRELUDE + RESNET + """
mapping = bs.Mapping("KCQP", {"K": 16, "C": 8, "P": 1, "Q": 3})
took(lambda: Accelerator(layer, arch, mapping, formats).run())
""",
    "the same, every step": PRELUDE + RESNET + """
mapping = bs.Mapping("KCQP", {"K": 16, "C": 8, "P": 1, "Q": 3})
took(lambda: Accelerator(layer, arch, mapping, formats, every_step=True).run())
""",
    "ResNet-18 mapped, bursts counted": PRELUDE + """
network = bs.load_workload("resnet18")
took(lambda: [bs.find_mapping(l, arch, formats, model="full") for l, _ in network.unique_layers])
""",
    "linear 65,536 x 65,536 simulated": PRELUDE + """
layer = bs.ConvLayer.linear("linear", 65536, 65536)
mapping = bs.Mapping("CK", {"K": 16, "C": 4096})
took(lambda: bs.simulate(layer, arch, mapping, formats))
""",
    "linear 4,096 x 4,096 in tiles of 16 x 16": PRELUDE + """
layer = bs.ConvLayer.linear("linear", 4096, 4096)
took(lambda: bs.simulate(layer, arch, bs.Mapping("KC", {"K": 16, "C": 16}), formats))
""",
    "3 x 3 over a map of 2,048 x 2,048, mapped": PRELUDE + """
layer = bs.ConvLayer("map", K=16, C=16, P=2048, Q=2048, R=3, S=3, padding=1)
took(lambda: bs.find_mapping(layer, arch, formats, model="full"))
""",
}  # fmt: skip
OVER_EVERY_STEP = (
    PRELUDE
    + """
from bfpsim.arch import replace
small, most, sums = replace(arch, "sram.capacity", "1 KiB"), 0.0, [0.0, 0.0]
for layer, _ in bs.load_workload("resnet18").unique_layers:
    mapping = bs.find_mapping(layer, small, formats, model="full")
    best = [float("inf")] * 2
    for turn in range(6):
        start = time.process_time()
        Accelerator(layer, small, mapping, formats, every_step=bool(turn % 2)).run()
        best[turn % 2] = min(best[turn % 2], time.process_time() - start)
    most = max(most, best[0] / best[1])
    sums = [one + other for one, other in zip(sums, best)]
print(most, sums[0], sums[1])
"""
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.seconds", description=__doc__)
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    after = Path(__file__).parents[1]
    for name, code in CASES.items():
        best: dict[Path, tuple[float, float]] = {}
        for turn in range(options.turns + 1):  # the first, which compiles, not counted
            for checkout in (options.before, after):
                seconds, mebibytes = timed(code, checkout)
                if turn:
                    known = best.get(checkout, (float("inf"), 0.0))
                    best[checkout] = min(known[0], seconds), mebibytes
        (old, held), (new, holds) = best[options.before], best[after]
        print(f"{name:44} {old:7.2f} s {new:7.2f} s {old / new:6.1f} times; "
              f"{held:5.0f} MiB, {holds:5.0f} MiB", flush=True)  # fmt: skip
    most, repeats, every = map(float, output(OVER_EVERY_STEP, after).split())
    print(f"ResNet-18 at 1 KiB: {repeats:.2f} s, with every step run {every:.2f} s; "
          f"{most:.2f} of it at most on one layer")  # fmt: skip


def timed(code: str, checkout: Path) -> tuple[float, float]:
    """Seconds that a case prints last, and its process's peak memory [MiB]."""
    more = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    before = "import time\n" if not code.startswith(PRELUDE) else ""
    *_, seconds, mebibytes = output(before + code + more, checkout).split()
    return float(seconds), float(mebibytes)


def output(code: str, checkout: Path) -> str:
    """What code prints, run in a checkout."""
    own = {"PYTHONPATH": str(checkout.absolute()), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=checkout, env={**os.environ, **own},
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    main()
