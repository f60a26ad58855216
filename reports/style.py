"""The looks of all figures and tables, their units, and how a figure becomes a file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bfpsim.arch.units import CAPACITY
from bfpsim.workloads.files.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from rich.console import RenderableType
    from rich.style import StyleType

# Okabe and Ito's palette: distinct with any colour vision.
BLUE, SKY, ORANGE, VERMILION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#777777"
GREEN, PURPLE, YELLOW = "#009E73", "#CC79A7", "#F0E442"
_SIZE_INCHES = (9.6, 4.8)
_DPI = 200
_CAPACITIES = 30  # labels aslant that have room along the whole width
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "hatch.linewidth": 0.8,
    # Names may hold dollars. So axes need formatters that write no mathtext (`plain_powers`).
    "text.parse_math": False,
    "svg.hashsalt": "bfpsim",  # names of parts, random without it
}

Ending = Literal["png", "pdf", "svg"]
"""The kinds of files that figures are written as, by their names' endings."""
ENDINGS: tuple[Ending, ...] = ("png", "pdf", "svg")
# What would differ from one run to the next: who wrote a file, and when.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}

Unit = tuple[float, str]
"""A unit: how many of the base unit it is, and its name."""

BITS: tuple[Unit, ...] = ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit"), (1.0, "bit"))
ENERGY: tuple[Unit, ...] = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
CYCLES: tuple[Unit, ...] = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
TIME: tuple[Unit, ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


@contextmanager
def drawing() -> Iterator[Figure]:
    """A figure of two panels' width in this style, whatever the user's own settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        yield Figure(figsize=_SIZE_INCHES, layout="constrained")


def plain_powers(axis: Axis) -> None:
    """Label the ticks of a logarithmic axis with plain numbers, where they would have labels."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False))


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG, PDF or SVG, as the path ends, whole or not at all; equal figures, equal bytes.

    Raises ValueError for another ending, OSError if the file cannot be written.
    """
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in ENDINGS:
        allowed = ", ".join(f".{one}" for one in ENDINGS)
        raise ValueError(f"{path}: ending {ending!r}; allowed: {allowed}")
    image = io.BytesIO()
    figure.savefig(image, format=ending, dpi=_DPI, metadata=_METADATA[ending])
    write_atomic(path, image.getvalue())


def capacity_ticks(axes: Axes, sizes: Sequence[int], places: Sequence[float]) -> None:
    """Label the x axis with capacities [bit], aslant, at their places: as many as have room.

    places: ascending
    """
    along = [math.log2(at) for at in places] if axes.get_xscale() == "log" else places
    least = (along[-1] - along[0]) / (_CAPACITIES * _width(axes))
    shown: list[int] = []
    for number, at in enumerate(along):
        if not shown or at - along[shown[-1]] >= least:
            shown.append(number)
    axes.set_xticks(
        [places[number] for number in shown],
        [CAPACITY.text(int(sizes[number])) for number in shown],
        rotation=45, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    axes.set_xticks([], minor=True)


def _width(axes: Axes) -> float:
    """The share of the figure's width that a panel has."""
    spec = axes.get_subplotspec()
    if spec is None:
        return 1.0
    ratios = [float(own) for own in spec.get_gridspec().get_width_ratios()]  # type: ignore
    return ratios[spec.colspan.start] / sum(ratios)


class PlainTable(Table):
    """A table whose cells are text as it stands: names may look like rich's markup."""

    def add_row(
        self,
        *renderables: RenderableType | None,
        style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:
        """Add a row; a cell with a look of its own is a `Text`."""
        cells = (Text(cell) if isinstance(cell, str) else cell for cell in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def make_table(title: str, *columns: str, gap: int = 0) -> PlainTable:
    """A table of name columns, which fold where the terminal is narrow."""
    made = PlainTable(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap, 0, 0),
    )
    for column in columns:
        made.add_column(escape(column), overflow="fold", vertical="bottom")
    return made


def numbers(table: Table, *headers: str) -> None:
    """Add columns of numbers, which never fold."""
    for header in headers:
        table.add_column(escape(header), justify="right", no_wrap=True, vertical="bottom")


def readable(largest: float, units: Sequence[Unit]) -> Unit:
    """The largest of the units, which descend, in which a number is 1 or more; else the last."""
    return next((one for one in units if one[0] <= largest), units[-1])


def layers_text(network: str, layers: Iterable[str], counts: Iterable[int] = (1,)) -> str:
    """What a title is about: the network, or, where that is all there is, one layer of it.

    layers: names of the distinct layers; counts: how often each stands in the network
    """
    names = list(dict.fromkeys(layers))
    return f"{names[0]} of {network}" if len(names) == 1 and sum(counts) == 1 else network


def points_text(share: float) -> str:
    """A share of the images in words: 0.01 is "1 point"."""
    return f"{100 * share:g} point{'' if share == 0.01 else 's'}"
