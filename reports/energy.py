"""The figure of buffer energies: what a bit costs, and which buffer is the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PJ_PER_MJ = 1e9
_LINES = ((GREY, "s--"), (SKY, "^-"), (BLUE, "o-"), (VERMILION, "D-"), (ORANGE, "v-"))


def plot_energies(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw sweeps of one network under several buffer energies, as a PNG.

    frame: sweeps as `sweep_capacity` returns them, one below the other, each with the columns
        `energy`, as an architecture file spells it, and `pj_per_bit`; at most five energies

    Left: what a bit read or written costs [pJ] at each capacity. Right: energy of data movement in
    DRAM and SRAM together [mJ]; the least of each sweep is ringed. Equal tables make equal bytes.

    Raises ValueError if the table has no row or too many energies, OSError if the file cannot be
    written.
    """
    energies = list(dict.fromkeys(frame["energy"]))
    if not 1 <= len(energies) <= len(_LINES):
        raise ValueError(f"{len(energies)} energies to draw; allowed: 1 to {len(_LINES)}")
    first = frame.iloc[0]
    with drawing() as figure:
        bit, network = figure.subplots(1, 2)
        for name, (color, line) in zip(energies, _LINES, strict=False):
            sweep = frame[frame["energy"] == name].sort_values("capacity_bits")
            x = np.log2(sweep["capacity_bits"].to_numpy())
            total = sweep["energy_pj"].to_numpy() / _PJ_PER_MJ
            bit.plot(x, sweep["pj_per_bit"], line, color=color, label=name)
            network.plot(x, total, line, color=color)
            best = int(total.argmin())
            network.plot(x[best], total[best], "o", ms=14, mfc="none", color="black")
        bit.set_title("a bit of the buffer, read or written")
        bit.set_ylabel("energy [pJ]")
        network.set_title("the network's data movement (ring: least)")
        network.set_ylabel("energy [mJ]")
        sizes = np.unique(frame["capacity_bits"].to_numpy())
        for axes in (bit, network):
            _scale(axes, sizes)
        figure.legend(loc="outside lower center", ncols=len(energies))
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']} with its SRAM resized"
        )
        save(figure, path)


def _scale(axes: Axes, sizes: np.ndarray) -> None:
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel("SRAM capacity")
    axes.set_xticks(np.log2(sizes), [CAPACITY.text(int(size)) for size in sizes], rotation=30)
