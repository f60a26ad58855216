"""Element types of scaled blocks: their codes, and the values that these stand for.

A float element's code is sign, exponent, fraction, as in IEEE 754 with subnormals. INT8's is two's
complement. Codes are those of the OCP MX specification v1.0, sections 5.3.1 to 5.3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Element:
    """The numbers that an element can be.

    bits: width, sign included [bit]
    exponent_min: of the smallest normal number, and so of the subnormals
    exponent_max: of the largest number, emax_elem
    fraction_bits: behind the leading bit; a number of exponent e is a multiple of
        2^(e - fraction_bits)
    largest: the largest magnitude; beyond it, conversion saturates
    infinite: whether the code after the largest's is infinity; the others after it are NaN
    """

    name: str
    bits: int
    exponent_min: int
    exponent_max: int
    fraction_bits: int
    largest: float
    infinite: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether codes are two's complement: a float with a single binade, and no exponent."""
        return self.exponent_min == self.exponent_max

    @property
    def significand_bits(self) -> int:
        """Width that a multiplier sees: of a float its leading bit and fraction [bit]."""
        return self.bits if self.is_integer else self.fraction_bits + 1

    def __str__(self) -> str:
        return self.name


E4M3 = Element("fp8e4m3", 8, -6, 8, 3, 448.0)
E5M2 = Element("fp8e5m2", 8, -14, 15, 2, 57344.0, infinite=True)
E3M2 = Element("fp6e3m2", 6, -2, 4, 2, 28.0)
E2M3 = Element("fp6e2m3", 6, 0, 2, 3, 7.5)
E2M1 = Element("fp4", 4, 0, 2, 1, 6.0)
INT8 = Element("int8", 8, 0, 0, 6, 127 / 64)
"""In units of 1/64. -2 is read and never written, as the specification allows, because values
saturate at the same magnitude on both sides."""

ELEMENTS = (INT8, E4M3, E5M2, E3M2, E2M3, E2M1)

BFLOAT16 = Element("bf16", 16, -126, 127, 7, float(2 - 2.0**-7) * 2.0**127, infinite=True)


def nearest(element: Element, x: Doubles) -> Doubles:
    """The nearest numbers of the element, ties to the even code; beyond the largest, that.

    Exact: every step but the rounding is.
    """
    exponent = np.clip(np.frexp(x)[1] - 1, element.exponent_min, element.exponent_max)
    unit = np.ldexp(1.0, exponent - element.fraction_bits)
    with np.errstate(over="ignore"):
        rounded = np.rint(x / unit) * unit
    kept: Doubles = np.clip(rounded, -element.largest, element.largest)
    return kept


def encode(element: Element, numbers: Doubles) -> Codes:
    """The codes of numbers of the element; zero's has no sign."""
    low, digits = element.exponent_min, element.fraction_bits
    if element.is_integer:
        whole: Codes = np.ldexp(numbers, digits - low).astype(np.int64)
        return whole
    magnitude = np.abs(numbers)
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, low)
    exponent = np.where(magnitude > 0, exponent, low)
    # The leading bit of a normal number carries into the exponent's field.
    code = ((exponent - low).astype(np.int64) << digits) + np.ldexp(
        magnitude, digits - exponent
    ).astype(np.int64)
    signed: Codes = code | ((numbers < 0).astype(np.int64) << (element.bits - 1))
    return signed


def decode(element: Element, codes: Codes) -> Doubles:
    """The numbers that codes stand for; integers are given as such, other codes as bit patterns."""
    if element.is_integer:
        return np.ldexp(codes.astype(np.float64), element.exponent_min - element.fraction_bits)
    numbers: Doubles = _numbers(element)[codes]
    return numbers


@lru_cache
def _numbers(element: Element) -> Doubles:
    """Of every bit pattern."""
    digits = element.fraction_bits
    code = np.arange(1 << (element.bits - 1))
    field = code >> digits
    significand = (code & ((1 << digits) - 1)) + np.where(field > 0, 1 << digits, 0)
    exponent = element.exponent_min + np.maximum(field - 1, 0)
    with np.errstate(over="ignore"):
        numbers = np.ldexp(significand.astype(np.float64), exponent - digits)
    beyond = numbers > element.largest
    numbers[beyond] = np.nan
    if element.infinite:
        numbers[np.argmax(beyond)] = np.inf
    return np.concatenate([numbers, 0.0 - numbers])
