"""Exact tables: sums over the tiles that a layer's loops really make, edges and clipping included.

Every table is over tile sizes (one size, if the nest is given), then `lift`ed into an algebra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.movement import Axis, Depth, Repeats
from bfpsim.mapping.nest import Tensor
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format
from bfpsim.workloads import ConvLayer

T = TypeVar("T")
Lift = Callable[[str, NDArray[Any]], T]
"""Makes a value of an algebra of a table: the dimensions of its axes, and the table."""


class Cell(NamedTuple):
    """What a stored cell costs.

    element: of each element; code: of each block; block: elements along the axis that share it
    by_tap: whether each tap of W has codes of its own
    """

    element: int
    code: int
    block: int
    by_tap: bool = False

    @classmethod
    def of(cls, fmt: Format) -> Cell:
        """Bits of a format: mantissas and codes."""
        return cls(fmt.mantissa_bits, fmt.exponent_bits, fmt.block_size, not fmt.spans_taps)

    @classmethod
    def blocks(cls, fmt: Format) -> Cell:
        """Codes in place of bits."""
        return cls(0, 1, fmt.block_size, not fmt.spans_taps)

    @property
    def mantissas(self) -> Cell:
        """The mantissas alone."""
        return self._replace(code=0)

    @property
    def codes(self) -> Cell:
        """The codes alone."""
        return self._replace(element=0)


ELEMENTS = Cell(1, 0, 1)
"""Elements in place of bits."""


def repeats(dim: str, leaves: Leaves, lift: Lift[T]) -> Repeats[T]:
    """How often the loops of a dimension go round."""
    rounds = [leaves.rounds(k) for k in range(leaves.loops + 1)]
    return Repeats(
        [lift(dim, own) for own in rounds],
        [lift(dim, own - 1) for own in rounds],
        [lift(dim, more - own) for own, more in pairwise(rounds)],
    )


def disjoint(dims: str, leaves: Mapping[str, Leaves], sizes: Vector, lift: Lift[T]) -> Axis[T]:
    """An axis whose tiles do not overlap.

    sizes: of the tile at each combination of leaves, an array axis per dimension
    """
    tables = {
        depth: _summed(dims, leaves, _alone(dims, leaves, depth, sizes))
        for depth in product(*(range(leaves[d].loops + 1) for d in dims))
    }
    single = {depth: lift(dims, table) for depth, table in tables.items()}
    return Axis(dims, single, {key: lift(dims, more) for key, more in _entering(dims, tables)})


def windows(
    dims: str,
    window: Window,
    leaves: Mapping[str, Leaves],
    sliding: bool,
    lift: Lift[T],
    clipped: bool = True,
) -> Axis[T]:
    """The axis of input rows under (P, R), or of columns under (Q, S).

    sliding: whether the overlap with the tile before stays if one range moves on to the next
    clipped: whether padding is left out
    """
    outputs, taps = (leaves[dim] for dim in dims)
    low, high = _window_ranges(dims, window, leaves, clipped)
    sizes = high - low
    depths: list[Depth] = list(product(range(outputs.loops + 1), range(taps.loops + 1)))
    tables = {d: _summed(dims, leaves, _alone(dims, leaves, d, sizes)) for d in depths}
    fresh = dict(_entering(dims, tables))
    same: dict[tuple[str, Depth], Vector] = {}
    coincide = False
    for depth in depths:
        for advancing in ("", *dims):
            at = dims.find(advancing) if advancing else -1
            if at >= 0 and depth[at] == leaves[advancing].loops:
                continue
            pairs = [
                own.advances(k) if d == advancing else own.wraps(k)
                for d, own, k in zip(dims, (outputs, taps), depth, strict=True)
            ]
            old, new = (np.ix_(pairs[0][i], pairs[1][i]) for i in (0, 1))
            equal = (low[old] == low[new]) & (high[old] == high[new])
            after = [leaf for _, leaf in pairs]
            same[advancing, depth] = _summed(dims, leaves, sizes[new] * equal, after)
            unmoved = tables[depth] if not advancing else np.zeros_like(tables[depth])
            coincide = coincide or not np.array_equal(same[advancing, depth], unmoved)
            if sliding and advancing:
                other = pairs[1 - at]
                still = np.expand_dims(other[0] == other[1], at)  # the other range is as it was
                kept = np.minimum(high[old], high[new]) - np.maximum(low[old], low[new])
                kept = np.maximum(kept, 0) * (still & ~equal)
                fresh[advancing, depth] = fresh[advancing, depth] - _summed(
                    dims, leaves, kept, after
                )
    return Axis(
        dims,
        {depth: lift(dims, table) for depth, table in tables.items()},
        {key: lift(dims, table) for key, table in fresh.items()},
        {key: lift(dims, table) for key, table in same.items()} if coincide else {},
    )


def _window_ranges(
    dims: str, window: Window, leaves: Mapping[str, Leaves], clipped: bool
) -> tuple[Vector, Vector]:
    """The rows of each tile of outputs and taps."""
    outputs, taps = (leaves[dim] for dim in dims)
    rows = window.stored if clipped else window.reach
    low, high = rows(outputs.low[:, None], outputs.high[:, None], taps.low, taps.high)
    return low, high


def _window_sizes(dims: str, window: Window, leaves: Mapping[str, Leaves], clipped: bool) -> Vector:
    low, high = _window_ranges(dims, window, leaves, clipped)
    return high - low


def _alone(dims: str, leaves: Mapping[str, Leaves], depth: Depth, sizes: Vector) -> Vector:
    """Sizes where no loop inside has several trips, else 0."""
    for axis, (dim, outside) in enumerate(zip(dims, depth, strict=True)):
        if outside < leaves[dim].loops:
            shape = [1] * sizes.ndim
            shape[axis] = -1
            sizes = sizes * leaves[dim].single(outside).reshape(shape)
    return sizes


def _summed(
    dims: str, leaves: Mapping[str, Leaves], values: Vector, at: list[Vector] | None = None
) -> Vector:
    """Values at some leaves of each dimension (all), summed by size; an array axis for each."""
    for axis, dim in enumerate(dims):
        own = leaves[dim]
        values = own.totals(values, axis) if at is None else own.sums(values, at[axis], axis)
    return values


def _entering(dims: str, tables: Mapping[Depth, Vector]) -> list[tuple[tuple[str, Depth], Vector]]:
    """By advancing dimension: tiles whose innermost loop with several trips is that loop."""
    found = []
    for depth, table in tables.items():
        for axis, dim in enumerate(dims):
            deeper = (*depth[:axis], depth[axis] + 1, *depth[axis + 1 :])
            if deeper in tables:
                found.append(((dim, depth), tables[deeper] - table))
    return found


# --- what a cell of each axis takes ---------------------------------------------------------------


def channels(groups: int, per_group: int, outer: Leaves, inner: Leaves, cell: Cell) -> Vector:
    """A pixel's (or tap's) bits in tiles of some groups by the same channels of each.

    (leaves of groups, leaves of channels). Blocks ignore the groups; one that a tile's piece of a
    group shares with its piece of the next counts once.
    """
    bits: Vector = outer.lengths[:, None] * inner.lengths * cell.element
    if cell.code:
        bits = bits + cell.code * _codes(groups, per_group, outer, inner, cell.block)
    return bits


def _codes(groups: int, per_group: int, outer: Leaves, inner: Leaves, block: int) -> Vector:
    base = np.arange(groups)[:, None] * per_group
    first, last = (base + inner.low) // block, (base + inner.high - 1) // block
    if groups == 1:
        return last - first + 1
    touched = _running(last - first + 1)
    shared = _running((first[1:] == last[:-1]).astype(np.int64))
    codes: Vector = touched[outer.high] - touched[outer.low]
    codes -= shared[outer.high - 1] - shared[outer.low]
    return codes


def _running(values: Vector) -> Vector:
    """Sums of the first 0, 1, 2, ... rows."""
    return np.concatenate([np.zeros((1, values.shape[1]), np.int64), np.cumsum(values, axis=0)])


def weight_sizes(layer: ConvLayer, leaves: Mapping[str, Leaves], cell: Cell) -> tuple[str, Vector]:
    """The axis of W that blocks run along, and the bits of its tiles.

    Filters, where a group has one input channel; else the channels of one filter.
    """
    area = leaves["R"].lengths[:, None] * leaves["S"].lengths
    if layer.C == 1:
        return "GKRS", _taps(layer.G, layer.K, leaves["G"], leaves["K"], cell, area)
    bits = _taps(1, layer.C, Leaves.nested(1, ()), leaves["C"], cell, area)
    return "CRS", bits[0]


def _taps(
    groups: int, per_group: int, outer: Leaves, inner: Leaves, cell: Cell, area: Vector
) -> Vector:
    elements = channels(groups, per_group, outer, inner, cell.mantissas)
    codes = channels(groups, per_group, outer, inner, cell.codes)
    return elements[..., None, None] * area + codes[..., None, None] * area ** int(cell.by_tap)


def tile_sizes(
    tensor: Tensor, layer: ConvLayer, leaves: Mapping[str, Leaves], cell: Cell
) -> dict[str, Vector]:
    """Sizes of a tensor's tiles along each axis: by the axis' dimensions, over their leaves.

    They multiply to the tile's size.
    """
    if tensor == "I":
        rows, cols = (
            _window_sizes(dims, Window.of(layer, dims[0]), leaves, clipped=True)
            for dims in ("PR", "QS")
        )
        pixel = channels(layer.G, layer.C, leaves["G"], leaves["C"], cell)
        return {"N": leaves["N"].lengths, "GC": pixel, "PR": rows, "QS": cols}
    if tensor == "W":
        dims, bits = weight_sizes(layer, leaves, cell)
        return {d: leaves[d].lengths for d in "GK" if d not in dims} | {dims: bits}
    pixel = channels(layer.G, layer.K, leaves["G"], leaves["K"], cell)
    return {d: leaves[d].lengths for d in "NPQ"} | {"GK": pixel}


def totals(dims: str, leaves: Mapping[str, Leaves], sizes: Vector) -> Vector:
    """All tiles along an axis together, over tile sizes."""
    return _summed(dims, leaves, sizes)


def largest(dims: str, leaves: Mapping[str, Leaves], sizes: Vector) -> Vector:
    """The largest tile along an axis, over tile sizes."""
    for axis, dim in enumerate(dims):
        sizes = leaves[dim].largest(sizes, axis)
    return sizes


def window_sums(layer: ConvLayer, dim: str, outputs: Leaves) -> list[Vector]:
    """Of P or Q: whatever the cost of I grows with in the rows of a tile, over tile sizes.

    All rows; those that a sweep brings; the most of a tile; and, negative, the rows of tiles that
    equal the one before, and of the first if it equals the last.
    """
    dims = dim + ("R" if dim == "P" else "S")
    taps = Leaves.nested(layer.R if dim == "P" else layer.S, ())
    leaves, window = {dims[0]: outputs, dims[1]: taps}, Window.of(layer, dim)
    axis = windows(dims, window, leaves, sliding=True, lift=lambda _, table: table[:, 0])
    every, alone = axis.single[1, 0], axis.single[0, 0]
    same, wrapped = np.zeros_like(every), np.zeros_like(every)
    if axis.same:
        same, wrapped = axis.same[dim, (0, 0)], axis.same["", (0, 0)] - alone
    sweep = alone + axis.fresh[dim, (0, 0)] - same
    most = largest(dims, leaves, _window_sizes(dims, window, leaves, clipped=True))[:, 0]
    return [every, sweep, most, -same, -wrapped]


def recurs(layer: ConvLayer, dim: str) -> bool:
    """Whether, for some tile size of P or Q, clipping leaves all tiles the same rows."""
    outputs = Leaves.of_sizes(layer.dims[dim], np.arange(1, layer.dims[dim] + 1))
    return bool(window_sums(layer, dim, outputs)[-1].any())


def whole_blocks(
    layer: ConvLayer, groups: Vector, filters: Vector, block: int
) -> NDArray[np.bool_]:
    """Whether all tiles of O end on blocks, by sizes of G and K: (G, K)."""
    # Cuts between groups, and, if a tile takes a part of each group, inside and around every group.
    between = (groups >= layer.G) | (groups * layer.K % block == 0)
    inside = (filters % block == 0) & (layer.G == 1 or layer.K % block == 0)
    return np.asarray(np.where((filters == layer.K)[None, :], between[:, None], inside[None, :]))


def axes_of(
    tensor: Tensor, layer: ConvLayer, leaves: Mapping[str, Leaves], cell: Cell, lift: Lift[T]
) -> list[Axis[T]]:
    """The axes of a tensor; of I, without the windows of rows and columns."""
    return [
        disjoint(dims, leaves, sizes, lift)
        for dims, sizes in tile_sizes(tensor, layer, leaves, cell).items()
        if dims not in ("PR", "QS")
    ]


def window_axes(
    layer: ConvLayer,
    leaves: Mapping[str, Leaves],
    sliding: bool,
    lift: Lift[T],
    clipped: bool = True,
) -> list[Axis[T]]:
    """The windows of I: its rows and its columns."""
    return [
        windows(dims, Window.of(layer, dims[0]), leaves, sliding, lift, clipped)
        for dims in ("PR", "QS")
    ]


IDLE: dict[Tensor, str] = {"I": "K", "W": "NPQ", "O": "CRS"}
"""The dimensions that a tensor does not depend on."""
