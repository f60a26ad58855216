"""Which axes of an ONNX tensor a node's N, H and W, and C hold.

A node's value lies in memory as (N, H, W, C). An ONNX tensor is a view of it: NCHW has its
channels on axis 1, tokens (N, T, C) theirs on the last, heads (N, heads, T, C) on axes 1 and 3. So
most Transpose and Reshape operators only give other names to the axes of what is there, and cost
nothing; one that does move data is the host's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bfpsim.workloads.importers.onnx.file import Dims
from bfpsim.workloads.layer import Shape

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The axes that N, the map of H x W, and C hold, each group's outermost first."""

    n: Axes
    map: Axes
    c: Axes

    @classmethod
    def channels_first(cls, rank: int) -> Layout:
        """Return the layout of (N, C, ...); of (C,) for rank 1."""
        if rank < 2:
            return cls((), (), tuple(range(rank)))
        return cls((0,), tuple(range(2, rank)), (1,))

    @classmethod
    def channels_last(cls, rank: int) -> Layout:
        """Return the layout of (N, ..., C); of (C,) for rank 1."""
        if rank < 2:
            return cls.channels_first(rank)
        return cls((0,), tuple(range(1, rank - 1)), (rank - 1,))

    @classmethod
    def heads(cls, rank: int) -> Layout:
        """Return the layout of (N, heads, ..., T, C), whose heads' channels lie side by side."""
        if rank < 3:
            return cls.channels_last(rank)
        return cls((0,), (rank - 2,), (*range(1, rank - 2), rank - 1))

    @classmethod
    def usual(cls, rank: int) -> Layout:
        """Return NCHW for rank 4 and channels last for any other."""
        return cls.channels_first(rank) if rank == 4 else cls.channels_last(rank)

    def shape(self, dims: Dims) -> Shape:
        """Return (N, H, W, C) of a tensor.

        A map of two axes is H x W; one axis behind the channels, as in (N, C, L), is 1 x L;
        any others together are H x 1.
        """
        n, cells, c = (
            math.prod(dims[axis] for axis in axes) for axes in (self.n, self.map, self.c)
        )
        if len(self.map) == 2:
            return n, dims[self.map[0]], dims[self.map[1]], c
        if len(self.map) == 1 and self.c and self.map[0] > max(self.c):
            return n, 1, cells, c
        return n, cells, 1, c

    def same(self, other: Layout, dims: Dims) -> bool:
        """Return whether both order a tensor's elements alike, in the same N, map and C."""
        return self._long(dims) == other._long(dims)

    def permuted(self, permutation: Sequence[int]) -> Layout:
        """Return the layout of the transposed tensor, whose axis i was ``permutation[i]``."""
        new = {old: axis for axis, old in enumerate(permutation)}
        n, rows, c = (tuple(new[axis] for axis in axes) for axes in (self.n, self.map, self.c))
        return Layout(n, rows, c)

    def without(self, gone: Sequence[int], rank: int) -> Layout:
        """Return the layout of the tensor whose axes ``gone`` are removed."""
        kept = [axis for axis in range(rank) if axis not in gone]
        n, rows, c = (
            tuple(kept.index(axis) for axis in axes if axis in kept)
            for axes in (self.n, self.map, self.c)
        )
        return Layout(n, rows, c)

    def reshaped(self, dims: Dims, new: Dims) -> Layout | None:
        """Return the layout of the reshaped tensor, or None if no elements may stay in place."""
        groups = self._long(dims)
        replaced: list[list[int]] = [[], [], []]
        chunks = {old[0]: (old, axes) for old, axes in _chunks(dims, new)}
        for group, out in zip(groups, replaced, strict=True):
            at = 0
            while at < len(group):
                old, axes = chunks.get(group[at], ((), ()))
                if not old or group[at : at + len(old)] != old:
                    return None
                out += axes
                at += len(old)
        placed = {axis for out in replaced for axis in out}
        for axis in range(len(new)):
            if axis not in placed:  # of extent 1, wherever it is
                replaced[0 if axis == 0 else 1].append(axis)
        n, rows, c = (tuple(out) for out in replaced)
        return Layout(n, rows, c)

    def _long(self, dims: Dims) -> tuple[Axes, Axes, Axes]:
        """Return the groups without axes of extent 1, which lie anywhere."""
        n, rows, c = (
            tuple(axis for axis in axes if dims[axis] > 1) for axes in (self.n, self.map, self.c)
        )
        return n, rows, c


def _chunks(dims: Dims, new: Dims) -> list[tuple[Axes, Axes]]:
    """Return the shortest runs of axes (before, after) with as many elements, extents 1 apart."""
    before = [axis for axis, extent in enumerate(dims) if extent > 1]
    after = [axis for axis, extent in enumerate(new) if extent > 1]
    chunks = []
    i = j = 0
    while i < len(before):
        first, second = i, j
        left, right = dims[before[i]], new[after[j]]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= dims[before[i]]
                i += 1
            else:
                right *= new[after[j]]
                j += 1
        chunks.append((tuple(before[first:i]), tuple(after[second:j])))
    return chunks
