"""Units for columns of figures: the one that leaves the largest number readable."""

from __future__ import annotations

from collections.abc import Sequence

Unit = tuple[float, str]
"""What one is of the base unit, and its name."""

BITS: tuple[Unit, ...] = ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit"), (1.0, "bit"))
ENERGY: tuple[Unit, ...] = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
TIME: tuple[Unit, ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def readable(largest: float, units: Sequence[Unit]) -> Unit:
    """The largest of the units, which descend, in which a number is 1 or more; else the last."""
    return next((one for one in units if one[0] <= largest), units[-1])
