"""What each tile size of one dimension means for every count, as vectors over tile sizes.

The exact model factors into one sum per dimension (see `mapping.models`). Here those sums are
tabulated for many tile sizes at once, so that a whole grid of mappings is priced by broadcasting.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from bfpsim.arch import PEArray
from bfpsim.mapping.code_reads import input_code_reads, weight_code_reads
from bfpsim.mapping.pe_array import col_taps, folds, reduction_folds, row_taps
from bfpsim.mapping.ragged import Vector
from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.workloads import ConvLayer


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
        full, edge = divmod(layer.dims[dim], size)
        total = 0
        for count, length in ((full, size), (1, edge)):
            if length:
                extents = _sizes(layer, **{dim: length})
                in_space = prod(
                    folds(axis.dim, axis.size, extents)
                    for axis in (array.rows, array.cols)
                    if axis.dim[0] in own
                )
                total += count * in_space * prod(extents[d] for d in own if d not in unrolled)
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
    elements = layer.G * layer.C * sum(rows) * sum(cols)
    if not isinstance(fmt, BFP):
        return np.full((len(groups), len(channels)), layer.N * elements * fmt.mantissa_bits)
    sizes = tuple(groups.tolist()), tuple(channels.tolist())
    codes = input_code_reads(layer, array, fmt.block_size, *sizes)
    bits: Vector = layer.N * (elements * fmt.mantissa_bits + codes * fmt.exponent_bits)
    return bits


def array_weight_bits(
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    groups: Vector,
    filters: Vector,
    channels: Vector,
) -> Vector:
    """Bits that one pass over W reads from the SRAM, over all tiles; table (G, K, C sizes)."""
    shape = (len(groups), len(filters), len(channels))
    elements = prod(layer.weight_shape)
    if not isinstance(fmt, BFP):
        return np.full(shape, elements * fmt.mantissa_bits)
    sizes = tuple(groups.tolist()), tuple(filters.tolist()), tuple(channels.tolist())
    codes = weight_code_reads(layer, array, fmt.block_size, *sizes)
    bits: Vector = elements * fmt.mantissa_bits + codes * fmt.exponent_bits
    return np.broadcast_to(bits, shape)


def _sizes(layer: ConvLayer, **given: int) -> dict[str, int]:
    """Extents with 1 for every tiled dimension that is not given."""
    return dict.fromkeys("NGKCPQ", 1) | {"R": layer.R, "S": layer.S} | given
