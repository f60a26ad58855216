"""What the figures of a report share: axes and stacked bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.style import GREY

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_TICKS = 8  # capacities with a label
_NAMES = 26  # layers with a label


class Part(NamedTuple):
    """A column as one part of stacked bars."""

    column: str
    label: str
    colour: str
    hatch: str = ""


def capacity_scale(axes: Axes, sizes: Sequence[int]) -> None:
    """Let an axis show capacities [bit] in octaves, and label those of `sizes` that have room."""
    axes.set_xscale("log", base=2)
    apart = (sizes[-1] / sizes[0]) ** (1 / (1.5 * _TICKS))
    shown: list[int] = []
    for size in sizes:
        if not shown or size >= shown[-1] * apart:
            shown.append(size)
    axes.set_xticks(shown, [CAPACITY.text(int(size)) for size in shown])
    axes.set_xticks([], minor=True)
    room = max((sizes[-1] / sizes[0]) ** 0.06, 2**0.1)
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)
    axes.set_xlabel("buffer capacity")


def capacity_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Label an axis that shows capacities by their places in `sizes`."""
    step = -(-len(sizes) // _TICKS)
    places = range(0, len(sizes), step)
    axes.set_xticks(places, [CAPACITY.text(int(sizes[place])) for place in places])
    axes.set_xlim(-0.7, len(sizes) - 0.3)
    axes.set_xlabel("buffer capacity")


def layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """Label an axis that shows layers in the network's order; of many, every so many have names."""
    step = -(-len(names) // _NAMES)
    places = range(0, len(names), step)
    axes.set_xticks(places, [names[place] for place in places], rotation=90, fontsize=7)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xlabel("layer" if step == 1 else f"layer (1 of {step} is named)")


def stack(axes: Axes, frame: pd.DataFrame, parts: Sequence[Part], scale: float) -> None:
    """A bar per row; parts that are negative hang below zero.

    scale: what a unit of the axis is of the columns' unit
    """
    places = np.arange(len(frame))
    up = np.zeros(len(frame))
    down = np.zeros(len(frame))
    for column, label, colour, hatch in parts:
        height = frame[column].to_numpy(float) / scale
        axes.bar(
            places,
            height,
            0.8,
            np.where(height < 0, down, up),
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
            label=label,
        )
        up += np.maximum(height, 0)
        down += np.minimum(height, 0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    if down.any():
        axes.axhline(0, color=GREY, linewidth=0.8)
