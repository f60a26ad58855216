"""SRAM reads and cycles of the PE array in closed form, over tile sizes of every dimension.

The rules are those of `mapping.steps.array`; here each is a sum over all tiles of a size, in
factors that belong to one dimension or to a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Axis, PEArray
from bfpsim.mapping.array import folds, in_time, reduction_folds
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format
from bfpsim.workloads import ConvLayer

_TABLES = 32
"""Tables that are remembered: those of a layer's candidates in every block size."""


class FoldSums(NamedTuple):
    """Contributions to an output that leave the array apart: of all tiles of C, of the largest."""

    every: Vector
    largest: Vector


def fold_sums(layer: ConvLayer, array: PEArray, sizes: Vector) -> FoldSums:
    """The contributions by tile size of C."""
    every, largest = [], []
    for size in sizes.tolist():
        full, edge = divmod(layer.C, size)
        one = reduction_folds(array, _extents(layer, C=size))
        last = reduction_folds(array, _extents(layer, C=edge)) if edge else 0
        every.append(full * one + last)
        largest.append(max(one, last))
    return FoldSums(np.array(every), np.array(largest))


class Reads(NamedTuple):
    """What one pass over a tensor reads, over all tiles: elements, and codes by tile sizes."""

    elements: int
    codes: Vector

    def bits(self, fmt: Format) -> Vector:
        """Mantissas and codes together [bit]."""
        return self.elements * fmt.mantissa_bits + self.codes * fmt.exponent_bits


def input_reads(
    layer: ConvLayer, array: PEArray, fmt: Format, groups: Vector, channels: Vector
) -> Reads:
    """One pass over I, by sizes of G and C: (G, C)."""
    rows, cols = _taps(layer)
    elements = layer.N * layer.G * layer.C * sum(rows) * sum(cols)
    if not fmt.exponent_bits:
        return Reads(elements, np.zeros((len(groups), len(channels)), np.int64))
    sizes = tuple(groups.tolist()), tuple(channels.tolist())
    return Reads(elements, layer.N * _input_codes(layer, array, fmt.block_size, *sizes))


def weight_reads(
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    groups: Vector,
    filters: Vector,
    channels: Vector,
) -> Reads:
    """One pass over W, by sizes of G, K and C: (G, K, C)."""
    shape = (len(groups), len(filters), len(channels))
    elements = prod(layer.weight_shape)
    if not fmt.exponent_bits:
        return Reads(elements, np.zeros(shape, np.int64))
    sizes = tuple(groups.tolist()), tuple(filters.tolist()), tuple(channels.tolist())
    codes = _weight_codes(layer, array, fmt.block_size, *sizes)
    return Reads(elements, np.broadcast_to(codes, shape))


@dataclass(frozen=True, slots=True, eq=False)
class ArrayProfile:
    """What the PE array does over all tiles, in factors over tile sizes.

    input_repeats: passes over I, summed over the tiles of K
    weight_repeats: passes over W, over N, P and Q (N, P, Q)
    cycles: factors of the busy cycles of G, K and C (with R and S); pixel_cycles: (N, P, Q)
    """

    input_repeats: Vector
    weight_repeats: Vector
    cycles: dict[str, Vector]
    pixel_cycles: Vector


