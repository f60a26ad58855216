"""A sweep's points with what the store holds of them, as tables and as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.search.store import Store, StoreError
from bfpsim.search.sweep.export import write_tables
from bfpsim.search.sweep.ledger import POINTS
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.record import Record
from bfpsim.search.sweep.tables import Finished, Tables, axis_types, tables

if TYPE_CHECKING:
    import pandas as pd

_PART = 200  # points whose tables are in memory while files are written


@dataclass(frozen=True, slots=True)
class Results:
    """What a sweep found, in the sweep's order whatever the order in which it was found.

    points: the sweep's
    store: the file that holds their results
    """

    points: tuple[Point, ...]
    store: Path

    def __iter__(self) -> Iterator[Finished]:
        """Every point with its record or its error.

        Raises StoreError if the store lacks a point.
        """
        with Store(self.store) as store:
            for place, point in enumerate(self.points):
                entry = store.get(POINTS, point.key)
                if entry is None:
                    raise StoreError(
                        f"{self.store}: lacks point {place}; run the sweep again, with a new file "
                        "if that does not help"
                    )
                record = None if entry.record is None else Record.from_json(entry.record)
                yield Finished(place, point, record, entry.error)

    def tables(self) -> Tables:
        """Points, layers and traffic as DataFrames; see `Tables` for their columns."""
        import pandas as pd

        parts = zip(*self._parts(), strict=True)
        return Tables(*(pd.concat(frames, ignore_index=True) for frames in parts))

    def points_table(self) -> pd.DataFrame:
        """The first of `tables`, in the memory that it alone takes."""
        import pandas as pd

        return pd.concat((part.points for part in self._parts()), ignore_index=True)

    def export(self, folder: str | Path) -> list[Path]:
        """Write points, layers and traffic as CSV, and as Parquet where pyarrow is installed.

        Equal results make equal bytes. The files replace older ones when all are whole, and need
        memory for a few hundred points, however many there are. Raises OSError if they cannot be
        written.
        """
        return write_tables(self._parts(), folder)

    def _parts(self) -> Iterator[Tables]:
        rows, axes = iter(self), axis_types(self.points)
        while part := list(islice(rows, _PART)):
            yield tables(part, axes)
