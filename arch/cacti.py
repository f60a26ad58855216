"""An SRAM array by CACTI: energy of reads and writes, leakage and area, by capacity and width.

Of a tabulated capacity (`cacti.csv`) the published figures; between two the figure is a power of
the capacity, a straight line in log-log: wires grow with an array's edge, so energy with about the
root of its area.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from bfpsim.arch.units import CAPACITY, Quantity

Cacti = Literal["cacti-22nm", "cacti-45nm", "cacti-65nm"]
NAMES: tuple[Cacti, ...] = get_args(Cacti)

Figure = Literal["read_pj_per_bit", "write_pj_per_bit", "leakage_mw", "area_mm2"]

_BITS_PER_KIB = 8 * 1024


@dataclass(frozen=True, slots=True)
class OrTable:
    """How a file spells a figure of a buffer: a quantity, or the name of a table."""

    quantity: Quantity[Any]

    def parse(self, value: object) -> Any:
        """The number in the quantity's unit, or the name. Raises ValueError for anything else."""
        for name in NAMES:
            if value == name:
                return name
        try:
            return self.quantity.parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or a table: {', '.join(NAMES)}") from None

    def text(self, figure: Any) -> str:
        """The spelling that `parse` reads back."""
        return figure if isinstance(figure, str) else self.quantity.text(figure)

    def json_schema(self) -> dict[str, object]:
        """JSON schema of the text."""
        tables = {"type": "string", "enum": list(NAMES)}
        return {"anyOf": [self.quantity.json_schema(), tables]}


@cache
def tabulated(name: Cacti, figure: Figure, capacity: int, width: int | None) -> Fraction:
    """A figure of a buffer of `capacity` bits that is accessed by `width` bits.

    A tabulated one is exactly what the table says; one between two is rounded to a float. Raises
    ValueError for a width or capacity that the table does not reach.
    """
    columns = _columns(name, figure)
    if width not in columns:
        allowed = ", ".join(f"{one} bit" for one in columns)
        own = "no width" if width is None else f"width {width} bit"
        raise ValueError(f"{own} with the table '{name}'; allowed: {allowed}, or no table")
    points = columns[width]
    sizes = list(points)
    if not sizes[0] <= capacity <= sizes[-1]:
        allowed = f"{CAPACITY.text(sizes[0])} to {CAPACITY.text(sizes[-1])}"
        raise ValueError(
            f"capacity {CAPACITY.text(capacity)} with the table '{name}'; allowed: {allowed}, "
            "or no table"
        )
    if capacity in points:
        return points[capacity]
    above = bisect(sizes, capacity)
    low, high = sizes[above - 1], sizes[above]
    along = math.log(capacity / low) / math.log(high / low)
    return Fraction(float(points[low]) * float(points[high] / points[low]) ** along)


@cache
def _columns(name: Cacti, figure: Figure) -> dict[int, dict[int, Fraction]]:
    """Of one node: width [bit] -> capacity [bit] -> the figure, both ascending."""
    text = resources.files("bfpsim.arch").joinpath("cacti.csv").read_text("utf-8")
    table: dict[int, dict[int, Fraction]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        if name == f"cacti-{row['node_nm']}nm":
            column = table.setdefault(int(row["word_bits"]), {})
            capacity = Fraction(row["capacity_kib"]) * _BITS_PER_KIB
            column[int(capacity)] = Fraction(row[figure])
    return table
