"""Which format is narrow enough, and still accurate?

    python examples/which_format.py --images 200

Some ten seconds; needs torch. Simulates a trained network in one format after the other, and
classifies images with its operands quantised to the same: what each costs, and what it gets right.
"""

import argparse

import torch

import bfpsim as bs

FORMATS = ("bfp16", "bfp8", "bfp5e2b16")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18-fashion", help="a trained one")
    parser.add_argument("--images", type=int, default=100, help="how many to classify")
    options = parser.parse_args()

    network, arch = bs.load_workload(options.network), bs.load_arch("ideal-64k")
    module = bs.shipped_module(options.network)
    inputs, labels = bs.shipped_test_images().batch(range(options.images))
    print(f"{'format':>10} {'energy [µJ]':>12} {'k cycles':>9} {'right':>7}")
    for name in FORMATS:
        chosen = bs.parse_format(name)
        cost = bs.simulate_network(network, arch, bs.LayerFormats.uniform(chosen))
        model = bs.quantize_model(module, inputs[:1], chosen, calibration=[inputs])
        with torch.inference_mode():
            right = (model(inputs).argmax(dim=1) == labels).float().mean().item()
        print(f"{name:>10} {cost.energy_pj / 1e6:12,.1f} {cost.cycles / 1e3:9,.1f} {right:7.1%}")


if __name__ == "__main__":
    main()
