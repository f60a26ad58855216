"""The figure of a buffer sweep: data movement and energy against capacity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.style import BLUE, ORANGE, SKY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_BITS_PER_MBIT = 1e6
_PJ_PER_MJ = 1e9
# Legends stand where no data can be.
_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3}


def plot_sweep(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw what `sweep_capacity` returns, as a PNG; equal tables make equal bytes.

    Left: DRAM traffic [Mbit], simulated with and without burst padding, by the exact and by the
    paper's model. Right: energy [mJ] of DRAM and SRAM. Dashed: what no mapping avoids.

    Raises ValueError if the table has no row, OSError if the file cannot be written.
    """
    if frame.empty:
        raise ValueError("the sweep has no row to draw; allowed: at least one capacity")
    frame = frame.sort_values("capacity_bits")
    first = frame.iloc[0]
    sizes = frame["capacity_bits"].to_numpy()
    x = np.log2(sizes)
    with drawing() as figure:
        traffic, energy = figure.subplots(1, 2)
        _draw_traffic(traffic, frame, x)
        _draw_energy(energy, frame, x)
        for axes in (traffic, energy):
            axes.set_xlabel("SRAM capacity")
            axes.set_xticks(x, [CAPACITY.text(int(size)) for size in sizes])
            axes.set_xlim(x[0] - 0.6, x[-1] + 0.6)
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']} with its SRAM resized"
        )
        save(figure, path)


def _draw_traffic(axes: Axes, frame: pd.DataFrame, x: NDArray[np.float64]) -> None:
    mbit = frame.filter(like="_bits") / _BITS_PER_MBIT
    axes.plot(x, mbit["dram_bits"], "o-", color=BLUE, label="simulated")
    axes.plot(x, mbit["dram_payload_bits"], "D-", color=SKY, ms=5, label="simulated payload")
    axes.plot(x, mbit["exact_bits"], "o", color="black", ms=10, mfc="none", label="exact model")
    axes.plot(x, mbit["paper_bits"], "^:", color=VERMILION, lw=1.8, label="paper's model")
    _floor(axes, mbit["compulsory_bits"].iloc[0], "compulsory")
    axes.set_title("DRAM data movement")
    axes.set_ylabel("DRAM traffic [Mbit]")
    axes.set_ylim(0, 1.08 * mbit[["dram_bits", "paper_bits"]].to_numpy().max())
    axes.legend(**_BELOW)


def _draw_energy(axes: Axes, frame: pd.DataFrame, x: NDArray[np.float64]) -> None:
    dram = frame["dram_energy_pj"].to_numpy() / _PJ_PER_MJ
    sram = frame["sram_energy_pj"].to_numpy() / _PJ_PER_MJ
    width = 0.6 * min([*np.diff(np.unique(x)), 1.0])
    axes.bar(x, sram, width, dram, color=ORANGE, edgecolor="white", hatch="//", label="SRAM")
    axes.bar(x, dram, width, color=BLUE, edgecolor="white", label="DRAM")
    _floor(axes, frame["compulsory_energy_pj"].iloc[0] / _PJ_PER_MJ, "compulsory DRAM")
    for place, total in zip(x, dram + sram, strict=True):
        axes.text(place, total, f"{total:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set_title("Data-movement energy")
    axes.set_ylabel("energy [mJ]")
    axes.set_ylim(0, 1.08 * (dram + sram).max())
    axes.legend(**_BELOW)


def _floor(axes: Axes, level: float, label: str) -> None:
    """A dashed line, white between its dashes where it crosses a bar, under the markers."""
    axes.axhline(level, color="white", linewidth=1.3, zorder=1.5)
    axes.axhline(level, color="black", linewidth=1.3, zorder=1.5, dashes=(5, 3), label=label)
