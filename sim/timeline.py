"""What every unit did, and when."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from bfpsim.arch import Traffic

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Unit = Literal["dram", "dma I", "dma W", "dma O", "dma V", "array", "vector"]
Activity = Literal["read", "write", "compute", "wait I", "wait W", "wait O", "wait V"]
Stream = Traffic | Literal["steps"]
"""What `Slice.tile` numbers: a tensor's tiles in the order they come, or the nest's steps."""
UNITS: tuple[Unit, ...] = get_args(Unit)
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
STREAMS: tuple[Stream, ...] = ("I", "W", "O", "V", "steps")
_UNIT = {unit: number for number, unit in enumerate(UNITS)}
_ACTIVITY = {activity: number for number, activity in enumerate(ACTIVITIES)}
_STREAM = {stream: number for number, stream in enumerate(STREAMS)}
_START, _END, _TILE, _STREAM_CELL, _CELLS = 2, 3, 5, 6, 7


class Slice(NamedTuple):
    """`unit` did `activity` from cycle `start` to `end`, moving `bits`, for a tile of `stream`."""

    unit: Unit
    activity: Activity
    start: int
    end: int
    bits: int
    tile: int
    stream: Stream


class _Repeat(NamedTuple):
    """After row `at`, rows `begin .. end` once more, `times` times over, each time later."""

    begin: int
    end: int
    at: int
    times: int
    cycles: int
    tiles: dict[Stream, int]


class Timeline:
    """A growing record of slices, 56 bytes each; what repeats is kept once.

    Its length is that of the whole record.
    """

    def __init__(self) -> None:
        self._cells = array("q")
        self._repeats: list[_Repeat] = []
        self._repeated = 0

    def __len__(self) -> int:
        return self.rows + self._repeated

    def __iter__(self) -> Iterator[Slice]:
        for block in self._blocks(0, self.rows, len(self._repeats)):
            for unit, activity, start, end, bits, tile, stream in block.tolist():
                yield Slice(
                    UNITS[unit], ACTIVITIES[activity], start, end, bits, tile, STREAMS[stream]
                )

    @property
    def rows(self) -> int:
        """Slices kept."""
        return len(self._cells) // _CELLS

    def add(
        self,
        unit: Unit,
        activity: Activity,
        start: int,
        end: int,
        bits: int,
        tile: int,
        stream: Stream,
    ) -> None:
        """Record a slice."""
        self._cells.extend(
            (_UNIT[unit], _ACTIVITY[activity], start, end, bits, tile, _STREAM[stream])
        )

    def repeat(
        self,
        row: int,
        length: int,
        times: int,
        cycles: int,
        tiles: dict[Stream, int],
        until: tuple[int, int] | None = None,
    ) -> None:
        """Record once more, `times` times over, what was recorded since there were `row` rows.

        length: how long the record was then, `len`
        cycles, tiles: how much later each time starts, and how far its tile numbers go on
        until: the rows and the length up to which; None: those of now
        """
        end, longer = until or (self.rows, len(self))
        self._repeated += times * (longer - length)
        self._repeats.append(_Repeat(row, end, self.rows, times, cycles, tiles))

    def to_frame(self) -> pd.DataFrame:
        """Columns unit, activity, start, end [cycle], bits, tile, stream."""
        import pandas as pd

        cells = np.concatenate(list(self._blocks(0, self.rows, len(self._repeats))))
        frame = pd.DataFrame(cells, columns=list(Slice._fields))
        names = {"unit": UNITS, "activity": ACTIVITIES, "stream": STREAMS}
        return frame.assign(
            **{column: np.array(words, object)[frame[column]] for column, words in names.items()}
        )

    def _blocks(self, begin: int, end: int, known: int) -> Iterator[NDArray[np.int64]]:
        """Rows `begin .. end` in full, with the first `known` repeats where they belong."""
        at = begin
        for number, repeat in enumerate(self._repeats[:known]):
            if not begin < repeat.at <= end:  # one at `begin` was over before
                continue
            yield self._table(at, repeat.at)
            at = repeat.at
            blocks = list(self._blocks(repeat.begin, repeat.end, number))
            for time in range(1, repeat.times + 1):
                shift = np.zeros((len(STREAMS), _CELLS), np.int64)
                shift[:, [_START, _END]] = time * repeat.cycles
                shift[:, _TILE] = [time * repeat.tiles.get(stream, 0) for stream in STREAMS]
                for block in blocks:
                    yield block + shift[block[:, _STREAM_CELL]]
        yield self._table(at, end)

    def _table(self, begin: int, end: int) -> NDArray[np.int64]:
        cells = np.frombuffer(self._cells, np.int64) if self._cells else np.empty(0, np.int64)
        return cells.reshape(-1, _CELLS)[begin:end].copy()
