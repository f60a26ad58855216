"""Energy of an SRAM access by capacity: CACTI's figures, and between them.

The figures are of reads (`cacti.csv`). Writes are priced as reads, as Eq. 8 does with a constant.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect
from functools import cache
from importlib import resources
from typing import Literal, get_args

from bfpsim.arch.units import CAPACITY, ENERGY

Cacti = Literal["cacti-22nm", "cacti-45nm", "cacti-65nm"]
NAMES: tuple[Cacti, ...] = get_args(Cacti)

_BITS_PER_KIB = 8 * 1024


class BufferEnergy:
    """How a file spells a buffer's energy: per bit, or the name of a table."""

    def parse(self, value: object) -> float | Cacti:
        """The number [pJ/bit] or the name. Raises ValueError for anything else."""
        for name in NAMES:
            if value == name:
                return name
        try:
            return ENERGY.parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or a table: {', '.join(NAMES)}") from None

    def text(self, energy: float | Cacti) -> str:
        """The spelling that `parse` reads back."""
        return energy if isinstance(energy, str) else ENERGY.text(energy)

    def json_schema(self) -> dict[str, object]:
        """JSON schema of the text."""
        tables = {"type": "string", "enum": list(NAMES)}
        return {"anyOf": [ENERGY.json_schema(), tables]}


@cache
def pj_per_bit(name: Cacti, capacity: int, width: int) -> float:
    """Energy per bit of an access to `width` bits of a buffer of `capacity` bits [pJ/bit].

    A tabulated capacity has its figure; between two, the energy is a power of the capacity, a
    straight line in log-log: wires grow with an array's edge, so energy with about the root of its
    area. Raises ValueError for a width or capacity that the table does not reach.
    """
    columns = _columns(name)
    if width not in columns:
        allowed = " or ".join(f"{tabulated} bit" for tabulated in columns)
        raise ValueError(
            f"width {width} bit with energy '{name}'; allowed: {allowed}, or an energy in pJ/bit"
        )
    points = columns[width]
    sizes = list(points)
    if not sizes[0] <= capacity <= sizes[-1]:
        allowed = f"{CAPACITY.text(sizes[0])} to {CAPACITY.text(sizes[-1])}"
        raise ValueError(
            f"capacity {CAPACITY.text(capacity)} with energy '{name}'; allowed: {allowed}, "
            "or an energy in pJ/bit"
        )
    if capacity in points:
        return points[capacity]
    above = bisect(sizes, capacity)
    low, high = sizes[above - 1], sizes[above]
    along = math.log(capacity / low) / math.log(high / low)
    return float(points[low] * (points[high] / points[low]) ** along)


@cache
def _columns(name: Cacti) -> dict[int, dict[int, float]]:
    """Of one node: width [bit] -> capacity [bit] -> pJ/bit, both ascending."""
    text = resources.files("bfpsim.arch").joinpath("cacti.csv").read_text("utf-8")
    table: dict[int, dict[int, float]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        if name == f"cacti-{row['node_nm']}nm":
            column = table.setdefault(int(row["word_bits"]), {})
            column[int(row["capacity_kib"]) * _BITS_PER_KIB] = float(row["read_pj_per_bit"])
    return table
