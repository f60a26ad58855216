"""The roofline of an array and a DRAM channel, and figures of layers under it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from bfpsim.mapping.array import passes
from bfpsim.objects import immutable
from bfpsim.quant.formats import LayerFormats, parse_format
from bfpsim.reports.levels import OUTERMOST
from bfpsim.reports.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    drawing,
    save,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

    from bfpsim.arch import Arch
    from bfpsim.search.sweep.record import Record

# Each kind by colour and by marker.
_LOOKS = {
    "conv": (BLUE, "o"),
    "grouped": (SKY, "s"),
    "depthwise": (VERMILION, "D"),
    "conv1d": (GREY, "v"),
    "linear": (ORANGE, "^"),
    "matmul": (GREEN, "P"),
    "transposed": (PURPLE, "X"),
}
KINDS = tuple(_LOOKS)
"""The kinds of layers, in the order in which they are listed."""
_AREAS = (24.0, 400.0)  # of markers [pt^2]: the least, and that of the largest point
_WHOLE_AREA = 500.0  # of the marker of all cycles together [pt^2]
_LEAST_AREA = 12.0
_RANKS = 8  # places with a number
_APART = 11.0  # of two numbers [pt]
_CELLS = 4  # per octave, in each direction


@immutable
@dataclass(frozen=True, slots=True)
class Roof:
    """The limits of an architecture that works on operands of given formats.

    peak: MACs per cycle of the whole array, rows x columns, divided by the passes of wide operands
    bandwidth: of the DRAM [bit/cycle]
    """

    peak: Fraction
    bandwidth: Fraction

    @classmethod
    def of(cls, arch: Arch, formats: LayerFormats) -> Roof:
        """The roof of an architecture."""
        array = arch.pe_array
        peak = Fraction(array.size, passes(array, formats))
        return cls(peak, arch.dram_bits_per_cycle)

    @property
    def ridge(self) -> Fraction:
        """The least intensity that keeps the whole array busy [MAC/bit]."""
        return self.peak / self.bandwidth

    def attainable(self, macs_per_bit: Fraction) -> Fraction:
        """MACs per cycle that this intensity allows: the lower of the two limits."""
        return min(self.peak, macs_per_bit * self.bandwidth)

    def bound(self, macs_per_bit: Fraction) -> Literal["compute", "memory"]:
        """The limit of a layer of this intensity; at the ridge, computation."""
        return "compute" if macs_per_bit >= self.ridge else "memory"


def plot_roofline(frame: pd.DataFrame, roof: Roof, title: str, path: str | Path) -> None:
    """Draw what `workload_frame` returns for an architecture, as a PNG; equal tables, equal bytes.

    A point stands for the layers of one kind at one intensity: its area is their MACs together.

    Raises ValueError if the table has no row, OSError if the file cannot be written.
    """
    if frame.empty:
        raise ValueError("the roofline has no layer to draw; allowed: at least one")
    alike = frame.groupby(["kind", "macs_per_bit", "macs_per_cycle"])["macs"]
    points = alike.sum().reset_index()
    with drawing() as figure:
        axes = figure.subplots()
        _draw_roof(axes, roof, points["macs_per_bit"])
        largest = points["macs"].max()
        for kind in KINDS:
            of_kind = points[points["kind"] == kind].sort_values("macs", ascending=False)
            if len(of_kind):
                _draw_kind(axes, kind, of_kind, largest, int((frame["kind"] == kind).sum()))
        axes.set_xlabel(f"MACs per bit of compulsory {OUTERMOST} traffic")
        axes.set_ylabel("attainable MACs per cycle")
        axes.grid(True, axis="both")
        legend = axes.legend(
            title=f"layers (area: MACs, up to {_short(largest)})",
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            alignment="left",
        )
        for handle in legend.legend_handles:
            cast("PathCollection", handle).set_sizes([50])
        figure.suptitle(title)
        save(figure, path)


def plot_achieved(record: Record, layers: pd.DataFrame, path: str | Path) -> None:
    """Draw a point's layers under the roof of its hardware, as a PNG; equal tables, equal bytes.

    A layer lies at its MACs per bit of simulated DRAM traffic and per simulated cycle; its area is
    its share of all cycles. Layers within a quarter of an octave of each other are drawn as one.
    Where formats differ from layer to layer, the roof is the highest. Operations of a program that
    are no product, move nothing off chip, or end before others do, have no place in it.

    layers: the rows of this point

    Raises OSError if the file cannot be written.
    """
    layers = layers[(layers["macs"] > 0) & (layers["dram_bits"] > 0) & (layers["cycles"] > 0)]
    formats = [_formats(text) for text in dict.fromkeys(layers["formats"])]
    roof = max((Roof.of(record.arch, one) for one in formats), key=lambda one: one.peak)
    shown = _clusters(layers)
    with drawing() as figure:
        axes = figure.subplots()
        _draw_roof(axes, roof, shown["intensity"])
        axes.scatter(
            shown["intensity"],
            shown["reached"],
            s=_LEAST_AREA + _WHOLE_AREA * shown["share"],
            color=[(BLUE, 0.3)],
            edgecolors=BLUE,
            linewidths=1.0,
            zorder=3,
        )
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, shown["reached"].min() / 2), high)
        named = shown.head(_RANKS).to_dict(orient="records")
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
        axes.set_xlabel(f"MACs per bit of simulated {OUTERMOST} traffic")
        axes.set_ylabel("MACs per cycle, simulated")
        how = str(formats[0]) if len(formats) == 1 else "several formats"
        figure.suptitle(f"{record.network} in {how} on {record.arch.name}: what its layers reach")
        save(figure, path)


def _draw_roof(axes: Axes, roof: Roof, intensities: pd.Series[float]) -> None:
    """Draw a roof over the range of some intensities [MAC/bit]; both axes become logarithmic."""
    ridge, peak = float(roof.ridge), float(roof.peak)
    low = min(intensities.min(), ridge) / 2
    high = max(intensities.max(), ridge) * 4
    floor = low * float(roof.bandwidth)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.plot([low, ridge, high], [floor, peak, peak], color="black", linewidth=1.4, zorder=1)
    axes.plot([ridge, ridge], [floor, peak], color=GREY, linewidth=1.0, dashes=(5, 3), zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(floor, peak * 2.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _note(axes, f"array: {peak:g} MAC/cycle", (high, peak), (-4, 16), "right")
    _note(axes, f"ridge: {ridge:.3g} MAC/bit", (ridge, floor), (5, 8), "left")
    # Left of the slope, where no layer can lie.
    _note(axes, f"{OUTERMOST}: {float(roof.bandwidth):g} bit/cycle", (low, peak), (8, 16), "left")


def _number(axes: Axes, rows: Sequence[Mapping[Hashable, Any]]) -> None:
    """Write every row's rank at its marker: below, or where no other number is."""
    taken: list[tuple[float, float]] = []
    for rank, row in enumerate(rows, 1):
        where = (row["intensity"], row["reached"])
        x, y = axes.transData.transform(where) * 72 / axes.figure.dpi
        away = 10 + math.sqrt(_LEAST_AREA + _WHOLE_AREA * row["share"]) / 2
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


