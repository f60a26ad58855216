"""What each tile size of one dimension means for every count, as vectors over tile sizes.

The exact model factors into one sum per dimension (see `mapping.models`). Here those sums are
tabulated for many tile sizes at once, so that a whole grid of mappings is priced by broadcasting.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arch import PEArray
from mapping.boxes import Interval, channel_intervals, input_cols, input_rows
from mapping.pe_array import (
    Tile,
    col_taps,
    folds,
    input_codes,
    reduction_folds,
    row_taps,
    weight_codes,
)
from quant.blocks import touched
from quant.formats import BFP, Format, LayerFormats
from workloads import ConvLayer

Vector = NDArray[np.int64]


def spans(extent: int, size: int) -> list[Interval]:
    """The ranges of a dimension's tiles."""
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


@dataclass(frozen=True, slots=True, eq=False)
class WindowProfile:
    """Input rows (columns) of the tiles of P (Q), per tile size.

    every, first, rest: lengths summed over all tiles, the first one, all but the first
    fresh: lengths beyond the tile before, over all but the first
    same: lengths of tiles that equal the tile before, over all but the first
    wrapped: length of the first tile if it equals the last one, else 0
    largest: longest tile
    """

    trips: Vector
    every: Vector
    first: Vector
    rest: Vector
    fresh: Vector
    same: Vector
    wrapped: Vector
    largest: Vector

    def of(self, state: str) -> Vector:
        """The lengths over "every" tile, the "first", the "rest", or their "fresh" parts."""
        lengths = {
            "every": self.every,
            "first": self.first,
            "rest": self.rest,
            "fresh": self.fresh,
        }
        return lengths[state]


def window_profile(layer: ConvLayer, dim: str, sizes: Vector) -> WindowProfile:
    """The profile of P or Q over tile sizes."""
    reach = input_rows if dim == "P" else input_cols
    rows = []
    for size in sizes:
        tiles = [reach(layer, span) for span in spans(layer.dims[dim], int(size))]
        lengths = [high - low for low, high in tiles]
        pairs = list(pairwise(tiles))
        rows.append(
            (
                len(tiles),
                sum(lengths),
                lengths[0],
                sum(lengths[1:]),
                sum(max(0, new[1] - max(old[1], new[0])) for old, new in pairs),
                sum(new[1] - new[0] for old, new in pairs if new == old),
                lengths[0] if tiles[0] == tiles[-1] and len(tiles) > 1 else 0,
                max(lengths),
            )
        )
    return WindowProfile(*np.array(rows, np.int64).T)


class FoldSums(NamedTuple):
    """Contributions to an output that leave the array apart: of all tiles of C, of the largest."""

    every: Vector
    largest: Vector


def fold_sums(layer: ConvLayer, array: PEArray, sizes: Vector) -> FoldSums:
    """The contributions by tile size of C."""
    every, largest = [], []
    for size in sizes.tolist():
        full, edge = divmod(layer.C, size)
        one = reduction_folds(array, _sizes(layer, C=size))
        last = reduction_folds(array, _sizes(layer, C=edge)) if edge else 0
        every.append(full * one + last)
        largest.append(max(one, last))
    return FoldSums(np.array(every), np.array(largest))


@dataclass(frozen=True, slots=True, eq=False)
class ArrayProfile:
    """What the PE array does over all tiles, in factors over tile sizes.

    input_bits: one pass over I, (G, C); input_repeats: passes, summed over the tiles of K
    weight_bits: one pass over W, (G, K, C); weight_repeats: passes, over N, P and Q (N, P, Q)
    folds: contributions to an output, by the tiles of C
    cycles: factors of the busy cycles of G, K and C (with R and S); pixel_cycles: (N, P, Q)
    """

    input_bits: Vector
    input_repeats: Vector
    weight_bits: Vector
    weight_repeats: Vector
    folds: FoldSums
    cycles: dict[str, Vector]
    pixel_cycles: Vector


