"""Where the elements of a torch tensor lie in the output (N, H, W, C) of a node.

A node's output is held as a list of axes, those of N, of the map H x W, and of C. A tensor is a
view of it: each of its dimensions is some of these axes. Transposing gives them another order,
reshaping splits them and draws dimensions' borders anew; neither moves anything. So a linear layer
can tell that the last dimension is what its input holds as channels, whatever was transposed and
reshaped on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bfpsim.workloads.layer import Shape


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
    def of(cls, node: str, shape: Sequence[int], *, channels_first: bool | None = None) -> View:
        """Return a tensor of its own: (N, C, ...), or (N, ..., C), by default the former at rank 4.

        With less than two dimensions there are channels at most.
        """
        dims = tuple((Axis(extent),) if extent > 1 else () for extent in shape)
        if len(dims) < 2:
            return cls(node, (), (), _joined(dims), dims)
        if channels_first is None:
            channels_first = len(dims) == 4
        inner = (*dims[2:], dims[1]) if channels_first else dims[1:]
        return cls(node, dims[0], _joined(inner[:-1]), inner[-1], dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(size(axes) for axes in self.dims)

    @property
    def held(self) -> Shape:
        """The shape (N, H, W, C) in which a node holds this by itself.

        H x W are the tensor's own two dimensions between N and C, or behind C; a single one behind
        C is 1 x W; and whatever else the map is made of lies along H.
        """
        rank, groups = len(self.dims), (self.n, self.map, self.c)
        outer, height, width = size(self.n), size(self.map), 1
        if rank == 4 and groups == (self.dims[0], _joined(self.dims[2:]), self.dims[1]):
            height, width = size(self.dims[2]), size(self.dims[3])
        elif rank == 4 and groups == (self.dims[0], _joined(self.dims[1:3]), self.dims[3]):
            height, width = size(self.dims[1]), size(self.dims[2])
        elif rank == 3 and self.c and groups == (self.dims[0], self.dims[2], self.dims[1]):
            height, width = 1, size(self.dims[2])
        return outer, height, width, size(self.c)

    @property
    def strides(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Each dimension as (extent, stride in the node's output) pairs, as few as possible."""
        step, strides = 1, {}
        for axis in reversed((*self.n, *self.map, *self.c)):
            strides[axis] = step
            step *= axis.extent
        return tuple(_coalesced([(a.extent, strides[a]) for a in axes]) for axes in self.dims)

    def permuted(self, order: Sequence[int]) -> View:
        """Return the transposed tensor, whose dimension i was ``order[i]``."""
        return View(self.node, self.n, self.map, self.c, tuple(self.dims[i] for i in order))

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """Return the reshaped tensor, or None if no split of axes gives its dimensions."""
        left = list(_joined(self.dims))
        splits: dict[Axis, Axes] = {}
        dims = []
        for extent in shape:
            taken: list[Axis] = []
            while (need := extent // size(taken)) > 1:
                axis = left.pop(0)
                if axis.extent > need and axis.extent % need == 0:
                    outer, inner = Axis(need), Axis(axis.extent // need)
                    splits[axis] = outer, inner
                    left.insert(0, inner)
                    axis = outer
                if need % axis.extent:
                    return None
                taken.append(axis)
            dims.append(tuple(taken))

        def split(axes: Axes) -> Axes:
            return _joined(split(splits[axis]) if axis in splits else (axis,) for axis in axes)

        # A dimension drawn before its last axis was split cannot be: they are taken in order.
        return View(self.node, split(self.n), split(self.map), split(self.c), tuple(dims))

    def resized(self, node: str, extents: Sequence[int | None]) -> View | None:
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
            new: Axes = () if extent in (None, 1) else (Axis(extent or 1),)
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


def size(axes: Sequence[Axis]) -> int:
    """Return how many elements axes have together."""
    return math.prod(axis.extent for axis in axes)


def _joined(groups: object) -> Axes:
    return tuple(axis for group in groups for axis in group)  # type: ignore[attr-defined]


def _coalesced(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join neighbours that are one run of elements."""
    joined: list[tuple[int, int]] = []
    for extent, stride in pairs:
        if joined and joined[-1][1] == extent * stride:
            joined[-1] = joined[-1][0] * extent, stride
        else:
            joined.append((extent, stride))
    return tuple(joined)
