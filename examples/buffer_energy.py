"""Which buffer costs the least energy, if a larger one costs more per bit?

    python examples/buffer_energy.py --out out/buffer_energy

About two minutes. Sweeps the SRAM of ResNet-18's accelerator under a constant energy per bit and
under CACTI's, and writes energies.csv and energies.png.
"""

import argparse
from pathlib import Path

import pandas as pd

import bfpsim as bs
from bfpsim.arch import replace
from bfpsim.arch.units import CAPACITY

CAPACITIES = ("16 KiB", "32 KiB", "64 KiB", "128 KiB", "256 KiB", "512 KiB", "1 MiB", "2 MiB")
ENERGIES = ("0.16 pJ/bit", "cacti-22nm", "cacti-45nm", "cacti-65nm")
FORMATS = bs.LayerFormats.uniform(bs.parse_format("bfp8"))


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="resnet18", help="a shipped name or a file")
    parser.add_argument("--out", type=Path, default=Path("out/buffer_energy"), help="folder")
    options = parser.parse_args()

    network = bs.load_workload(options.network)
    frame = pd.concat([sweep(network, energy) for energy in ENERGIES])
    options.out.mkdir(parents=True, exist_ok=True)
    bs.write_csv(frame, options.out / "energies.csv")
    bs.plot_energies(frame, options.out / "energies.png")
    millijoules = frame.pivot_table("energy_pj", "capacity_bits", "energy", sort=False)
    millijoules = (millijoules / 1e9).rename(CAPACITY.text).rename_axis("capacity")
    print(f"energy of data movement of {network.name} [mJ]")
    print(millijoules.round(2).to_string())
    for energy in ENERGIES:
        print(f"{energy}: least at {millijoules[energy].idxmin()}")
    print(f"wrote energies.csv, energies.png to {options.out}")


def sweep(network: bs.Network, energy: str) -> pd.DataFrame:
    """The capacity sweep under one energy of the buffer."""
    arch = replace(bs.load_arch("ideal-64k"), "sram.energy", energy)
    return bs.sweep_capacity(network, arch, FORMATS, CAPACITIES)


if __name__ == "__main__":
    main()
