"""The figure of least DRAM traffic against buffer size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.style import BLUE, GREY, VERMILION, drawing, save

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_curves(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw what `traffic_curves` returns, as a PNG; equal tables make equal bytes.

    Left: the whole network with its compulsory minimum and its knee. Right: every distinct layer,
    its traffic as a multiple of its own minimum, knees marked.

    Raises ValueError if the table has no row, OSError if the file cannot be written.
    """
    if frame.empty:
        raise ValueError("the curves have no row to draw; allowed: at least one layer")
    with drawing() as figure:
        whole, each = figure.subplots(1, 2)
        total = frame[frame["layer"] == "total"]
        _draw_total(whole, total)
        widest = frame["capacity_bits"].max() * 2
        for _, curve in frame[frame["layer"] != "total"].groupby("layer", sort=False):
            _draw_layer(each, curve, widest)
        each.axhline(1, color="black", linewidth=1.3, dashes=(5, 3), label="compulsory")
        each.set_title("each distinct layer")
        each.set_ylabel("DRAM traffic / compulsory")
        each.legend(loc="upper right")
        for axes in (whole, each):
            _capacity_axis(axes)
        first = frame.iloc[0]
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']}: least DRAM traffic "
            "of any mapping"
        )
        save(figure, path)


def _draw_total(axes: Axes, curve: pd.DataFrame) -> None:
    mbit = curve["dram_bits"] / 1e6
    end = curve["capacity_bits"].iloc[-1] * 2
    x = [*curve["capacity_bits"], end]
    axes.step(x, [*mbit, mbit.iloc[-1]], where="post", color=BLUE, linewidth=1.8)
    floor = curve["compulsory_bits"].iloc[0] / 1e6
    axes.axhline(floor, color="black", linewidth=1.3, dashes=(5, 3), label="compulsory")
    knee = curve[curve["knee"]]
    if len(knee):
        at = int(knee["capacity_bits"].iloc[0])
        axes.plot([at], knee["dram_bits"] / 1e6, "o", color=VERMILION, label="knee")
        axes.annotate(
            f"{at / 8192:.1f} KiB",
            (at, knee["dram_bits"].iloc[0] / 1e6),
            xytext=(8, 8),
            textcoords="offset points",
        )
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_title("whole network")
    axes.set_ylabel("DRAM traffic [Mbit]")
    axes.legend(loc="upper right")


def _draw_layer(axes: Axes, curve: pd.DataFrame, end: int) -> None:
    ratio = curve["dram_bits"] / curve["compulsory_bits"]
    x = [*curve["capacity_bits"], end]
    axes.step(x, [*ratio, ratio.iloc[-1]], where="post", color=GREY, linewidth=1.0)
    knee = curve["knee"].to_numpy()
    axes.plot(curve["capacity_bits"][knee], ratio[knee], "o", color=VERMILION, markersize=4)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g} x")


def _capacity_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=4)
    low, high = axes.get_xlim()
    ticks = [size for size in (8 * 4**i for i in range(3, 17)) if low <= size <= high]
    axes.set_xticks(ticks, [CAPACITY.text(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("SRAM capacity")
