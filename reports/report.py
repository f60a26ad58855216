"""One question's results in every shape: a table, data, totals, figures; and files of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group

from bfpsim.objects import brief
from bfpsim.workloads.files.atomic import all_or_none, write_atomic
from bfpsim.workloads.files.table import csv_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from bfpsim.reports.style import Ending


class Frames(Mapping[str, "pd.DataFrame"]):
    """Tables by name, each made when it is first read: a terminal's table needs no pandas."""

    def __init__(self, makers: Mapping[str, Callable[[], pd.DataFrame]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@brief
@dataclass(frozen=True, eq=False)
class Report:
    """Results as a command shows and writes them; `rich.print` shows them too.

    table: what a terminal shows
    frames: tables by file name, the main one first
    summary: totals by name
    notes: names in the summary that a terminal shows below the table
    figures: what draws a PNG, PDF or SVG, by file name
    files: what writes another file, by file name
    """

    table: RenderableType
    frames: Mapping[str, pd.DataFrame]
    summary: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The notes: "energy pj: 12.5"."""
        return [f"{key.replace('_', ' ')}: {self.summary[key]}" for key in self.notes]

    def to_csv(self) -> str:
        """The main table, floats in full precision."""
        return csv_of(next(iter(self.frames.values())))

    def to_json(self) -> str:
        """The summary, and each table as a list of rows; null for what is no finite number."""
        records = {name: _records(frame) for name, frame in self.frames.items()}
        return json.dumps(_plain_values(self.summary) | records, indent=2)

    def write(self, folder: str | Path, figures: Sequence[Ending] = ("png",)) -> list[Path]:
        """Write every table as NAME.csv, every figure as NAME.png, other files, and summary.json.

        figures: what they are drawn as: "png", "pdf", "svg", or several of these

        The folder is made if it does not exist; files of the same names are replaced, all or none.
        Equal results make equal bytes. Raises OSError if a file cannot be written.
        """
        names = [
            *(f"{name}.csv" for name in self.frames),
            *(f"{name}.{ending}" for name in self.figures for ending in figures),
            *self.files,
        ]
        with all_or_none(folder) as out:
            for name, frame in self.frames.items():
                write_csv(frame, out / f"{name}.csv")
            for name, draw in self.figures.items():
                for ending in figures:
                    draw(out / f"{name}.{ending}")
            for name, write in self.files.items():
                write(out / name)
            text = json.dumps(_plain_values(self.summary), indent=2) + "\n"
            write_atomic(out / "summary.json", text)
        return [Path(folder) / name for name in (*names, "summary.json")]

    def __rich__(self) -> RenderableType:
        return Group(self.table, *self.lines)


def together(*tables: RenderableType) -> RenderableType:
    """Tables below each other, a line between."""
    return Group(*(part for table in tables for part in (table, "")))


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table without its index, as `csv_of` spells it.

    Equal tables make equal bytes. Raises OSError as `write_atomic`.
    """
    write_atomic(path, csv_of(frame))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, numbers in full."""
    return [
        _plain_values({str(key): value for key, value in row.items()})
        for row in frame.to_dict(orient="records")
    ]


def _plain_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
