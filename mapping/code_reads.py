"""Exponent codes that the PE array reads in one pass over a tensor, for many tile sizes at once.

The sums of `mapping.pe_array` over all tiles. A read is a distinct (tile, fold, block), so that all
tiles of a size are counted together, by sorting a number for each element.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Axis, PEArray
from bfpsim.mapping.pe_array import col_taps, row_taps
from bfpsim.mapping.ragged import Vector
from bfpsim.workloads import ConvLayer

_TABLES = 32
"""Tables that are remembered: those of a layer's candidates in every block size."""

Place = dict[str, Vector]


@lru_cache(_TABLES)
def input_code_reads(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    groups: tuple[int, ...],
    channels: tuple[int, ...],
) -> Vector:
    """Codes of I read for one sample: a table (sizes of G, sizes of C)."""
    taps = np.outer(row_taps(layer, (0, layer.P)), col_taps(layer, (0, layer.Q))).reshape(-1)
    at = _places(G=layer.G, C=layer.C, R=layer.R, S=layer.S)
    block = (at["G"] * layer.C + at["C"]) // block_size
    table = np.zeros((len(groups), len(channels)), np.int64)
    for i, g in enumerate(groups):
        for j, c in enumerate(channels):
            reads = _reads(array, at, {"G": g, "C": c}, block)
            # By tap: each element is read once per output that it meets there.
            table[i, j] = taps @ _distinct(reads.reshape(-1, len(taps)))
    return table


@lru_cache(_TABLES)
def weight_code_reads(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    groups: tuple[int, ...],
    filters: tuple[int, ...],
    channels: tuple[int, ...],
) -> Vector:
    """Codes of W read: a table that broadcasts to (sizes of G, sizes of K, sizes of C)."""
    if layer.C == 1:  # blocks of filters
        at = _places(G=layer.G, K=layer.K, C=1, R=layer.R, S=layer.S)
        block = (at["G"] * layer.K + at["K"]) // block_size
        table = np.zeros((len(groups), len(filters), 1), np.int64)
        for i, g in enumerate(groups):
            for j, k in enumerate(filters):
                reads = _reads(array, at, {"G": g, "K": k}, block)
                table[i, j] = _distinct(reads.reshape(-1, 1))
        return table
    at = _places(C=layer.C, R=layer.R, S=layer.S)
    block = at["C"] // block_size
    of_one_filter = [
        _distinct(_reads(array, at, {"C": c}, block).reshape(-1, 1))[0] for c in channels
    ]
    return np.array(of_one_filter)[None, None] * layer.G * layer.K


def _places(**extents: int) -> Place:
    """The index of every element, by dimension, on an axis for each."""
    return dict(zip(extents, np.indices(tuple(extents.values()), sparse=True), strict=True))


def _reads(array: PEArray, at: Place, tile: dict[str, int], block: Vector) -> Vector:
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
            folds = -(-prod(extents[dim] for dim in axis.dim) // axis.size)
            number = number * folds + _fold(axis, inside, size)
    number = number * (int(block.max()) + 1) + block
    return np.broadcast_to(number, tuple(extents.values()))


def _fold(axis: Axis, inside: Place, size: Place) -> Vector:
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
