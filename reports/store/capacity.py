"""The figure of buffer size: data movement and energy of a network in several formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.store.choice import cheapest
from bfpsim.reports.store.panels import capacity_scale
from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LINES = ((BLUE, "o"), (VERMILION, "^"), (SKY, "s"), (ORANGE, "D"), (GREY, "v"))
_FLOOR = (4, 3)  # dashes


def plot_capacity(points: pd.DataFrame, path: str | Path) -> None:
    """Draw the points of one network, as a PNG; equal tables make equal bytes.

    A line per format, of the five that need the least energy, through the point of least energy at
    each capacity. Left: DRAM traffic [Mbit]; right: energy [mJ]; dashed: what no mapping avoids.

    Raises OSError if the file cannot be written.
    """
    sizes = sorted(points["capacity_bits"].unique())
    least = points.groupby("formats")["energy_pj"].min().sort_values(kind="stable")
    shown = least.index[: len(_LINES)]
    with drawing() as figure:
        traffic, energy = figure.subplots(1, 2)
        for formats, (colour, marker) in zip(shown, _LINES, strict=False):
            best = cheapest(points[points["formats"] == formats], "capacity_bits")
            x = best["capacity_bits"]
            for axes, simulated, floor, unit in (
                (traffic, "dram_bits", "compulsory_bits", 1e6),
                (energy, "energy_pj", "compulsory_energy_pj", 1e9),
            ):
                axes.plot(x, best[simulated] / unit, f"{marker}-", color=colour, label=formats)
                axes.plot(x, best[floor] / unit, color=colour, lw=1.2, dashes=_FLOOR)
        _finish(traffic, sizes, "DRAM data movement", "DRAM traffic [Mbit]")
        _finish(energy, sizes, "data-movement energy, DRAM and SRAM", "energy [mJ]")
        traffic.plot([], [], color="black", lw=1.2, dashes=_FLOOR, label="compulsory (DRAM)")
        handles, labels = traffic.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        of = "" if len(least) == len(shown) else f", {len(shown)} best of {len(least)} formats"
        network = points["network"].iloc[0]
        figure.suptitle(f"{network}: the points of least energy at each capacity{of}")
        save(figure, path)


def _finish(axes: Axes, sizes: list[int], title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    capacity_scale(axes, sizes)
