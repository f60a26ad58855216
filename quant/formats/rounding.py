"""Rounding, and the error of formats."""

from enum import Enum


class FormatError(ValueError):
    """A format that cannot exist, or data that a format cannot hold."""


class Rounding(Enum):
    """How x / 2^(E - (m - 2)) becomes an integer mantissa."""

    NEAREST_EVEN = "nearest-even"
    """Nearest integer, ties to the even one (IEEE 754 roundTiesToEven)."""
    NEAREST_AWAY = "nearest-away"
    """Nearest integer, ties away from zero."""
    TRUNCATE = "truncate"
    """Toward zero."""
    STOCHASTIC = "stochastic"
    """Up with the probability of the fraction: unbiased, needs a generator."""