def array_profile(layer: ConvLayer, array: PEArray, sizes: Mapping[str, Vector]) -> ArrayProfile:
    """The profile over tile sizes of every dimension."""
    repeats = axis_sums(layer, array, "K", sizes["K"])
    if "K" in in_time(array) and array.stationary == "input":
        repeats = -(-layer.K // sizes["K"])
    return ArrayProfile(
        repeats,
        _pixel_sums(layer, array, sizes, timed=array.stationary != "weight"),
        {dim: axis_sums(layer, array, dim, sizes[dim]) for dim in "GKC"},
        _pixel_sums(layer, array, sizes, timed=True),
    )


def axis_sums(layer: ConvLayer, array: PEArray, dim: str, sizes: Vector) -> Vector:
    """Cycles that `dim` contributes over its tiles: folds of its axis, or steps in time.

    With C come R and S, which stay whole.
    """
    own = "CRS" if dim == "C" else dim
    timed = in_time(array)
    sums = []
    for size in sizes.tolist():
        full, edge = divmod(layer.dims[dim], size)
        total = 0
        for count, length in ((full, size), (1, edge)):
            if length:
                extents = _extents(layer, **{dim: length})
                in_space = prod(
                    folds(axis.dim, axis.size, extents)
                    for axis in (array.rows, array.cols)
                    if axis.dim[0] in own
                )
                total += count * in_space * prod(extents[d] for d in own if d in timed)
        sums.append(total)
    return np.array(sums, np.int64)


def _pixel_sums(
    layer: ConvLayer, array: PEArray, sizes: Mapping[str, Vector], timed: bool
) -> Vector:
    """Over the tiles of N, P and Q: folds of their axes, times steps in time if `timed`."""
    full, edges = {}, {}
    for axis, dim in enumerate("NPQ"):
        shape = [1, 1, 1]
        shape[axis] = -1
        size, extent = sizes[dim].reshape(shape), layer.dims[dim]
        full[dim] = (size, extent // size)
        edges[dim] = (extent % size, (extent % size > 0).astype(np.int64))
    total = np.zeros((1, 1, 1), np.int64)
    in_steps = [dim for dim in "NPQ" if timed and dim in in_time(array)]
    for kinds in product((full, edges), repeat=3):
        tile = {dim: kind[dim] for kind, dim in zip(kinds, "NPQ", strict=True)}
        count = prod((tile[dim][1] for dim in "NPQ"), start=np.ones((1, 1, 1), np.int64))
        for unit in (array.rows, array.cols):
            if unit.dim[0] in "NPQ":
                lanes = prod((tile[d][0] for d in unit.dim), start=np.ones((1, 1, 1), np.int64))
                count = count * -(-lanes // unit.size)
        for dim in in_steps:
            count = count * tile[dim][0]
        total = total + count
    return total


def _taps(layer: ConvLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Outputs that read a stored element with each filter row, and with each column."""
    return Window.of(layer, "P").uses((0, layer.P)), Window.of(layer, "Q").uses((0, layer.Q))


def _extents(layer: ConvLayer, **given: int) -> dict[str, int]:
    """Extents with 1 for every tiled dimension that is not given."""
    return dict.fromkeys("NGKCPQ", 1) | {"R": layer.R, "S": layer.S} | given


# --- codes --------------------------------------------------------------------------------------
# A read is a distinct (tile, fold, block), so that all tiles of a size are counted together, by
# sorting a number for each element.

Indices = dict[str, Vector]
"""The index of every element, by dimension, on an array axis for each."""


@lru_cache(_TABLES)
def _input_codes(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    groups: tuple[int, ...],
    channels: tuple[int, ...],
) -> Vector:
    """Codes of I read for one sample: a table (sizes of G, sizes of C)."""
    taps = np.outer(*_taps(layer)).reshape(-1)
    at = _indices(G=layer.G, C=layer.C, R=layer.R, S=layer.S)
    block = (at["G"] * layer.C + at["C"]) // block_size
    table = np.zeros((len(groups), len(channels)), np.int64)
    for i, g in enumerate(groups):
        for j, c in enumerate(channels):
            reads = _reads(array, at, {"G": g, "C": c}, block)
            # By tap: each element is read once per output that it meets there.
            table[i, j] = taps @ _distinct(reads.reshape(-1, len(taps)))
    return table


@lru_cache(_TABLES)
def _weight_codes(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    groups: tuple[int, ...],
    filters: tuple[int, ...],
    channels: tuple[int, ...],
) -> Vector:
    """Codes of W read: a table that broadcasts to (sizes of G, sizes of K, sizes of C)."""
    if layer.C == 1:  # blocks of filters
        at = _indices(G=layer.G, K=layer.K, C=1, R=layer.R, S=layer.S)
        block = (at["G"] * layer.K + at["K"]) // block_size
        table = np.zeros((len(groups), len(filters), 1), np.int64)
        for i, g in enumerate(groups):
            for j, k in enumerate(filters):
                reads = _reads(array, at, {"G": g, "K": k}, block)
                table[i, j] = _distinct(reads.reshape(-1, 1))
        return table
    at = _indices(C=layer.C, R=layer.R, S=layer.S)
    block = at["C"] // block_size
    of_one_filter = [
        _distinct(_reads(array, at, {"C": c}, block).reshape(-1, 1))[0] for c in channels
    ]
    return np.array(of_one_filter)[None, None] * layer.G * layer.K


def _indices(**extents: int) -> Indices:
    return dict(zip(extents, np.indices(tuple(extents.values()), sparse=True), strict=True))


def _reads(array: PEArray, at: Indices, tile: dict[str, int], block: Vector) -> Vector:
    """A number for each element; equal ones are one read: of one tile, fold and block."""
    extents = {dim: index.size for dim, index in at.items()}
    number = np.zeros((1,) * len(at), np.int64)
    inside, size = dict(at), {dim: np.array(extent) for dim, extent in extents.items()}
    for dim, own in tile.items():
        which = at[dim] // own
        number = number * -(-extents[dim] // own) + which
        inside[dim] = at[dim] - which * own
        size[dim] = np.minimum(own, extents[dim] - which * own)
    for axis in (array.rows, array.cols):
        if axis.dim[0] in at:
            most = -(-prod(extents[dim] for dim in axis.dim) // axis.size)
            number = number * most + _fold(axis, inside, size)
    number = number * (int(block.max()) + 1) + block
    return np.broadcast_to(number, tuple(extents.values()))


def _fold(axis: Axis, inside: Indices, size: Indices) -> Vector:
    """Which fold of an axis each element of a tile falls into."""
    lane = np.zeros(1, np.int64)
    for dim in axis.dim:  # the first letter is the outermost, as in an im2col matrix
        lane = lane * size[dim] + inside[dim]
    fold: Vector = lane // axis.size
    return fold


def _distinct(numbers: NDArray[np.int64]) -> Vector:
    """How many different numbers each column has."""
    ordered = np.sort(numbers, axis=0, kind="stable")
    return np.asarray(1 + np.count_nonzero(np.diff(ordered, axis=0), axis=0))