def array_profile(
    layer: ConvLayer, array: PEArray, formats: LayerFormats, sizes: dict[str, Vector]
) -> ArrayProfile:
    """The profile over tile sizes of every dimension."""
    folds = fold_sums(layer, array, sizes["C"])
    in_time = not any("K" in axis.dim for axis in (array.rows, array.cols))
    repeats = axis_sums(layer, array, "K", sizes["K"])
    if in_time and array.stationary == "input":
        repeats = -(-layer.K // sizes["K"])
    return ArrayProfile(
        array_input_bits(layer, array, formats.I, sizes["G"], sizes["C"]),
        repeats,
        array_weight_bits(layer, array, formats.W, sizes["G"], sizes["K"], sizes["C"]),
        _pixel_sums(layer, array, sizes, in_time=array.stationary != "weight"),
        folds,
        {dim: axis_sums(layer, array, dim, sizes[dim]) for dim in "GKC"},
        _pixel_sums(layer, array, sizes, in_time=True),
    )


def axis_sums(layer: ConvLayer, array: PEArray, dim: str, sizes: Vector) -> Vector:
    """Cycles that `dim` contributes over its tiles: folds of its axis, or steps in time.

    With C come R and S, which stay whole.
    """
    own = "CRS" if dim == "C" else dim
    unrolled = array.rows.dim + array.cols.dim
    sums = []
    for size in sizes.tolist():
        total = 0
        for low, high in spans(layer.dims[dim], size):
            extents = _sizes(layer, **{dim: high - low})
            in_space = prod(
                folds(axis.dim, axis.size, extents)
                for axis in (array.rows, array.cols)
                if axis.dim[0] in own
            )
            total += in_space * prod(extents[d] for d in own if d not in unrolled)
        sums.append(total)
    return np.array(sums, np.int64)


def _pixel_sums(
    layer: ConvLayer, array: PEArray, sizes: dict[str, Vector], in_time: bool
) -> Vector:
    """Over the tiles of N, P and Q: folds of their axes, times steps in time if `in_time`."""
    full, edges = {}, {}
    for axis, dim in enumerate("NPQ"):
        shape = [1, 1, 1]
        shape[axis] = -1
        size, extent = sizes[dim].reshape(shape), layer.dims[dim]
        full[dim] = (size, extent // size)
        edges[dim] = (extent % size, (extent % size > 0).astype(np.int64))
    total = np.zeros((1, 1, 1), np.int64)
    for kinds in product((full, edges), repeat=3):
        tile = {dim: kind[dim] for kind, dim in zip(kinds, "NPQ", strict=True)}
        count = prod((tile[dim][1] for dim in "NPQ"), start=np.ones((1, 1, 1), np.int64))
        for unit in (array.rows, array.cols):
            if unit.dim[0] in "NPQ":
                lanes = prod((tile[d][0] for d in unit.dim), start=np.ones((1, 1, 1), np.int64))
                count = count * -(-lanes // unit.size)
        if in_time:
            for dim in "NPQ":
                if dim not in array.rows.dim + array.cols.dim:
                    count = count * tile[dim][0]
        total = total + count
    return total


def array_input_bits(
    layer: ConvLayer, array: PEArray, fmt: Format, groups: Vector, channels: Vector
) -> Vector:
    """Bits that one pass over I reads from the SRAM, over all tiles; table (G sizes, C sizes)."""
    rows, cols = row_taps(layer, (0, layer.P)), col_taps(layer, (0, layer.Q))
    mantissas = layer.G * layer.C * sum(rows) * sum(cols) * fmt.mantissa_bits
    table = np.full((len(groups), len(channels)), mantissas, np.int64)
    for i, g_size in enumerate(groups.tolist()):
        for j, c_size in enumerate(channels.tolist()):
            for g in spans(layer.G, g_size):
                for c in spans(layer.C, c_size):
                    codes = input_codes(layer, _tile(G=g, C=c), array, fmt)
                    reads = sum(
                        code * rows[r] * cols[s]
                        for r, line in enumerate(codes)
                        for s, code in enumerate(line)
                    )
                    table[i, j] += reads * fmt.exponent_bits
    return table * layer.N


def array_weight_bits(
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    groups: Vector,
    filters: Vector,
    channels: Vector,
) -> Vector:
    """Bits that one pass over W reads from the SRAM, over all tiles; table (G, K, C sizes)."""
    mantissas = prod(layer.weight_shape) * fmt.mantissa_bits
    table = np.full((len(groups), len(filters), len(channels)), mantissas, np.int64)
    if layer.C == 1:
        for i, g_size in enumerate(groups.tolist()):
            for j, k_size in enumerate(filters.tolist()):
                table[i, j] += fmt.exponent_bits * sum(
                    weight_codes(layer, _tile(G=g, K=k), array, fmt)
                    for g in spans(layer.G, g_size)
                    for k in spans(layer.K, k_size)
                )
        return table
    for j, c_size in enumerate(channels.tolist()):
        of_one_filter = sum(
            weight_codes(layer, _tile(C=c), array, fmt) for c in spans(layer.C, c_size)
        )
        table[:, :, j] += of_one_filter * layer.G * layer.K * fmt.exponent_bits
    return table


def _sizes(layer: ConvLayer, **given: int) -> dict[str, int]:
    """Extents with 1 for every tiled dimension that is not given."""
    return dict.fromkeys("NGKCPQ", 1) | {"R": layer.R, "S": layer.S} | given


def _tile(
    G: Interval = (0, 1), K: Interval = (0, 1), C: Interval = (0, 1)
) -> Tile:  # the pixels do not matter
    return Tile((0, 1), G, K, C, (0, 1), (0, 1))


STATES = ("every", "first", "rest")


def channel_tables(
    layer: ConvLayer, groups: Vector, channels: Vector, fmt: Format
) -> tuple[dict[tuple[str, str], Vector], Vector]:
    """Bits of one pixel of I over the tiles of G and C.

    Returns tables (G sizes, C sizes) by (which G tiles, which C tiles) of `STATES`, summed over
    those tiles, and the table of the largest tile.
    """
    shape = (len(groups), len(channels))
    tables = {(g, c): np.zeros(shape, np.int64) for g in STATES for c in STATES}
    largest = np.zeros(shape, np.int64)
    for i, g_size in enumerate(groups.tolist()):
        for j, c_size in enumerate(channels.tolist()):
            bits = row_bits(layer.G, layer.C, g_size, c_size, fmt, 1)
            every, first_row, first_column = bits.sum(), bits[0].sum(), bits[:, 0].sum()
            corner, at = bits[0, 0], (i, j)
            tables["every", "every"][at], tables["first", "first"][at] = every, corner
            tables["first", "every"][at], tables["every", "first"][at] = first_row, first_column
            tables["rest", "every"][at] = every - first_row
            tables["every", "rest"][at] = every - first_column
            tables["first", "rest"][at] = first_row - corner
            tables["rest", "first"][at] = first_column - corner
            tables["rest", "rest"][at] = every - first_row - first_column + corner
            largest[at] = bits.max()
    return tables, largest


def weight_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, channels: Vector, fmt: Format
) -> tuple[Vector, Vector]:
    """Bits of W: all tiles together, and the largest tile; tables over (G, K, C) sizes."""
    shape = (len(groups), len(filters), len(channels))
    every, largest = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    taps = layer.R * layer.S
    if layer.C == 1:  # blocks of filters
        for i, g_size in enumerate(groups.tolist()):
            for j, k_size in enumerate(filters.tolist()):
                bits = row_bits(layer.G, layer.K, g_size, k_size, fmt, taps)
                every[i, j], largest[i, j] = bits.sum(), bits.max()
        return every, largest
    for j, c_size in enumerate(channels.tolist()):
        bits = row_bits(1, layer.C, 1, c_size, fmt, taps)
        every[:, :, j] = bits.sum() * layer.G * layer.K
        largest[:, :, j] = bits.max() * groups[:, None] * filters
    return every, largest


def result_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, fmt: Format
) -> tuple[Vector, NDArray[np.bool_]]:
    """Bits of one finished pixel of O in the largest tile, and which tiles end on blocks."""
    shape = (len(groups), len(filters))
    largest, legal = np.zeros(shape, np.int64), np.ones(shape, bool)
    for i, g_size in enumerate(groups.tolist()):
        for j, k_size in enumerate(filters.tolist()):
            largest[i, j] = row_bits(layer.G, layer.K, g_size, k_size, fmt, 1).max()
            legal[i, j] = _ends_on_blocks(layer.G, layer.K, g_size, k_size, fmt)
    return largest, legal


def _ends_on_blocks(groups: int, per_group: int, g_size: int, size: int, fmt: Format) -> bool:
    """Whether no tile boundary inside the axis cuts a block."""
    if not isinstance(fmt, BFP):
        return True
    if size == per_group:
        cuts = np.arange(g_size, groups, g_size) * per_group
    else:
        inner = np.append(np.arange(0, per_group, size), per_group)
        cuts = (np.arange(groups)[:, None] * per_group + inner).ravel()[1:-1]
    return not (cuts % fmt.block_size).any()


@lru_cache(maxsize=8192)
def row_bits(
    groups: int, per_group: int, g_size: int, size: int, fmt: Format, positions: int
) -> Vector:
    """Bits of every tile of an axis of groups x channels, cut codes included.

    The axis is cut into tiles of `g_size` groups by `size` channels of each; a cell of it holds
    `positions` mantissas. Shape (tiles of groups, tiles inside a group); read-only.
    """
    if groups > 1 and size < per_group:  # several intervals to a tile
        tiles = [
            [channel_intervals(g, c, per_group) for c in spans(per_group, size)]
            for g in spans(groups, g_size)
        ]
        cells = np.array([[sum(b - a for a, b in tile) for tile in row] for row in tiles])
        codes = np.zeros_like(cells)
        if isinstance(fmt, BFP):
            codes = np.array([[touched(tile, fmt.block_size) for tile in row] for row in tiles])
    else:
        whole = size == per_group
        step = g_size * per_group if whole else size
        low = np.arange(0, groups * per_group, step)
        high = np.minimum(low + step, groups * per_group)
        shape = (-1, 1) if whole else (1, -1)
        cells = (high - low).reshape(shape)
        codes = np.zeros_like(cells)
        if isinstance(fmt, BFP):
            codes = ((high - 1) // fmt.block_size - low // fmt.block_size + 1).reshape(shape)
    bits: Vector = cells * positions * fmt.mantissa_bits + codes * fmt.exponent_bits
    bits.flags.writeable = False
    return bits
