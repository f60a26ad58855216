"""A sweep's points with what the store holds of them, as tables and as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfpsim.objects import brief
from bfpsim.search.store import Store, StoreError
from bfpsim.search.sweep.check import RecordError
from bfpsim.search.sweep.point import POINTS, Point
from bfpsim.search.sweep.record import Record
from bfpsim.search.sweep.tables import PointResult, Tables, axis_types, level_names, tables
from bfpsim.workloads.files.atomic import all_or_none
from bfpsim.workloads.files.table import csv_of

if TYPE_CHECKING:
    import pandas as pd

_PART = 200  # points whose tables are in memory while files are written


@brief
@dataclass(frozen=True, slots=True)
class Results:
    """The results of a sweep, in the sweep's order whatever the order in which they came.

    points: the sweep's
    store: the file that holds their results
    """

    points: tuple[Point, ...]
    store: Path

    def __iter__(self) -> Iterator[PointResult]:
        """Every point with its record or its error.

        Raises StoreError if the store lacks a point, or has something else in its place.
        """
        with Store(self.store) as store:
            for place, point in enumerate(self.points):
                entry = store.get(POINTS, point.key)
                if entry is None:
                    raise StoreError(
                        f"{self.store}: lacks point {place}; run the sweep again, with a new file "
                        "if that does not help"
                    )
                try:
                    record = None if entry.record is None else Record.from_json(entry.record)
                except RecordError as error:
                    raise StoreError(
                        f"{self.store}: point {place}: {error}; run the sweep with a new file"
                    ) from None
                yield PointResult(place, point, record, entry.error)

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
        return _write_tables(self._parts(), folder)

    def _parts(self) -> Iterator[Tables]:
        rows, axes, levels = iter(self), axis_types(self.points), level_names(self.points)
        while part := list(islice(rows, _PART)):
            yield tables(part, axes, levels)


def _write_tables(parts: Iterable[Tables], folder: str | Path) -> list[Path]:
    """Write each table of all parts as CSV, and as Parquet where pyarrow is installed.

    The files take the place of older ones when all are whole. Equal tables make equal bytes.
    Raises OSError if they cannot be written.
    """
    kinds: dict[str, type[_Csv | _Parquet]] = {"csv": _Csv}
    if find_spec("pyarrow") is not None:
        kinds["parquet"] = _Parquet
    files: dict[str, _Csv | _Parquet] = {}
    with all_or_none(folder) as out:
        try:
            for part in parts:
                for table, frame in part._asdict().items():
                    for ending, kind in kinds.items():
                        name = f"{table}.{ending}"
                        if name not in files:
                            files[name] = kind(out / name)
                        files[name].append(frame)
        except BaseException:
            for file in files.values():
                with suppress(OSError):  # the first error is the one that counts
                    file.close()
            raise
        for file in files.values():
            file.close()
    return [Path(folder) / name for name in files]


class _Csv:
    """As `csv_of` spells it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="")

    def append(self, frame: pd.DataFrame) -> None:
        first = self._file.tell() == 0
        self._file.write(csv_of(frame, header=first))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A row group per part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def append(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            self._writer = ParquetWriter(self.path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
