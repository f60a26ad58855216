"""Figures of what energy and time are made of: over the capacity, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.store.choice import cheapest
from bfpsim.reports.store.measures import energy_column
from bfpsim.reports.store.panels import Part, capacity_axis, layer_axis, stack
from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd

_ENERGY = (
    Part(energy_column("DRAM", "I"), "DRAM I", BLUE),
    Part(energy_column("DRAM", "W"), "DRAM W", BLUE, "////"),
    Part(energy_column("DRAM", "O"), "DRAM O", BLUE, "...."),
    Part(energy_column("SRAM", "I"), "SRAM I", ORANGE),
    Part(energy_column("SRAM", "W"), "SRAM W", ORANGE, "////"),
    Part(energy_column("SRAM", "O"), "SRAM O", ORANGE, "...."),
)
_CYCLES = (
    Part("compute_cycles", "computing", GREY),
    Part("stall_I_cycles", "waiting for I", SKY),
    Part("stall_W_cycles", "waiting for W", VERMILION, "////"),
    Part("stall_O_cycles", "waiting for O", ORANGE, "...."),
)


def plot_energy(points: pd.DataFrame, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw one network's energy [µJ] by level and tensor, as a PNG; equal tables, equal bytes.

    Left: of the point of least energy at each capacity, in the formats of the best of them all.
    Right: of each layer of that one, in the network's order. Raises OSError if the file cannot be
    written.
    """
    _plot(points, layers, _ENERGY, "energy by level and tensor", "energy [µJ]", 1e6, path)


def plot_stalls(points: pd.DataFrame, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw what one network's PE array did [1000 cycles], as `plot_energy` does energy."""
    _plot(points, layers, _CYCLES, "what the PE array did", "1000 cycles", 1e3, path)


def _plot(
    points: pd.DataFrame,
    layers: pd.DataFrame,
    parts: Sequence[Part],
    title: str,
    unit: str,
    scale: float,
    path: str | Path,
) -> None:
    least = cheapest(points, "network").iloc[0]
    best = cheapest(points[points["formats"] == least["formats"]], "capacity_bits")
    of_best = layers[layers["point"] == least["point"]]
    with drawing() as figure:
        whole, each = figure.subplots(1, 2, width_ratios=(1, 2))
        stack(whole, best, parts, scale)
        capacity_axis(whole, list(best["capacity_bits"]))
        whole.tick_params(axis="x", rotation=90)
        whole.set_title("least energy at each capacity")
        whole.set_ylabel(unit)
        stack(each, of_best, parts, scale)
        layer_axis(each, list(of_best["layer"]))
        each.set_title(f"layers of point {least['point']}, the least of all")
        handles, labels = whole.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(parts))
        figure.suptitle(f"{least['network']} in {least['formats']}: {title}")
        save(figure, path)
