"""The formula of movement, over any algebra.

A tensor's tile is named by its ranges of the dimensions that it depends on. Each loop that advances
makes one kind of change: the loops outside it stand anywhere, those inside it go from their last
tile to their first. So the sum over all changes of a kind is a product of one sum per axis, an axis
being the dimensions whose tiles cannot be counted apart: (G, C) share blocks, (P, R) share rows.

A tile counts with the innermost loop that changed its range, that is, among the tiles for which no
loop inside has several trips: `Axis.single`. What advances brings `Axis.fresh`. Loops of dimensions
that the tensor does not depend on repeat all that changes inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any, Generic, TypeVar

T = TypeVar("T")
"""An algebra: what has +, - and *."""

Depth = tuple[int, ...]
"""Of each dimension of an axis, how many of its loops stand outside."""


@dataclass(frozen=True, eq=False)
class Axis(Generic[T]):
    """Sums over the tiles of an axis.

    dims: the dimensions that the axis depends on
    single: lengths summed over the tiles for which no loop inside has several trips
    fresh: by the dimension whose loop advances: what that adds to `single`, less what stays of the
        tile before
    same: of windows, by the dimension that advances ("" for one of another axis): lengths of boxes
        that equal the box before; empty if only equal ranges make equal boxes
    """

    dims: str
    single: Mapping[Depth, T]
    fresh: Mapping[tuple[str, Depth], T]
    same: Mapping[tuple[str, Depth], T] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Repeats(Generic[T]):
    """How often the loops of a dimension go round that the tensor does not depend on.

    rounds: by how many of its loops stand outside; extra: one less
    again: times that each of its loops advances
    """

    rounds: Sequence[T]
    extra: Sequence[T]
    again: Sequence[T]


@dataclass(frozen=True, eq=False)
class Copies(Generic[T]):
    """PEs that hold the same elements, along dimensions that the tensor does not depend on.

    many: by how many loops of each dimension stand outside, summed over how these go round
    """

    dims: str
    many: Mapping[Depth, T]


def moved(order: str, axes: Sequence[Axis[T]], repeats: Mapping[str, Repeats[T]]) -> T:
    """What becomes resident over a nest: of every change, all but what stays of the tile before.

    order: the dimensions of the loops, outer to inner
    axes: whose lengths multiply to a tile's size
    repeats: of the dimensions that belong to no axis

    Of I, `coincidences` do not move.
    """
    total: T = _product(axis.single[(0,) * len(axis.dims)] for axis in axes)
    for change, outside in _changes(order, axes):
        total = total + _product([change, *_rounds(repeats, outside)])
    return total


def multicast(order: str, axes: Sequence[Axis[T]], copies: Sequence[Copies[T]]) -> T:
    """What becomes resident over a nest in all PEs that hold it.

    copies: of all dimensions that belong to no axis
    """

    def times(outside: Mapping[str, int]) -> list[T]:
        return [own.many[tuple(outside.get(d, 0) for d in own.dims)] for own in copies]

    total = _product([*(axis.single[(0,) * len(axis.dims)] for axis in axes), *times({})])
    for change, outside in _changes(order, axes):
        total = total + _product([change, *times(outside)])
    return total


def once(axes: Sequence[Axis[T]]) -> T:
    """All tiles once, of axes without overlap."""
    return _product(axis.single[max(axis.single)] for axis in axes)


def again(order: str, axes: Sequence[Axis[T]], repeats: Mapping[str, Repeats[T]]) -> T | int:
    """What becomes resident more than once, of axes without overlap: `moved` less `once`."""
    total: Any = 0
    for change, outside in _changes(order, axes):
        loops = [(own, outside[d]) for d, own in repeats.items() if outside.get(d)]
        for inner, (own, depth) in enumerate(loops):  # their rounds less one, term by term
            rounds = [other.rounds[at] for other, at in loops[:inner]]
            total = _product([change, *rounds, own.extra[depth]]) + total
    return total  # type: ignore[no-any-return]


def _changes(order: str, axes: Sequence[Axis[T]]) -> Iterator[tuple[Any, dict[str, int]]]:
    """By loop of an axis: what it brings when it advances, and the loops outside it."""
    outside = dict.fromkeys("".join(axis.dims for axis in axes) + order, 0)
    for dim in order:
        own = next((axis for axis in axes if dim in axis.dims), None)
        if own is not None:
            others = (a.single[_depth(a, outside)] for a in axes if a is not own)
            yield _product([own.fresh[dim, _depth(own, outside)], *others]), outside
        outside[dim] += 1


def coincidences(
    order: str, axes: Sequence[Axis[T]], repeats: Mapping[str, Repeats[T]]
) -> T | None:
    """Boxes that clipping leaves as they were though a range changed; None if there are none.

    The last two axes are the windows of rows and of columns.
    """

    def times(dim: str, outside: Mapping[str, int]) -> list[T]:
        factors = _rounds({d: own for d, own in repeats.items() if d != dim}, outside)
        return [*factors, repeats[dim].again[outside[dim]]] if dim in repeats else factors

    return _coincidences(order, axes, repeats, times)


def multicast_coincidences(order: str, axes: Sequence[Axis[T]], copies: Copies[T]) -> T | None:
    """The same in all PEs that hold them, along the one dimension that belongs to no axis."""

    def times(dim: str, outside: Mapping[str, int]) -> list[T]:
        depth = outside.get(copies.dims, 0)
        if dim != copies.dims:
            return [copies.many[depth,]]
        return [copies.many[depth + 1,] - copies.many[depth,]]  # type: ignore[operator]

    return _coincidences(order, axes, copies.dims, times)


def _coincidences(
    order: str,
    axes: Sequence[Axis[T]],
    idle: Collection[str],
    times: Callable[[str, Mapping[str, int]], list[T]],
) -> T | None:
    """idle: dimensions that belong to no axis; times: what multiplies when a loop advances"""
    rows, cols = axes[-2:]
    if not (rows.same or cols.same):
        return None
    outside = dict.fromkeys("".join(axis.dims for axis in axes) + order, 0)
    total: T | None = None
    for dim in order:
        at_rows, at_cols = _depth(rows, outside), _depth(cols, outside)
        moves_rows, moves_cols = dim in rows.dims, dim in cols.dims
        if moves_rows or moves_cols or dim in idle:
            equal: Any = _same(rows, dim, at_rows) * _same(cols, dim, at_cols)
            if not (moves_rows or moves_cols):  # equal ranges are no change
                equal = equal - rows.single[at_rows] * cols.single[at_cols]  # type: ignore[operator]
            others = [axis.single[_depth(axis, outside)] for axis in axes[:-2]]
            term = _product([equal, *others, *times(dim, outside)])
            total = term if total is None else total + term
        outside[dim] += 1
    return total


def _same(axis: Axis[T], dim: str, at: Depth) -> Any:
    """Lengths of equal boxes of a window when a loop advances."""
    own = dim if dim in axis.dims else ""
    if axis.same:
        return axis.same[own, at]
    return 0 if own else axis.single[at]


def _depth(axis: Axis[T], outside: Mapping[str, int]) -> Depth:
    return tuple(outside[dim] for dim in axis.dims)


def _rounds(repeats: Mapping[str, Repeats[T]], outside: Mapping[str, int]) -> list[T]:
    return [own.rounds[outside[d]] for d, own in repeats.items() if outside.get(d)]


def _product(factors: Iterable[T]) -> T:
    return reduce(mul, factors)
