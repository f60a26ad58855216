"""The roofline of a point: what its layers reached in the simulation, under what they could."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.reports.roofline import Roof, draw_roof
from bfpsim.reports.style import BLUE, drawing, save
from bfpsim.search.sweep.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_AREA = 500.0  # of the marker of all cycles together [pt^2]
_LEAST = 12.0
_NAMED = 8  # places with a number
_APART = 11.0  # of two numbers [pt]
_CELLS = 4  # per octave, in each direction


def plot_achieved(record: Record, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw a point's layers under the roof of its hardware, as a PNG; equal tables, equal bytes.

    A layer lies at its MACs per bit of simulated DRAM traffic and per simulated cycle; its area is
    its share of all cycles. Layers within a quarter of an octave of each other are drawn as one.
    Where formats differ from layer to layer, the roof is the highest.

    layers: the rows of this point

    Raises OSError if the file cannot be written.
    """
    formats = [_formats(text) for text in dict.fromkeys(layers["formats"])]
    roof = max((Roof.of(record.arch, one) for one in formats), key=lambda one: one.peak)
    shown = _together(layers)
    with drawing() as figure:
        axes = figure.subplots()
        draw_roof(axes, roof, shown["intensity"])
        axes.scatter(
            shown["intensity"],
            shown["reached"],
            s=_LEAST + _AREA * shown["share"],
            color=[(BLUE, 0.3)],
            edgecolors=BLUE,
            linewidths=1.0,
            zorder=3,
        )
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, shown["reached"].min() / 2), high)
        named = shown.head(_NAMED).to_dict(orient="records")
        _number(axes, named)
        for rank, row in enumerate(named, 1):
            more = f" and {row['layers'] - 1} near it" if row["layers"] > 1 else ""
            axes.plot([], [], " ", label=f"{rank}  {row['share']:.0%}  {row['layer']}{more}")
        axes.legend(
            title="share of all cycles (area)",
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            alignment="left",
            handlelength=0,
            handletextpad=0,
        )
        axes.grid(True, axis="both")
        axes.set_xlabel("MACs per bit of simulated DRAM traffic")
        axes.set_ylabel("MACs per cycle, simulated")
        how = str(formats[0]) if len(formats) == 1 else "several formats"
        figure.suptitle(f"{record.network} in {how} on {record.arch.name}: what its layers reach")
        save(figure, path)


def _number(axes: Axes, rows: Sequence[Mapping[Hashable, Any]]) -> None:
    """Write every row's rank at its marker: below, or where no other number is."""
    taken: list[tuple[float, float]] = []
    for rank, row in enumerate(rows, 1):
        where = (row["intensity"], row["reached"])
        x, y = axes.transData.transform(where) * 72 / axes.figure.dpi
        away = 10 + math.sqrt(_LEAST + _AREA * row["share"]) / 2
        sides = [(0.0, -away), (away, 0.0), (-away, 0.0), (0.0, away)]
        free = (
            (dx, dy)
            for dx, dy in sides
            if all(math.hypot(x + dx - a, y + dy - b) > _APART for a, b in taken)
        )
        dx, dy = next(free, sides[0])
        taken.append((x + dx, y + dy))
        axes.annotate(
            str(rank), where, (dx, dy), textcoords="offset points", ha="center", va="center"
        )


def _together(layers: pd.DataFrame) -> pd.DataFrame:
    """Layers that would hide one another as one, those that take the most cycles first."""
    octaves = {per: np.log2(layers["macs"] / layers[per]) for per in ("dram_bits", "cycles")}
    cells = [np.round(_CELLS * octaves[per]) for per in octaves]
    sums = {"layer": "first", "macs": "sum", "dram_bits": "sum", "cycles": "sum", "layers": "sum"}
    found = layers.assign(layers=1).groupby(cells, sort=False).agg(sums).reset_index(drop=True)
    found["intensity"] = found["macs"] / found["dram_bits"]
    found["reached"] = found["macs"] / found["cycles"]
    found["share"] = found["cycles"] / found["cycles"].sum()
    return found.sort_values("share", ascending=False, kind="stable")


def _formats(text: str) -> LayerFormats:
    """The formats that `str(LayerFormats)` names."""
    names = dict(part.split("=") for part in text.split() if "=" in part)
    if not names:
        return LayerFormats.uniform(parse_format(text))
    return LayerFormats(**{tensor: parse_format(name) for tensor, name in names.items()})
