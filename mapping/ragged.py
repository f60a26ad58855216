"""The tiles of one dimension under many tile sizes, one behind another in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Tiles [low, high) of an extent, those of the first size first.

    trips: tiles of each size; starts, ends: where a size's tiles stand in the flat arrays
    """

    low: Vector
    high: Vector
    trips: Vector
    starts: Vector
    ends: Vector

    @classmethod
    def of(cls, extent: int, sizes: Vector) -> Tiles:
        """The tiles of every size; the last of a size may be shorter."""
        trips = -(-extent // sizes)
        ends = np.cumsum(trips)
        starts = ends - trips
        number = np.arange(int(ends[-1])) - np.repeat(starts, trips)
        size = np.repeat(sizes, trips)
        low = number * size
        return cls(low, np.minimum(low + size, extent), trips, starts, ends)

    def sum(self, values: Vector) -> Vector:
        """Sums over the tiles of each size; values have tiles on axis 0."""
        sums: Vector = np.add.reduceat(values, self.starts, axis=0)
        return sums

    def max(self, values: Vector) -> Vector:
        """Maxima over the tiles of each size."""
        largest: Vector = np.maximum.reduceat(values, self.starts, axis=0)
        return largest
