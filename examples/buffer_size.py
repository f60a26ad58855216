"""How large must my buffer be?

    python examples/buffer_size.py --network resnet18-fashion

Seconds. Prints the least DRAM traffic of any mapping at several sizes, beside what no buffer
avoids, and the smallest buffer that comes within one percent of that.
"""

import argparse

import bfpsim as bs
from bfpsim.arch.units import CAPACITY

SIZES = ("4 KiB", "8 KiB", "16 KiB", "32 KiB", "64 KiB", "128 KiB", "256 KiB")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18-fashion", help="a shipped name or a file")
    parser.add_argument("--arch", default="ideal-64k", help="a shipped name or a file")
    parser.add_argument("--format", default="bfp8", help="of all tensors")
    options = parser.parse_args()

    network, arch = bs.load_workload(options.network), bs.load_arch(options.arch)
    formats = bs.LayerFormats.uniform(bs.parse_format(options.format))
    curves = bs.traffic_curves(network, arch, formats)
    total = curves[curves["layer"] == "total"].sort_values("capacity_bits")
    floor = total["compulsory_bits"].iloc[0]
    for size in SIZES:
        fitting = total[total["capacity_bits"] <= CAPACITY.parse(size)]
        if fitting.empty:
            print(f"{size:>8}: too small for some layer")
            continue
        bits = fitting["dram_bits"].iloc[-1]
        print(f"{size:>8}: {bits / 1e6:8.3f} Mbit, {bits / floor - 1:6.1%} above the least")
    enough = total.loc[total["dram_bits"] <= 1.01 * floor, "capacity_bits"].iloc[0]
    print(f"within 1% from {enough / 8192:.1f} KiB on")


if __name__ == "__main__":
    main()
