"""Quantities with units: text such as '6.4 GB/s' to exact numbers, and back."""

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T", int, float, Fraction)

Dimension = tuple[int, int, int]
"""Exponents of bits, seconds and joules."""

_DATA_OF: Dimension = (1, 0, 0)
_TIME_OF: Dimension = (0, 1, 0)
_RATE_OF: Dimension = (0, -1, 0)
_ENERGY_OF: Dimension = (0, 0, 1)
_POWER_OF: Dimension = (0, -1, 1)


def _milli(steps: int) -> Fraction:
    return Fraction(1, 1000**steps)


# Bits have a dimension of their own, or '500 MHz' would pass as a bandwidth. No prefixes: 'mB' or
# 'KB' must not mean anything.
_UNITS: dict[str, tuple[Fraction | int, Dimension]] = {
    "bit": (1, _DATA_OF),
    "kbit": (10**3, _DATA_OF),
    "Mbit": (10**6, _DATA_OF),
    "Gbit": (10**9, _DATA_OF),
    "B": (8, _DATA_OF),
    "kB": (8 * 10**3, _DATA_OF),
    "MB": (8 * 10**6, _DATA_OF),
    "GB": (8 * 10**9, _DATA_OF),
    "TB": (8 * 10**12, _DATA_OF),
    "KiB": (8 * 2**10, _DATA_OF),
    "MiB": (8 * 2**20, _DATA_OF),
    "GiB": (8 * 2**30, _DATA_OF),
    "s": (1, _TIME_OF),
    "ms": (_milli(1), _TIME_OF),
    "us": (_milli(2), _TIME_OF),
    "ns": (_milli(3), _TIME_OF),
    "Hz": (1, _RATE_OF),
    "kHz": (10**3, _RATE_OF),
    "MHz": (10**6, _RATE_OF),
    "GHz": (10**9, _RATE_OF),
    "J": (1, _ENERGY_OF),
    "mJ": (_milli(1), _ENERGY_OF),
    "uJ": (_milli(2), _ENERGY_OF),
    "nJ": (_milli(3), _ENERGY_OF),
    "pJ": (_milli(4), _ENERGY_OF),
    "fJ": (_milli(5), _ENERGY_OF),
    "W": (1, _POWER_OF),
    "mW": (_milli(1), _POWER_OF),
    "uW": (_milli(2), _POWER_OF),
    "nW": (_milli(3), _POWER_OF),
}
"""What each unit is in bits, seconds and joules, and its dimension."""

_DATA = ("bit", "kbit", "Mbit", "Gbit", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB")
_TIME = ("s", "ms", "us", "ns")
_ENERGY = ("J", "mJ", "uJ", "nJ", "pJ", "fJ")

# A two-digit exponent is ample, and keeps '1e999999999 B' from filling the memory.
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
_QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-z]+(?:\s*/\s*[A-Za-z]+)?)?"
)
_LONGEST_TEXT = 200  # characters
_LARGEST = 10**18  # in a quantity's own unit: far above any hardware, and still an int64


@cache
def _in_base(unit: str) -> tuple[Fraction, Dimension]:
    """What one of a unit, or of a quotient of two, is in bits, seconds and joules."""
    above, *below = unit.split("/")
    size, dimension = _UNITS[above]
    for name in below:
        other, its = _UNITS[name]
        size = Fraction(size) / other
        dimension = (dimension[0] - its[0], dimension[1] - its[1], dimension[2] - its[2])
    return Fraction(size), dimension


@cache
def _scale(unit: str, into: str) -> Fraction | None:
    """How many `into` one `unit` is, exactly; None where their dimensions differ."""
    (size, dimension), (other, its) = _in_base(unit), _in_base(into)
    return size / other if dimension == its else None


def _decimal(value: Fraction) -> str:
    """The exact decimal digits of `value`; Inexact if they never end."""
    exact = Context(prec=2 * _LONGEST_TEXT, traps=[Inexact])
    return format(exact.divide(Decimal(value.numerator), Decimal(value.denominator)), "f")


def magnitude(text: str) -> Fraction | None:
    """What text such as '6.4 GB/s' is in bits, seconds and joules, to sort by; None for others."""
    found = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST_TEXT else None
    unit = re.sub(r"\s", "", found["unit"] or "") if found else ""
    if not found or not unit or not set(unit.split("/")) <= set(_UNITS):
        return None
    sign = -1 if found["sign"] == "-" else 1
    return sign * Fraction(found["number"]) * _in_base(unit)[0]


