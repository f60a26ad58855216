"""What a program's operations and activations take of SRAM over time: a table and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    TIME,
    VERMILION,
    drawing,
    readable,
    save,
)
from bfpsim.sim.room import SHARES, Held, Share, held

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from bfpsim.sim.program import OperationResult, ProgramResult

_LOOKS: dict[Share, tuple[str, str]] = {
    "stays": ("activations that stay", BLUE),
    "W": ("tiles of W", VERMILION),
    "I": ("tiles of I", SKY),
    "O": ("tiles of O", ORANGE),
    "V": ("tiles of V", GREEN),
}
_NAMED = 0.014  # share of the time that an operation must last for its name to have room
_PARTED = 0.004  # and for a line to part it from the next
_PARTS = 4  # of the capacity, with a tick each


def occupancy_frame(result: ProgramResult) -> pd.DataFrame:
    """A row per memory of SRAM and cycle at which what is held of it changes.

    Columns: network, memory, cycle, and from then on [bit] stays (activations that stay), W, I, O
    and V (slots), held (their sum), capacity.
    """
    import pandas as pd

    rows = [
        {
            "network": result.network,
            "memory": own.memory,
            "cycle": own.cycle,
            **{f"{share}_bits": bits for share, bits in own.bits.items()},
            "held_bits": sum(own.bits.values()),
            "capacity_bits": capacities(result)[own.memory],
        }
        for own in held(result.changes)
    ]
    return pd.DataFrame(rows)


def capacities(result: ProgramResult) -> dict[str, int]:
    """Of SRAM's memories, by name [bit]: one that is shared, or those of I, W and O."""
    names = result.arch.levels[1].memories
    return {names[tensor]: result.arch.buffer(tensor).capacity for tensor in ("I", "W", "O")}


def plot_occupancy(result: ProgramResult, path: str | Path) -> None:
    """Draw what is held of SRAM over time against its capacity, as a PNG.

    A panel per memory: activations that stay, and the slots of each tensor upon them. Operations
    stand above, each where the program's end moves on with it; those that last have a name.

    Equal results make equal bytes. Raises OSError if the file cannot be written.
    """
    unit, name = readable(result.seconds, TIME)
    cycle = float(1 / result.arch.clock) / unit
    memories = capacities(result)
    with drawing() as figure:
        panels = np.atleast_1d(figure.subplots(len(memories), 1, sharex=True))
        for axes, (memory, capacity) in zip(panels, memories.items(), strict=True):
            changes = [own for own in held(result.changes) if own.memory == memory]
            _stack(axes, changes, result.cycles, cycle)
            axes.axhline(capacity, color="black", lw=1.2, dashes=(5, 3), label="capacity", zorder=3)
            parts = [capacity * part // _PARTS for part in range(_PARTS + 1)]
            axes.set_yticks(parts, ["0", *(CAPACITY.text(part) for part in parts[1:])])
            axes.set_ylim(0, 1.04 * capacity)
            axes.set_xlim(0, result.cycles * cycle)
            axes.set_ylabel(memory)
        _operations(panels[0], result.operations, cycle, result.cycles * cycle)
        panels[-1].set_xlabel(f"time [{name}]")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        size = CAPACITY.text(sum(memories.values()))
        figure.suptitle(
            f"{result.network} on {result.arch.name} as one program: what is held of {size} of "
            f"{result.arch.levels[1].name}"
        )
        save(figure, path)


def _stack(axes: Axes, changes: list[Held], end: int, cycle: float) -> None:
    """Areas that change in steps."""
    times = np.array([own.cycle for own in changes] + [end]) * cycle
    below = np.zeros(len(times))
    for share in SHARES:
        label, colour = _LOOKS[share]
        bits = [own.bits[share] for own in changes]
        above = below + np.array([*bits, *bits[-1:]] if bits else [0])
        axes.fill_between(times, below, above, step="post", color=colour, lw=0, label=label)
        below = above


def _operations(
    axes: Axes, operations: tuple[OperationResult, ...], cycle: float, whole: float
) -> None:
    """A line behind each operation, and its name, where there is room."""
    ends = [own.end * cycle for own in operations if own.cycles * cycle >= _PARTED * whole]
    axes.vlines(ends, 0, 1, transform=axes.get_xaxis_transform(), color="white", lw=0.5, alpha=0.8)
    last = -whole
    for own in operations:
        middle = (own.end - own.cycles / 2) * cycle
        if own.cycles * cycle >= _NAMED * whole and middle - last >= _NAMED * whole:
            last = middle
            axes.text(
                middle, 1.01, own.name, transform=axes.get_xaxis_transform(), rotation=90,
                ha="center", va="bottom", fontsize=6.5, color=GREY,
            )  # fmt: skip
