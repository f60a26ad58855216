"""Tables and figures of what narrow mantissas cost networks of several sizes and families."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.quant.mantissa.accuracy import TRANSFORMER, WIDTHS
from bfpsim.reports.mantissa import points
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

_LOOKS = tuple(zip((BLUE, VERMILION, ORANGE, SKY, GREY), "osD^v", strict=True))
_SHOWN = (3, 2, 1, 0)


def tolerance_table(frame: pd.DataFrame, title: str) -> Table:
    """What `quant.mantissa.accuracy.tolerances` returns."""
    table = make_table(title, "network", "family", "kind", gap=1)
    numbers(table, "parameters", "top-1 in\nFP32 [%]", "fewest m", "m at the\nlimit")
    numbers(table, *(f"loss, m={m}\n[points]" for m in _SHOWN))
    for row in frame.to_dict(orient="records"):
        none = isnan(row["bits_at_limit"])
        table.add_row(
            row["model"],
            row["family"],
            row["kind"],
            f"{row['parameters']:,}",
            f"{100 * row['top1_fp32']:.2f}",
            "-" if none else str(row["fewest_mantissa_bits"]),
            "-" if none else f"{row['bits_at_limit']:.2f}",
            *(f"{100 * row[f'loss_m{m}']:.2f}" for m in _SHOWN),
        )
    return table


def plot_tolerance(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw losses against mantissa bits, and tolerance against parameter count, as a PNG.

    A family has a colour and a marker, larger for larger networks; transformers are dashed and
    hollow.

    frame: of `tolerances`
    within: the loss of top-1 at which tolerance is taken, as a share of the images

    Raises OSError if the file cannot be written.
    """
    with drawing() as figure:
        losses, sizes = figure.subplots(1, 2)
        families = list(frame.groupby("family", sort=False))
        for number, (family, rows) in enumerate(families):
            colour, marker = _LOOKS[number % len(_LOOKS)]
            attentive = rows["kind"].iloc[0] == TRANSFORMER
            look = {
                "color": colour, "marker": marker,
                "linestyle": "--" if attentive else "-",
                "markerfacecolor": "white" if attentive else colour,
            }  # fmt: skip
            for rank, row in enumerate(rows.to_dict(orient="records")):
                own = [100 * row[f"loss_m{m}"] for m in WIDTHS]
                losses.plot(WIDTHS, own, linewidth=1.0, markersize=4 + 2 * rank, **look)
            label = f"{family} ({rows['kind'].iloc[0]})"
            sizes.plot(rows["parameters"], rows["bits_at_limit"], label=label, **look)
        _finish(losses, sizes, within)
        figure.suptitle(title)
        save(figure, path)


def _finish(losses: Axes, sizes: Axes, within: float) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    losses.axhline(100 * within, color=GREY, linewidth=1.0, dashes=(5, 3))
    losses.set_yscale("symlog", linthresh=1.0, linscale=0.5)
    losses.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    losses.set_ylim(-0.5, 100)
    losses.set_xlim(max(WIDTHS) + 0.3, min(WIDTHS) - 0.3)
    losses.set_xlabel("mantissa bits of weights")
    losses.set_ylabel("loss of top-1 [points]")
    sizes.set_xscale("log")
    sizes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    sizes.xaxis.set_major_formatter(EngFormatter(sep=""))
    sizes.xaxis.set_minor_formatter(NullFormatter())
    sizes.set_xlabel("parameters")
    sizes.set_ylim(0)
    sizes.set_ylabel(f"mantissa bits at a loss of {points(within)}")
    sizes.legend()
