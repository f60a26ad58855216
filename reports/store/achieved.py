"""The roofline of a point: what its layers reached in the simulation, under what they could."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quant.formats import LayerFormats, parse_format
from reports.roofline import Roof, draw_roof
from reports.style import BLUE, drawing, save
from search.sweep.record import Record

if TYPE_CHECKING:
    import pandas as pd

_AREA = 500.0  # of the marker of all cycles together [pt^2]
_LEAST = 12.0
_NAMED = 8  # places with a number
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
        for rank, row in enumerate(shown.head(_NAMED).to_dict(orient="records"), 1):
            where = (row["intensity"], row["reached"])
            below = -4 - math.sqrt(_LEAST + _AREA * row["share"]) / 2
            axes.annotate(
                str(rank), where, (0, below), textcoords="offset points", ha="center", va="top"
            )
            more = f" + {row['layers'] - 1}" if row["layers"] > 1 else ""
            axes.plot([], [], " ", label=f"{rank}  {row['share']:.0%}  {row['layer']}{more}")
        axes.legend(
            title="share of all cycles (area)",
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            alignment="left",
            handlelength=0,
            handletextpad=0,
        )
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, shown["reached"].min() / 2), high)
        axes.grid(True, axis="both")
        axes.set_xlabel("MACs per bit of simulated DRAM traffic")
        axes.set_ylabel("MACs per cycle, simulated")
        named = str(formats[0]) if len(formats) == 1 else "several formats"
        figure.suptitle(f"{record.network} in {named} on {record.arch.name}: what its layers reach")
        save(figure, path)


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
