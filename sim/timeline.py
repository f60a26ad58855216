"""What every unit did, and when."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["dram", "dma I", "dma W", "dma O", "array"]
Activity = Literal["read", "write", "compute", "wait I", "wait W", "wait O"]
UNITS: tuple[Unit, ...] = get_args(Unit)
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
_UNIT = {unit: number for number, unit in enumerate(UNITS)}
_ACTIVITY = {activity: number for number, activity in enumerate(ACTIVITIES)}


class Slice(NamedTuple):
    """`unit` did `activity` from cycle `start` to `end`, moving `bits`, for its tile `tile`."""

    unit: Unit
    activity: Activity
    start: int
    end: int
    bits: int
    tile: int


class Timeline:
    """A growing record of slices, 48 bytes each."""

    def __init__(self) -> None:
        self._cells = array("q")

    def __len__(self) -> int:
        return len(self._cells) // 6

    def __iter__(self) -> Iterator[Slice]:
        cells = self._cells
        for i in range(0, len(cells), 6):
            unit, activity, start, end, bits, tile = cells[i : i + 6]
            yield Slice(UNITS[unit], ACTIVITIES[activity], start, end, bits, tile)

    def add(
        self, unit: Unit, activity: Activity, start: int, end: int, bits: int, tile: int
    ) -> None:
        """Record a slice."""
        self._cells.extend((_UNIT[unit], _ACTIVITY[activity], start, end, bits, tile))

    def to_frame(self) -> pd.DataFrame:
        """Columns unit, activity, start, end [cycle], bits, tile."""
        import pandas as pd

        return pd.DataFrame.from_records(list(self), columns=list(Slice._fields))