@dataclass(frozen=True, slots=True)
class Quantity(Generic[T]):
    """One kind of physical quantity that an architecture file spells with a unit.

    noun: what error messages call it
    unit: of the numbers that `parse` returns and `text` takes
    number: their type; int asks for a whole number of `unit`
    units, per: the unit names allowed above and below the slash
    written: the units that `text` chooses from, smallest first
    examples: of good spellings
    zero: whether 0 is allowed
    """

    noun: str
    unit: str
    number: Callable[[Fraction], T]
    units: tuple[str, ...]
    per: tuple[str, ...]
    written: tuple[str, ...]
    examples: tuple[str, ...]
    zero: bool = False

    def parse(self, value: object) -> T:
        """The number of `unit` that text such as '64 KiB' stands for, exactly.

        Raises ValueError, in one line that quotes the value and says what is allowed, for
        anything but text of one number and one unit of this kind within range.
        """
        found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._refusal(value, f"is no {self.noun}")
        if not isinstance(value, str) or (found and not found["unit"]):
            raise self._refusal(value, "has no unit")
        if not found or len(value) > _LONGEST_TEXT:
            raise self._refusal(value, "is not one number and one unit")
        unit = re.sub(r"\s", "", found["unit"])
        for name in unit.split("/"):
            if name not in _UNITS:
                raise self._refusal(value, f"has the unknown unit '{name}'", self._allowed_units())
        scale = _scale(unit, self.unit)
        if scale is None:
            raise self._refusal(value, f"is no {self.noun}", self._allowed_units())
        exact = Fraction(found["number"]) * scale
        if exact and found["sign"] == "-":
            raise self._refusal(value, "is negative")
        if not exact and not self.zero:
            raise self._refusal(value, "is zero", f" (above 0 {self.unit})")
        if exact > _LARGEST:
            raise self._refusal(value, "is too large", f" (at most {_LARGEST:.0e} {self.unit})")
        if self.number is int and exact.denominator != 1:
            raise self._refusal(value, f"is no whole number of {self.unit}s")
        return self.number(exact)

    def text(self, number: T) -> str:
        """The shortest spelling that parses back to `number`, in a unit that keeps it above 1."""
        exact = Fraction(str(number))  # str(float) is the shortest decimal that reads back
        spellings = []
        for unit in self.written:
            scale = _scale(unit, self.unit)
            assert scale is not None, f"{unit} is no {self.noun}"
            if exact >= scale or unit == self.written[0]:
                spellings.append((f"{_decimal(exact / scale)} {unit}", -scale))
        return min(spellings, key=lambda spelling: (len(spelling[0]), spelling[1]))[0]

    def json_schema(self) -> dict[str, object]:
        """JSON schema of the text; its pattern cannot see zeros and ranges."""
        unit = "|".join(self.units)
        per = rf"\s*/\s*(?:{'|'.join(self.per)})" if self.per else ""
        return {
            "type": "string",
            "pattern": rf"^\s*\+?{_NUMBER}\s*(?:{unit}){per}\s*$",
            "examples": list(self.examples),
        }

    def _allowed_units(self) -> str:
        per = f" per {', '.join(self.per)}" if self.per else ""
        return f" (units: {', '.join(self.units)}{per})"

    def _refusal(self, value: object, wrong: str, more: str = "") -> ValueError:
        article = "an" if self.noun[0] in "aeiou" else "a"
        examples = " or ".join(f"'{example}'" for example in self.examples)
        return ValueError(
            f"{reprlib.repr(value)} {wrong}; write {article} {self.noun} such as {examples}{more}"
        )


_BYTES = ("bit", "B", "kB", "KiB", "MB", "MiB", "GB", "GiB")
CAPACITY = Quantity("capacity", "bit", int, _DATA, (), _BYTES, ("64 KiB", "524288 bit"))
"""Of a memory [bit]."""
BURST = Quantity("burst", "bit", int, _DATA, (), _BYTES, ("32 B", "1 bit"))
"""The least that a DRAM moves at once [bit]."""
WIDTH = Quantity("width", "bit", int, _DATA, (), ("bit",), ("128 bit", "16 B"))
"""Of a port, per cycle [bit]."""
BANDWIDTH = Quantity(
    *("bandwidth", "bit/s", Fraction, _DATA, _TIME),
    written=("bit/s", *(f"{unit}/s" for unit in _BYTES[1:]), "TB/s"),
    examples=("6.4 GB/s", "51.2 Gbit/s"),
)
"""[bit/s]."""
CLOCK = Quantity(
    *("clock", "Hz", Fraction, ("Hz", "kHz", "MHz", "GHz"), ()),
    written=("Hz", "kHz", "MHz", "GHz"),
    examples=("500 MHz", "1.2 GHz"),
)
"""Frequency [Hz]."""
LATENCY = Quantity(
    *("latency", "s", Fraction, _TIME, ()),
    written=("ns", "us", "ms", "s"),
    examples=("100 ns", "0 ns"),
    zero=True,
)
"""Time [s]."""
ENERGY = Quantity(
    *("energy", "pJ/bit", float, _ENERGY, _DATA),
    written=("pJ/bit",),
    examples=("20 pJ/bit", "0.16 pJ/bit"),
    zero=True,
)
"""Energy per bit moved, as the float nearest to the text [pJ/bit]."""
MAC_ENERGY = Quantity(
    *("energy", "pJ", Fraction, _ENERGY, ()),
    written=("fJ", "pJ", "nJ"),
    examples=("0.2 pJ", "30 fJ"),
    zero=True,
)
"""Energy of one operation [pJ]."""
POWER = Quantity(
    *("power", "W", Fraction, ("W", "mW", "uW", "nW"), ()),
    written=("nW", "uW", "mW", "W"),
    examples=("0.5 mW", "20 uW"),
    zero=True,
)
"""Power [W]."""
