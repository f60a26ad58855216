"""Accuracy against energy: tables and figures of what narrower weights save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.mantissa import SHOWN, points
from bfpsim.reports.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    drawing,
    make_table,
    numbers,
    save,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.table import Table

_BITS_PER_MBIT = 1e6
_PJ_PER_UJ = 1e6


def energy_table(frame: pd.DataFrame, title: str) -> Table:
    """What `search.precision.measure_energy` returns, at the widest exponent.

    Columns top1 and accuracy_loss are shown if they are there.
    """
    table = make_table(title, gap=1)
    numbers(table, "m", "bits of\na weight", "DRAM\n[Mbit]", "of weights\n[Mbit]")
    numbers(table, "DRAM\n[µJ]", "SRAM\n[µJ]", "energy\n[µJ]", "saved\n[%]")
    judged = "top1" in frame
    if judged:
        numbers(table, "top-1\n[%]", "loss\n[points]")
    rows = _at_widest(frame)
    for row in rows[rows["mantissa_bits"].isin(SHOWN)].to_dict(orient="records"):
        cells = [f"{row['mantissa_bits']}", f"{row['bits']}"]
        cells += [f"{row[key] / _BITS_PER_MBIT:.3f}" for key in ("dram_bits", "dram_weight_bits")]
        cells += [
            f"{row[key] / _PJ_PER_UJ:.2f}"
            for key in ("dram_energy_pj", "sram_energy_pj", "energy_pj")
        ]
        cells.append(f"{100 * row['energy_saved']:.1f}")
        if judged:
            cells += [f"{100 * row['top1']:.2f}", f"{100 * row['accuracy_loss']:.2f}"]
        table.add_row(*cells)
    return table


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other beats: none with as little energy has a higher top-1.

    From the least energy on. Of rows that are equal in both, the first.
    """
    rows = frame.sort_values(["energy_pj", "top1"], ascending=[True, False], kind="stable")
    best = rows["top1"].cummax().shift(fill_value=-1.0)
    found: pd.DataFrame = rows[rows["top1"] > best]
    return found


def plot_energy(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw accuracy against energy, and what the energy is made of, as a PNG.

    frame: of `measure_energy`, with the columns top1 and accuracy_loss; without them, what the
        energy is made of alone
    within: how much top-1 may be lost, as a share of the images

    Raises OSError if the file cannot be written.
    """
    judged = "top1" in frame
    with drawing() as figure:
        panels = figure.subplots(1, 1 + judged, squeeze=False)[0]
        if judged:
            _draw_accuracy(panels[0], frame, within)
        _draw_parts(panels[-1], _at_widest(frame))
        figure.suptitle(title)
        save(figure, path)


def _draw_accuracy(axes: Axes, frame: pd.DataFrame, within: float) -> None:
    best = front(frame)
    axes.step(
        [*best["energy_pj"] / _PJ_PER_UJ, frame["energy_pj"].max() / _PJ_PER_UJ],
        [*100 * best["top1"], 100 * best["top1"].iloc[-1]],
        where="post", color=ORANGE, linewidth=1.8, label="best format for the energy",
    )  # fmt: skip
    widest = _at_widest(frame)
    energy, top = widest["energy_pj"] / _PJ_PER_UJ, 100 * widest["top1"]
    e = widest["exponent_bits"].iloc[0]
    axes.plot(energy, top, "o", color=BLUE, markersize=5, label=f"e = {e}, with m")
    for m, x, y in zip(widest["mantissa_bits"], energy, top, strict=True):
        if m in SHOWN:
            axes.annotate(
                str(m), (x, y), (3, -11), textcoords="offset points", fontsize=8, color=BLUE
            )
    limit = float((frame["top1"] + frame["accuracy_loss"]).iloc[0]) - within
    axes.axhline(
        100 * limit, color=GREY, linewidth=1.0, dashes=(5, 3), label=f"FP32 less {points(within)}"
    )
    axes.set_xlim(0)
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(0, 102)
    axes.set_xlabel("data-movement energy [µJ]")
    axes.set_ylabel("top-1 [%]")
    axes.legend(loc="center right")


def _draw_parts(axes: Axes, frame: pd.DataFrame) -> None:
    """Stacked bars at each mantissa width: weights from DRAM, the rest of DRAM, SRAM."""
    per_bit = frame["dram_energy_pj"] / frame["dram_bits"]
    weights = frame["dram_weight_bits"] * per_bit / _PJ_PER_UJ
    dram, sram = frame["dram_energy_pj"] / _PJ_PER_UJ, frame["sram_energy_pj"] / _PJ_PER_UJ
    places = frame["mantissa_bits"]
    for height, bottom, colour, hatch, label in (
        (weights, 0, BLUE, "", "DRAM, weights"),
        (dram - weights, weights, SKY, "//", "DRAM, inputs and outputs"),
        (sram, dram, VERMILION, "", "SRAM"),
    ):
        axes.bar(
            places, height, 0.8, bottom, color=colour, edgecolor="white", hatch=hatch, label=label
        )
    axes.set_xlabel(f"mantissa bits of weights, e = {frame['exponent_bits'].iloc[0]}")
    axes.set_ylabel("data-movement energy [µJ]")
    axes.set_ylim(0, 1.25 * float((dram + sram).max()))
    axes.invert_xaxis()
    axes.legend(loc="upper right")


def _at_widest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the widest exponent, from the widest mantissa on."""
    rows: pd.DataFrame = frame[frame["exponent_bits"] == frame["exponent_bits"].max()]
    return rows.sort_values("mantissa_bits", ascending=False)
