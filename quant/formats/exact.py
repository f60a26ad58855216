"""Exact sums of products: arrays of integers with one common power-of-two scale.

A BFP multiply-accumulate multiplies integer mantissas, adds exponents and adds the shifted
products in an accumulator wide enough to lose nothing; the result is independent of order. Arrays
here hold such values. Integers are int64 where they fit and Python integers where they do not, so
no width overflows.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DOUBLE = 53
"""Significand bits of a float64: sums of integers below 2^53 are exact in any order."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactArray:
    """`digits * 2**exponent * factor`, exactly; digits are int64 or Python integers (dtype object).

    factor: what stands apart to the end, as NVFP4's scale of a whole tensor
    """

    digits: NDArray[Any]
    exponent: int
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.digits.shape

    @property
    def width(self) -> int:
        """Bits that the largest magnitude needs, sign included, at this scale; the factor apart."""
        if self.digits.size == 0:
            return 1
        return max(int(self.digits.max()).bit_length(), int(-self.digits.min()).bit_length()) + 1

    def __add__(self, other: "ExactArray") -> "ExactArray":
        if self.factor != other.factor:
            raise ValueError(f"sum of factors {self.factor!r} and {other.factor!r}; allowed: one")
        exponent = min(self.exponent, other.exponent)
        a = _shift(self, exponent, room=1)
        b = _shift(other, exponent, room=1)
        if a.dtype != b.dtype:
            a, b = a.astype(object), b.astype(object)
        return ExactArray(a + b, exponent, self.factor)

    def with_digits(self, digits: NDArray[Any]) -> "ExactArray":
        """Other digits under the same exponent and factor."""
        return ExactArray(digits, self.exponent, self.factor)

    def multiplied(self) -> "ExactArray":
        """The same numbers with a factor of 1."""
        if self.factor == 1:
            return self
        digits, exponent = 0, 0
        if self.factor:
            fraction, power = math.frexp(self.factor)
            digits, exponent = int(math.ldexp(fraction, _DOUBLE)), power - _DOUBLE
            zeros = (digits & -digits).bit_length() - 1
            digits, exponent = digits >> zeros, exponent + zeros
        fits = self.digits.dtype != object and self.width + digits.bit_length() <= 62
        own = self.digits if fits else self.digits.astype(object)
        return ExactArray(own * digits, self.exponent + exponent)

    def to_float(self) -> NDArray[np.float64]:
        """Values as float64, rounded to odd where 53 bits do not suffice.

        Rounding to odd keeps floor(log2 |x|) and every later rounding to 51 or fewer bits what it
        would have been from the exact value (Boldo and Melquiond, "When double rounding is odd").
        Below 2^-1022, far under what any format here holds, float64 itself has fewer bits.
        """
        if self.factor != 1:
            return self.multiplied().to_float()
        if self.digits.dtype != object and self.width <= _DOUBLE + 1:
            return np.ldexp(self.digits.astype(np.float64), self.exponent)
        pairs = [_round_to_odd(int(d)) for d in self.digits.ravel()]
        odd = np.array([digits for digits, _ in pairs], np.float64).reshape(self.shape)
        dropped = np.array([drop for _, drop in pairs], np.int64).reshape(self.shape)
        return np.ldexp(odd, dropped + self.exponent)


def from_float(values: NDArray[np.float64]) -> ExactArray:
    """Float64 values as integers of the coarsest common scale."""
    if not values.any():
        return ExactArray(np.zeros(values.shape, np.int64), 0)
    fraction, power = np.frexp(values)
    significand = np.ldexp(fraction, _DOUBLE).astype(np.int64)
    lowest = significand & -significand
    trailing = np.frexp(lowest.astype(np.float64))[1] - 1
    nonzero = significand != 0
    exponent = int((power - _DOUBLE + trailing)[nonzero].min())
    top = int(power[nonzero].max())
    if top - exponent <= 62:
        # Exact: every value is a multiple of 2^exponent and below 2^62 of them.
        return ExactArray(np.ldexp(values, -exponent).astype(np.int64), exponent)
    shift = power.astype(object) - _DOUBLE - exponent
    digits = [
        int(s) << int(k) if k >= 0 else int(s) >> -int(k)
        for s, k in zip(significand.ravel(), shift.ravel(), strict=True)
    ]
    wide = np.empty(len(digits), object)
    wide[:] = digits
    return ExactArray(wide.reshape(values.shape), exponent)


def matmul(a: ExactArray, b: ExactArray) -> ExactArray:
    """The exact matrix product of (..., n, k) and (..., k, m).

    Operands are cut into limbs so narrow that every float64 dot product of limbs is exact; a
    narrow format needs one limb and one multiplication. Factors of up to 26 bits multiply exactly.
    """
    depth = max(1, (a.shape[-1] - 1).bit_length())  # 2^depth >= terms per sum
    exponent, factor = a.exponent + b.exponent, a.factor * b.factor
    wide_a, wide_b = a.width - 1, b.width - 1
    if wide_a + wide_b + depth <= _DOUBLE:
        product = np.matmul(a.digits.astype(np.float64), b.digits.astype(np.float64))
        return ExactArray(product.astype(np.int64), exponent, factor)
    limb = (_DOUBLE - depth) // 2
    total: NDArray[Any] | None = None
    for i, x in enumerate(_limbs(a.digits, wide_a, limb)):
        for j, y in enumerate(_limbs(b.digits, wide_b, limb)):
            part = np.matmul(x, y).astype(np.int64).astype(object) << (limb * (i + j))
            total = part if total is None else total + part
    assert total is not None
    return ExactArray(_narrow(total), exponent, factor)


def _limbs(digits: NDArray[Any], width: int, limb: int) -> list[NDArray[np.float64]]:
    """Signed limbs, lowest first: digits = sum(limbs[i] << (i * limb)), |limb| < 2^limb."""
    sign = np.sign(digits).astype(np.float64)
    magnitude: NDArray[Any] = abs(digits)
    mask = (1 << limb) - 1
    count = max(1, -(-width // limb))
    return [((magnitude >> (i * limb)) & mask).astype(np.float64) * sign for i in range(count)]


def _narrow(digits: NDArray[Any]) -> NDArray[Any]:
    """Python integers as int64 where all of them fit with room to add."""
    array = ExactArray(digits, 0)
    return digits.astype(np.int64) if array.width <= 62 else digits


def _shift(a: ExactArray, exponent: int, room: int) -> NDArray[Any]:
    """Digits at a finer scale, with `room` bits of headroom."""
    shift = a.exponent - exponent
    if not a.digits.any():
        return np.zeros(a.shape, np.int64)
    digits = a.digits
    if digits.dtype != object and a.width + shift + room > 63:
        digits = digits.astype(object)
    return digits << shift


def _round_to_odd(value: int) -> tuple[int, int]:
    """The integer of at most 53 bits, rounded to odd, and how many low bits it lacks."""
    magnitude = abs(value)
    drop = magnitude.bit_length() - _DOUBLE
    if drop <= 0:
        return value, 0
    odd = magnitude >> drop
    if odd << drop != magnitude:
        odd |= 1
    return (-odd if value < 0 else odd), drop
