"""What the PE array computes: exact sums of products, or binary32 accumulation."""

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.steps.array import Tile
from bfpsim.quant.formats.exact import ExactArray, from_float, matmul
from bfpsim.workloads import ConvLayer


class Operands(NamedTuple):
    """What a tile of the array multiplies.

    inputs: (n, rows, columns, channels), the stored rows and columns only; weights: (filters, c,
    r, s); both exact. first_row, first_col: where the stored rows and columns begin.
    input_block, weight_block: channels that share an exponent, 0 if none do.
    """

    inputs: ExactArray
    weights: ExactArray
    first_row: int
    first_col: int
    input_block: int
    weight_block: int


def convolve(layer: ConvLayer, tile: Tile, operands: Operands) -> ExactArray:
    """The tile's exact sums, shape (n, p, q, channels of O)."""
    columns, filters = _matrices(layer, tile, operands)
    groups, pixels, *taps = columns.shape
    depth = prod(taps)
    product = matmul(
        operands.inputs.with_digits(columns.reshape(groups, pixels, depth)),
        operands.weights.with_digits(filters.reshape(groups, depth, -1)),
    )
    return product.with_digits(_as_output(product.digits, tile))


def accumulate_fp32(
    layer: ConvLayer, tile: Tile, operands: Operands, before: ExactArray | None
) -> ExactArray:
    """Sums in binary32: `before` plus this tile's contributions, one rounded addition each.

    A contribution is the exact dot product over channels that share their exponents, rounded to
    binary32; contributions come in the order R, S, channel. Factors are not multiplied in.
    """
    columns, filters = _matrices(layer, tile, operands)
    groups, pixels, rows, cols, _ = columns.shape
    per_group = filters.shape[-1]
    if before is None:
        sums = np.zeros((groups, pixels, per_group), np.float32)
    else:
        sums = ExactArray(before.digits, before.exponent).to_float().astype(np.float32)
        sums = _from_output(sums, tile)
    for g in range(groups):
        cuts = _exponent_cuts(layer, tile, tile.G[0] + g, operands)
        for r in range(rows):
            for s in range(cols):
                for low, high in pairwise(cuts):
                    dot = matmul(
                        ExactArray(columns[g, :, r, s, low:high], operands.inputs.exponent),
                        ExactArray(filters[g, r, s, low:high], operands.weights.exponent),
                    )
                    sums[g] += dot.to_float().astype(np.float32)
    result = from_float(_as_output(sums, tile).astype(np.float64))
    factor = operands.inputs.factor * operands.weights.factor
    return ExactArray(result.digits, result.exponent, factor)


def _exponent_cuts(layer: ConvLayer, tile: Tile, group: int, operands: Operands) -> list[int]:
    """Where, in the tile's channels of a group, an exponent of I or W changes."""
    low, high = tile.C
    cuts = {low, high}
    if operands.input_block:
        first = group * layer.C
        cuts |= {c for c in range(low, high) if (first + c) % operands.input_block == 0}
    if operands.weight_block:
        cuts |= {c for c in range(low, high) if c % operands.weight_block == 0}
    return sorted(c - low for c in cuts)


def _matrices(
    layer: ConvLayer, tile: Tile, operands: Operands
) -> tuple[NDArray[Any], NDArray[Any]]:
    """im2col: (groups, pixels, r, s, c) of I with zeros for padding, (groups, r, s, c, k) of W."""
    _, groups, _, c, p, q, taps_r, taps_s = (high - low for low, high in tile)
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    digits = operands.inputs.digits
    n, rows, cols, _ = digits.shape
    height, width = (p - 1) * sr + (taps_r - 1) * dr + 1, (q - 1) * sc + (taps_s - 1) * dc + 1
    top = operands.first_row - (tile.P[0] * sr + tile.R[0] * dr - layer.paddings[0])
    left = operands.first_col - (tile.Q[0] * sc + tile.S[0] * dc - layer.paddings[2])
    padded = np.zeros((n, height, width, groups, c), digits.dtype)
    if rows and cols:
        padded[:, top : top + rows, left : left + cols] = digits.reshape(n, rows, cols, groups, c)
    by_group = np.moveaxis(padded, 3, 0)
    columns = np.empty((groups, n * p * q, taps_r, taps_s, c), digits.dtype)
    for r in range(taps_r):
        rows_read = by_group[:, :, r * dr : r * dr + (p - 1) * sr + 1 : sr]
        for s in range(taps_s):
            taps = rows_read[:, :, :, s * dc : s * dc + (q - 1) * sc + 1 : sc]
            columns[:, :, r, s] = taps.reshape(groups, n * p * q, c)
    filters = operands.weights.digits.reshape(groups, -1, c, taps_r, taps_s)
    return columns, filters.transpose(0, 3, 4, 2, 1)


def _as_output(sums: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """(groups, pixels, K) to (n, p, q, channels)."""
    n, p, q = (high - low for low, high in (tile.N, tile.P, tile.Q))
    return np.moveaxis(sums, 0, 1).reshape(n, p, q, -1)


def _from_output(sums: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """(n, p, q, channels) to (groups, pixels, K)."""
    groups = tile.G[1] - tile.G[0]
    n, p, q, channels = sums.shape
    return np.ascontiguousarray(
        np.moveaxis(sums.reshape(n * p * q, groups, channels // groups), 1, 0)
    )