def _clusters(layers: pd.DataFrame) -> pd.DataFrame:
    """Layers that would hide one another as one, those that take the most cycles first."""
    octaves = {per: np.log2(layers["macs"] / layers[per]) for per in ("dram_bits", "cycles")}
    cells = [np.round(_CELLS * octaves[per]) for per in octaves]
    sums = {"layer": "first", "macs": "sum", "dram_bits": "sum", "cycles": "sum", "layers": "sum"}
    merged = layers.assign(layers=1).groupby(cells, sort=False).agg(sums).reset_index(drop=True)
    merged["intensity"] = merged["macs"] / merged["dram_bits"]
    merged["reached"] = merged["macs"] / merged["cycles"]
    merged["share"] = merged["cycles"] / merged["cycles"].sum()
    return merged.sort_values("share", ascending=False, kind="stable")


def _formats(text: str) -> LayerFormats:
    """The formats that `str(LayerFormats)` names."""
    names = dict(part.split("=") for part in text.split() if "=" in part)
    if not names:
        return LayerFormats.uniform(parse_format(text))
    return LayerFormats(**{tensor: parse_format(name) for tensor, name in names.items()})


def _note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[int, int],
    side: Literal["left", "right"],
) -> None:
    """Text on one side of a point, so many points away from it."""
    axes.annotate(text, at, offset, textcoords="offset points", ha=side, va="center", fontsize=9)


def _draw_kind(axes: Axes, kind: str, points: pd.DataFrame, largest: int, layers: int) -> None:
    colour, marker = _LOOKS[kind]
    least, most = _AREAS
    axes.scatter(
        points["macs_per_bit"],
        points["macs_per_cycle"],
        s=least + (most - least) * points["macs"] / largest,
        color=[(colour, 0.3)],  # what lies below shows through
        marker=marker,
        edgecolors=colour,
        linewidths=1.2,
        zorder=3,
        clip_on=False,
        label=f"{kind} ({layers})",
    )


def _short(macs: int) -> str:
    """A count in the largest of M and G that keeps it above 1, or in k."""
    scale, unit = next((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (0.0, "k")) if macs >= s)
    return f"{macs / (scale or 1e3):.3g} {unit}"
