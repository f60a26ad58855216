"""The figures of the documentation, from inputs that are shipped or quick to compute.

    python -m benchmarks.figures --out docs [NAME ...]

About two minutes on two cores. The inputs beside this file are what the commands in the pages wrote
or printed: bitq-energy.csv and bitq-alpha.csv the tables of docs/reproducing-bitq.md,
search-front.csv and search-comparison.csv what `bfpsim search resnet18-fashion --sensitivity
benchmarks/sensitivity-resnet18-fashion-8.csv --nat 0.38 --out DIR` writes, heat-maps.csv and
tolerance.csv of docs/mantissa.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

import bfpsim as bs
from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.reports.capacity import plot_curves, plot_programs, plot_sweep
from bfpsim.reports.mantissa import plot_heat_map, plot_tolerance
from bfpsim.reports.occupancy import plot_occupancy
from bfpsim.reports.reproduction import plot_alphas, plot_energies
from bfpsim.reports.roofline import Roof, plot_roofline
from bfpsim.reports.search import plot_front
from bfpsim.reports.tradeoff import plot_energy
from bfpsim.reports.workload import workload_frame
from bfpsim.search.curve import traffic_curves
from bfpsim.search.experiments.mantissa import measure_energy
from bfpsim.sim.program import plan_program

HERE = Path(__file__).parent
BFP8 = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
WITHIN = 0.01  # of the images: the loss that figures of mantissas set off
IDEAL = "ideal-64k"


def bitq_energy(path: Path) -> None:
    """Fig. 5 of the paper: energy in seven formats."""
    table = pd.read_csv(HERE / "bitq-energy.csv").drop(columns="original_mj").assign(original=1.0)
    table = table[["network", "original", *table.columns[1:-1]]]
    long = table.melt("network", var_name="format", value_name="normalised")
    is_mean = long["network"].str.startswith("geometric mean, ")
    means = long[is_mean].rename(columns={"network": "group"})
    means["group"] = means["group"].str.removeprefix("geometric mean, ")
    plot_energies(long[~is_mean], means, f"Energy of data movement on {IDEAL}", path)


def bitq_alpha(path: Path) -> None:
    """Fig. 6 of the paper: accuracy and energy over alpha."""
    table = pd.read_csv(HERE / "bitq-alpha.csv").assign(top1=lambda t: t["top1_percent"] / 100)
    frames = {}
    for bits, frame in table.groupby("bits", sort=False):
        first = frame.loc[frame["alpha"].idxmin(), "energy_uj"]
        frames[f"bitq{bits}"] = frame.assign(of_first=frame["energy_uj"] / first)
    plot_alphas(frames, f"resnet18-fashion on {IDEAL}", path)


def bitq_front(path: Path) -> None:
    """The front of a search, and what the models' prices choose."""
    front, comparison = (
        pd.read_csv(HERE / f"search-{name}.csv") for name in ("front", "comparison")
    )
    plot_front(front, comparison, "energy", f"resnet18-fashion at 8 bits on {IDEAL}", path)


def mantissa_heat_map(path: Path) -> None:
    """Top-1 over exponent and mantissa bits."""
    plot_heat_map(_heat_map("resnet18-fashion"), WITHIN, "resnet18-fashion on 1,000 images", path)


def mantissa_energy(path: Path) -> None:
    """Accuracy against energy of weights' widths."""
    grid = _heat_map("resnet18-fashion")
    pairs = zip(grid["exponent_bits"], grid["mantissa_bits"], strict=True)
    network, arch = bs.load_workload("resnet18-fashion"), bs.load_arch(IDEAL)
    energy = measure_energy(network, arch, [MiniFloat(int(e), int(m)) for e, m in pairs])
    both = energy.merge(grid, on=["format", "exponent_bits", "mantissa_bits", "bits"])
    plot_energy(both, WITHIN, f"resnet18-fashion on {IDEAL}", path)


def mantissa_tolerance(path: Path) -> None:
    """Mantissa bits against size, by family."""
    title = "Weights in FP(8, m), 10,000 images"
    plot_tolerance(pd.read_csv(HERE / "tolerance.csv"), WITHIN, title, path)


def buffer_sweep(path: Path) -> None:
    """Traffic and energy of ResNet-18 over the buffer's capacity."""
    sizes = [f"{16 << octave} KiB" for octave in range(6)]
    network, arch = bs.load_workload("resnet18"), bs.load_arch("edge-64k")
    plot_sweep(bs.sweep_capacity(network, arch, BFP8, sizes), path)


def programs(path: Path) -> None:
    """ResNet-18's layers alone and as one program, over the buffer's capacity."""
    sizes = [f"{64 << octave} KiB" for octave in range(5)]
    network, arch = bs.load_workload("resnet18"), bs.load_arch("edge-64k")
    alone = bs.sweep_capacity(network, arch, BFP8, sizes)
    plot_programs(alone, bs.sweep_capacity(network, arch, BFP8, sizes, layers="program"), path)


def occupancy(path: Path) -> None:
    """What is held of SRAM as ResNet-18 runs as one program."""
    network, arch = bs.load_workload("resnet18"), bs.load_arch("edge-256k")
    plot_occupancy(plan_program(network, arch, BFP8).run(), path)


def traffic_curve(path: Path) -> None:
    """The least traffic of ResNet-18 at every capacity."""
    plot_curves(traffic_curves(bs.load_workload("resnet18"), bs.load_arch(IDEAL), BFP8), path)


def roofline(path: Path) -> None:
    """The roofline of MobileNetV2-ECA."""
    network, arch = bs.load_workload("mobilenetv2-eca"), bs.load_arch(IDEAL)
    title = f"{network.name} in {BFP8} on {arch.name}"
    plot_roofline(workload_frame(network, BFP8, arch), Roof.of(arch, BFP8), title, path)


FIGURES: dict[str, Callable[[Path], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        *(bitq_energy, bitq_alpha, bitq_front),
        *(mantissa_heat_map, mantissa_energy, mantissa_tolerance),
        *(buffer_sweep, programs, occupancy, traffic_curve, roofline),
    )
}


def _heat_map(network: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / "heat-maps.csv")
    return table[table["network"] == network].reset_index(drop=True)


def draw(names: Iterable[str], out: Path) -> None:
    """Draw figures as PNG into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        FIGURES[name](out / f"{name}.png")
        print(out / f"{name}.png", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder")
    options = parser.parse_args()
    draw(options.names or FIGURES, options.out)
