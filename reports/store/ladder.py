"""The figure of the analytical models beside the simulation, and what each rung explains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.mapping.models import Effect
from bfpsim.reports.store.choice import cheapest
from bfpsim.reports.store.panels import Part, capacity_axis, stack
from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LOOKS = {
    Effect.EDGES: (GREY, ""),
    Effect.PADDING: (SKY, ""),
    Effect.HALO: (BLUE, "////"),
    Effect.PARTIAL_SUMS: (VERMILION, ""),
    Effect.BLOCKS: (ORANGE, "...."),
    Effect.BURSTS: (BLUE, ""),
}
_RUNGS = tuple(
    Part(f"{effect.value}_bits", effect.value.replace("_", " "), *_LOOKS[effect])
    for effect in Effect
)


def plot_ladder(points: pd.DataFrame, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw one network's models against its simulation, as a PNG; equal tables make equal bytes.

    Left: DRAM traffic [Mbit] of every layer of every point. Right: of the point of least energy at
    each capacity, what each rung adds to the paper's model [% of the simulated bits]; together, the
    rungs are what the paper's model is off by.

    Raises OSError if the file cannot be written.
    """
    best = cheapest(points, "capacity_bits")
    shares = best[[rung.column for rung in _RUNGS]].div(best["dram_bits"] / 100, axis=0)
    with drawing() as figure:
        scatter, rungs = figure.subplots(1, 2)
        _scatter(scatter, layers)
        stack(rungs, shares, _RUNGS, 1.0)
        rungs.plot(range(len(shares)), shares.sum(axis=1), "kD", ms=6, mfc="white", label="sum")
        capacity_axis(rungs, list(best["capacity_bits"]))
        rungs.set_title("from the paper's model to the simulation")
        rungs.set_ylabel("bits added [% of simulated]")
        rungs.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.suptitle(f"{best['network'].iloc[0]}: DRAM traffic by model and by simulation")
        save(figure, path)


def _scatter(axes: Axes, layers: pd.DataFrame) -> None:
    mbit = (layers[["dram_bits", "exact_bits", "paper_bits"]].drop_duplicates() / 1e6).astype(float)
    simulated = mbit["dram_bits"]
    ends = [simulated.min() / 1.5, simulated.max() * 1.5]
    axes.plot(ends, ends, color="black", lw=1.0, label="equal")
    axes.plot(simulated, mbit["paper_bits"], "^", color=VERMILION, ms=5, mew=0, label="paper")
    axes.plot(simulated, mbit["exact_bits"], "o", color=BLUE, ms=4, mfc="none", label="exact")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, axis="both")
    axes.set_title("every layer of every point")
    axes.set_xlabel("simulated, whole bursts [Mbit]")
    axes.set_ylabel("by the model [Mbit]")
    axes.legend(loc="upper left")
