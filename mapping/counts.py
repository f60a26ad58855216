"""Counts of moved bits, and the tidy table that every model and the simulator share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

from bfpsim.arch import Traffic

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch

COLUMNS = (
    "network",
    "layer",
    "level",
    "tensor",
    "direction",
    "kind",
    "bits",
    "energy_pj",
)


Direction = Literal["read", "write"]
Kind = Literal["mantissa", "exponent", "psum", "burst"]
KINDS: tuple[Kind, ...] = ("mantissa", "exponent", "psum", "burst")


class Flow(NamedTuple):
    """One row's key: at the level of a name, `tensor` (I, W, O, V) in `direction` (read, write).

    V is what the vector unit reads and writes, in I's buffer if there are several.
    """

    level: str
    tensor: Traffic
    direction: Direction
    kind: Kind


class Counts(dict[Flow, Fraction | int]):
    """Bits per flow. Missing flows are zero; simulated counts are integers."""

    def add(
        self,
        level: str,
        tensor: Traffic,
        direction: Direction,
        kind: Kind,
        bits: Fraction | int,
    ) -> None:
        """Count `bits` more."""
        if bits:
            flow = Flow(level, tensor, direction, kind)
            self[flow] = self.get(flow, 0) + bits

    def merge(self, other: Mapping[Flow, Fraction | int]) -> None:
        """Count the flows of `other` too."""
        for flow, bits in other.items():
            self.add(*flow, bits)

    def scaled(self, factor: int) -> Counts:
        """The counts of `factor` equal layers."""
        return Counts({flow: bits * factor for flow, bits in self.items()})

    def total(
        self,
        level: str | None = None,
        tensor: Traffic | None = None,
        direction: Direction | None = None,
        kind: Kind | None = None,
    ) -> Fraction | int:
        """Bits of all flows that match what is given."""
        wanted = (level, tensor, direction, kind)
        return sum(
            bits
            for flow, bits in self.items()
            if all(w is None or w == f for w, f in zip(wanted, flow, strict=True))
        )


def ordered(counts: Mapping[Flow, Fraction | int], arch: Arch) -> list[Flow]:
    """The flows, outer levels before inner ones, then I W O V, read before write, then by kind."""
    names = [level.name for level in arch.levels]
    return sorted(
        counts,
        key=lambda flow: (
            names.index(flow.level),
            "IWOV".index(flow.tensor),
            ("read", "write").index(flow.direction),
            KINDS.index(flow.kind),
        ),
    )


def number(bits: Fraction | int) -> int | float:
    """An integer count as int, a fractional model's as float."""
    fraction = Fraction(bits)
    return fraction.numerator if fraction.denominator == 1 else float(fraction)


def level_column(level: str, what: str) -> str:
    """A table's column of what a memory level has of this: "dram_bits", "acc_energy_pj"."""
    return f"{_IN_COLUMNS.get(level, level)}_{what}"


_IN_COLUMNS = {"DRAM": "dram", "SRAM": "sram"}
"""The levels that every architecture has; the others stand in columns under their own names."""


def energy_pj(flow: Flow, bits: Fraction | int, arch: Arch) -> float:
    """Eq. 8 of BitQ for one row: bits x pJ/bit of its level and buffer."""
    level = next(level for level in arch.levels if level.name == flow.level)
    return (
        float(number(bits))
        * (level.read_pj if flow.direction == "read" else level.write_pj)[flow.tensor]
    )


def to_frame(
    rows: Iterable[tuple[str, str, Mapping[Flow, Fraction | int]]], arch: Arch
) -> pd.DataFrame:
    """The tidy table of (network, layer, counts) in the given order: one row per flow.

    Columns: network, layer, level, tensor, direction, kind, bits, energy_pj.
    """
    import pandas as pd

    records = [
        (network, layer, *flow, number(counts[flow]), energy_pj(flow, counts[flow], arch))
        for network, layer, counts in rows
        for flow in ordered(counts, arch)
        if counts[flow]
    ]
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))
