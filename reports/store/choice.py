"""Which points stand for many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def cheapest(points: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the points with each value of a column the one of least energy, in the values' order.

    Of equals the one with the fewest cycles, then the first.
    """
    order = points.sort_values(["energy_pj", "cycles"], kind="stable")
    return order.drop_duplicates(by).sort_values(by)
