"""The tiles that the loops over one dimension make, as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """Innermost tiles [low, high) of a dimension in loop order; of many tile sizes at once.

    starts: by how many of the dimension's loops stand outside, the first leaf of each group of
        leaves that the loops inside go through. `starts[0]` has an entry per size, `starts[-1]`
        one per leaf
    """

    low: Vector
    high: Vector
    starts: tuple[Vector, ...]

    @classmethod
    def of_sizes(cls, extent: int, sizes: Vector, outside: Sequence[int] = ()) -> Leaves:
        """One loop, of every tile size, inside loops of given ones: the first size comes first."""
        around = cls.nested(extent, outside)
        many, groups = len(sizes), len(around.low)
        size = np.repeat(sizes, groups)
        low, high = np.tile(around.low, many), np.tile(around.high, many)
        trips = -(-(high - low) // size)
        ends = np.cumsum(trips)
        first = ends - trips
        number = np.arange(int(ends[-1]))
        low = np.repeat(low, trips) + (number - np.repeat(first, trips)) * np.repeat(size, trips)
        starts = [first[(np.arange(many)[:, None] * groups + own).ravel()] for own in around.starts]
        high = np.minimum(low + np.repeat(size, trips), np.repeat(high, trips))
        return cls(low, high, (*starts, number))

    @classmethod
    def nested(cls, extent: int, cuts: Sequence[int]) -> Leaves:
        """Several loops, outer to inner, each of one tile size; edge tiles are cut likewise."""
        low, high = np.zeros(1, np.int64), np.full(1, extent)
        starts = [np.zeros(1, np.int64)]
        for size in cuts:
            trips = -(-(high - low) // size)
            first = np.cumsum(trips) - trips
            number = np.arange(int(trips.sum()))
            outer_high = np.repeat(high, trips)
            low = np.repeat(low, trips) + (number - np.repeat(first, trips)) * size
            high = np.minimum(low + size, outer_high)
            starts = [*(first[start] for start in starts), number]
        return cls(low, high, tuple(starts))

    def edge(self, end: int) -> Leaves:
        """Of each size the first leaf alone (0), or the last (1)."""
        alone = self.groups(0)[end]
        number = np.arange(len(alone))
        return Leaves(self.low[alone], self.high[alone], (number,) * len(self.starts))

    @property
    def loops(self) -> int:
        """Loops over the dimension."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> Vector:
        """Of each leaf."""
        return self.high - self.low

    def ranges(self) -> list[tuple[int, int]]:
        """Of every leaf, in loop order."""
        return list(zip(self.low.tolist(), self.high.tolist(), strict=True))

    def groups(self, outside: int) -> tuple[Vector, Vector]:
        """First and last leaf of each group, with so many loops outside."""
        first = self.starts[outside]
        return first, np.append(first[1:], len(self.low)) - 1

    def single(self, outside: int) -> NDArray[np.bool_]:
        """Leaves that are alone in their group: no loop inside has several trips."""
        first, last = self.groups(outside)
        return np.repeat(first == last, last - first + 1)

    def rounds(self, outside: int) -> Vector:
        """Groups of each size: how often so many loops come round."""
        return self.sums(np.ones(len(self.starts[outside]), np.int64), self.starts[outside])

    def wraps(self, outside: int) -> tuple[Vector, Vector]:
        """Leaf before and leaf after a loop of another dimension advances."""
        first, last = self.groups(outside)
        return last, first

    def advances(self, outside: int) -> tuple[Vector, Vector]:
        """Leaf before and leaf after the next loop inside advances."""
        begins = np.zeros(len(self.low), bool)
        begins[self.starts[outside]] = True
        new = self.starts[outside + 1]
        new = new[~begins[new]]
        return new - 1, new

    def sums(self, values: Vector, at: Vector, axis: int = 0) -> Vector:
        """Values that belong to some leaves, ascending, summed by size."""
        shape = list(values.shape)
        shape[axis] = 1
        running = np.concatenate(
            [np.zeros(shape, values.dtype), np.cumsum(values, axis=axis)], axis=axis
        )
        edges = np.searchsorted(at, np.append(self.starts[0], len(self.low)))
        sums: Vector = np.diff(np.take(running, edges, axis=axis), axis=axis)
        return sums

    def totals(self, values: Vector, axis: int = 0) -> Vector:
        """Values of all leaves, summed by size."""
        totals: Vector = np.add.reduceat(values, self.starts[0], axis=axis)
        return totals

    def largest(self, values: Vector, axis: int = 0) -> Vector:
        """Maxima over the leaves of each size."""
        most: Vector = np.maximum.reduceat(values, self.starts[0], axis=axis)
        return most
