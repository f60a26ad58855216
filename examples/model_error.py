"""Was the analytical model good enough?

    python examples/model_error.py --network resnet18-fashion

Seconds. Sets the paper's model of DRAM traffic against the simulation, layer by layer: where it is
off the most, and which effect that it leaves out explains most of it.
"""

import argparse

import bfpsim as bs

EFFECTS = ("edges", "padding", "halo", "partial_sums", "cut_blocks", "bursts")
SHOWN = 5


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18-fashion", help="a shipped name or a file")
    parser.add_argument("--arch", default="ideal-16k", help="a shipped name or a file")
    parser.add_argument("--format", default="bfp8", help="of all tensors")
    options = parser.parse_args()

    network, arch = bs.load_workload(options.network), bs.load_arch(options.arch)
    formats = bs.LayerFormats.uniform(bs.parse_format(options.format))
    validation = bs.validate(network, arch, formats)
    frame = validation.to_frame()
    layers = frame[frame["layer"] != "total"].set_index("layer")
    worst = layers["paper_error"].abs().sort_values(ascending=False, kind="stable").index[:SHOWN]
    for name in worst:
        row = layers.loc[name]
        effect = max(EFFECTS, key=lambda one: abs(row[f"{one}_bits"]))
        kbit = row[f"{effect}_bits"] / 1e3
        print(f"{name}: off by {row['paper_error']:+.1%}; {effect} explains {kbit:+,.1f} kbit")
    total = float(validation.total.paper / validation.total.simulated - 1)
    print(f"{network.name} as a whole: off by {total:+.1%}")
    print("the exact model agrees" if validation.agrees else "the exact model DIFFERS")


if __name__ == "__main__":
    main()
