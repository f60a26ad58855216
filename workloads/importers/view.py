"""Where the elements of a framework's tensor lie in the output (N, H, W, C) of a node.

A node's output is held as a list of axes, those of N, of the map H x W, and of C. A tensor is a
view of it: each of its dimensions is some of these axes. Transposing gives them another order,
reshaping splits them and draws dimensions' borders anew; neither moves anything. So a linear layer
can tell that the last dimension is what its input holds as channels, whatever was transposed and
reshaped on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bfpsim.workloads.layer import Shape

Dims = tuple[int, ...]
"""A tensor's shape, or some of its dimensions, in the framework's own order."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which dimensions of a tensor N, the map and C hold, each group's outermost first."""

    n: Dims
    map: Dims
    c: Dims

    @classmethod
    def channels_first(cls, rank: int) -> Arrangement:
        """Return the arrangement of (N, C, ...); of (C,) for rank 1."""
        if rank < 2:
            return cls((), (), tuple(range(rank)))
        return cls((0,), tuple(range(2, rank)), (1,))

    @classmethod
    def channels_last(cls, rank: int) -> Arrangement:
        """Return the arrangement of (N, ..., C); of (C,) for rank 1."""
        if rank < 2:
            return cls.channels_first(rank)
        return cls((0,), tuple(range(1, rank - 1)), (rank - 1,))

    @classmethod
    def heads(cls, rank: int) -> Arrangement:
        """Return the arrangement of (N, heads, ..., T, C): heads' channels lie side by side."""
        if rank < 3:
            return cls.channels_last(rank)
        return cls((0,), (rank - 2,), (*range(1, rank - 2), rank - 1))

    @classmethod
    def usual(cls, rank: int) -> Arrangement:
        """Return NCHW for rank 4 and channels last for any other."""
        return cls.channels_first(rank) if rank == 4 else cls.channels_last(rank)

    def shape(self, dims: Dims) -> Shape:
        """Return (N, H, W, C) of a node that holds a tensor of ``dims`` so.

        A map of two dimensions is H x W; one dimension behind the channels, as in (N, C, L), is
        1 x L; any others together are H x 1.
        """
        n, cells, c = (
            math.prod(dims[dim] for dim in group) for group in (self.n, self.map, self.c)
        )
        if len(self.map) == 2:
            return n, dims[self.map[0]], dims[self.map[1]], c
        if len(self.map) == 1 and self.c and self.map[0] > max(self.c):
            return n, 1, cells, c
        return n, cells, 1, c

    def permute(self, order: Sequence[int]) -> Arrangement:
        """Return the arrangement of the transposed tensor, whose dimension i was ``order[i]``."""
        new = {old: dim for dim, old in enumerate(order)}
        n, rows, c = (tuple(new[dim] for dim in group) for group in (self.n, self.map, self.c))
        return Arrangement(n, rows, c)


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """A run of elements with one stride, more than one of them; two axes are equal if the same."""

    extent: int


Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a view of the output of ``node``.

    ``n``, ``map`` and ``c`` are what the node's output holds, ``dims`` the tensor's dimensions;
    both have the same axes, each group's outermost first. An extent of 1 has none.
    """

    node: str
    n: Axes
    map: Axes
    c: Axes
    dims: tuple[Axes, ...]

    @classmethod
    def of(cls, node: str, shape: Dims, arrangement: Arrangement | None = None) -> View:
        """Return the tensor that a node holds in an arrangement, by default the usual one."""
        dims = tuple(axes_of(extent) for extent in shape)
        return cls(node, (), (), (), dims).arrange(arrangement or Arrangement.usual(len(shape)))

    @property
    def shape(self) -> Dims:
        """The tensor's shape."""
        return tuple(size(axes) for axes in self.dims)

    @property
    def own_shape(self) -> Shape:
        """The shape (N, H, W, C) in which a node holds this by itself.

        H x W are the tensor's own two dimensions between N and C, or behind C; a single one behind
        C is 1 x W; and whatever else the map is made of lies along H.
        """
        rank, groups = len(self.dims), (self.n, self.map, self.c)
        outer, height, width = size(self.n), size(self.map), 1
        if rank == 4 and groups == (self.dims[0], join(self.dims[2:]), self.dims[1]):
            height, width = size(self.dims[2]), size(self.dims[3])
        elif rank == 4 and groups == (self.dims[0], join(self.dims[1:3]), self.dims[3]):
            height, width = size(self.dims[1]), size(self.dims[2])
        elif rank == 3 and groups == (self.dims[0], self.dims[2], self.dims[1]):
            height, width = 1, size(self.dims[2])
        return outer, height, width, size(self.c)

    @property
    def strides(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Each dimension as (extent, stride in the node's output) pairs, as few as possible."""
        step, strides = 1, {}
        for axis in reversed((*self.n, *self.map, *self.c)):
            strides[axis] = step
            step *= axis.extent
        return tuple(_coalesce([(a.extent, strides[a]) for a in axes]) for axes in self.dims)

    @property
    def whole(self) -> bool:
        """Whether every dimension is one run of elements, in one of N, the map and C."""
        return all(len(axes) < 2 for axes in self.dims)

    def arrange(self, arrangement: Arrangement) -> View:
        """Return the tensor as it lies where it is held in an arrangement."""
        n, rows, c = (
            join(self.dims[dim] for dim in group)
            for group in (arrangement.n, arrangement.map, arrangement.c)
        )
        return View(self.node, n, rows, c, self.dims)

    def permute(self, order: Sequence[int]) -> View:
        """Return the transposed tensor, whose dimension i was ``order[i]``."""
        return View(self.node, self.n, self.map, self.c, tuple(self.dims[i] for i in order))

    def reshape(self, shape: Dims) -> View | None:
        """Return the reshaped tensor, or None if no split of axes gives its dimensions."""
        runs = self._runs()
        left = [run for run in runs.values() if run]
        splits: dict[Axis, Axes] = {}
        dims = []
        for extent in shape:
            drawn: list[Axis] = []
            while (need := extent // size(drawn)) > 1:
                axis = left.pop(0)
                if axis.extent > need and axis.extent % need == 0:
                    outer, inner = Axis(need), Axis(axis.extent // need)
                    splits[axis] = outer, inner
                    left.insert(0, inner)
                    axis = outer
                if need % axis.extent:
                    return None
                drawn.append(axis)
            dims.append(tuple(drawn))

        def split(axes: Iterable[Axis]) -> Axes:
            return join(split(splits[axis]) if axis in splits else (axis,) for axis in axes)

        # A dimension drawn before its last axis was split cannot be: they are drawn in order.
        n, rows, c = (
            split(run for axis in group if (run := runs[axis]))
            for group in (self.n, self.map, self.c)
        )
        return View(self.node, n, rows, c, tuple(dims))

    def resize(self, node: str, extents: Sequence[int | None]) -> View | None:
        """Return the output of ``node``: this tensor with other extents, a None being no dimension.

        A dimension that keeps its extent keeps its axes. None if one that does not, and does not
        vanish, has axes in more than one of N, map and C, or none at all.
        """
        groups = [self.n, self.map, self.c]
        dims = []
        for axes, extent in zip(self.dims, extents, strict=True):
            if extent == size(axes):
                dims.append(axes)
                continue
            new = axes_of(extent or 1)
            home = [group for group in groups if axes and {*axes} <= {*group}]
            if new and not home:
                return None
            for place, group in enumerate(groups):
                at = group.index(axes[0]) if home and group is home[0] else len(group)
                kept = [
                    tuple(a for a in part if a not in axes) for part in (group[:at], group[at:])
                ]
                groups[place] = (*kept[0], *(new if at < len(group) else ()), *kept[1])
            if extent is not None:
                dims.append(new)
        return View(node, groups[0], groups[1], groups[2], tuple(dims))

    def without(self, dim: int) -> View:
        """Return the tensor without a dimension, and the node without its axes."""
        gone = self.dims[dim]
        n, rows, c = (
            tuple(axis for axis in group if axis not in gone)
            for group in (self.n, self.map, self.c)
        )
        return View(self.node, n, rows, c, (*self.dims[:dim], *self.dims[dim + 1 :]))

    def _runs(self) -> dict[Axis, Axis | None]:
        """Return axis -> the axis of all that follow it both in the tensor and in its group.

        Of such a run the first has the axis and the others have none; in the tensor's order.
        """
        behind = dict(pair for group in (self.n, self.map, self.c) for pair in pairwise(group))
        runs: list[list[Axis]] = []
        for axis in join(self.dims):
            if runs and behind.get(runs[-1][-1]) is axis:
                runs[-1].append(axis)
            else:
                runs.append([axis])
        whole: dict[Axis, Axis | None] = {}
        for run in runs:
            whole |= dict.fromkeys(run)
            whole[run[0]] = run[0] if len(run) == 1 else Axis(size(run))
        return whole


def axes_of(extent: int) -> Axes:
    """Return the axes of a dimension of its own: one, or none for an extent of 1."""
    return (Axis(extent),) if extent > 1 else ()


def size(axes: Sequence[Axis]) -> int:
    """Return how many elements axes have together."""
    return math.prod(axis.extent for axis in axes)


def join(groups: Iterable[Axes]) -> Axes:
    """Return the axes of several groups, one behind the other."""
    return tuple(axis for group in groups for axis in group)


def _coalesce(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join neighbours that are one run of elements."""
    runs: list[tuple[int, int]] = []
    for extent, stride in pairs:
        if runs and runs[-1][1] == extent * stride:
            runs[-1] = runs[-1][0] * extent, stride
        else:
            runs.append((extent, stride))
    return tuple(runs)
