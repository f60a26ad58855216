"""Bits of tiles of a channel axis, tabulated for many tile sizes at once.

An axis is groups x channels per group, in blocks that ignore the groups. A tile takes some groups,
and of each the same range of channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.ragged import Tiles, Vector
from bfpsim.quant.formats import BFP, Format
from bfpsim.workloads import ConvLayer

STATES = ("every", "first", "rest")


class AxisBits(NamedTuple):
    """Tables (group sizes, channel sizes) of bits over the tiles of an axis.

    every: all tiles; first_groups: those of the first groups; first_channels: those of the first
    channels; corner: the first tile; largest: the largest one
    """

    every: Vector
    first_groups: Vector
    first_channels: Vector
    corner: Vector
    largest: Vector


def axis_bits(
    groups: int, per_group: int, g_sizes: Vector, sizes: Vector, fmt: Format, positions: int
) -> AxisBits:
    """Bits of the tiles of `g_sizes` groups by `sizes` channels of each, cut codes included.

    A cell of the axis holds `positions` mantissas.
    """
    spans = Tiles.of(groups, g_sizes)
    tables = [np.zeros((len(g_sizes), len(sizes)), np.int64) for _ in AxisBits._fields]
    for column, size in enumerate(sizes.tolist()):
        low = np.arange(0, per_group, size)
        high = np.minimum(low + size, per_group)
        bits = (spans.high - spans.low)[:, None] * (high - low) * positions * fmt.mantissa_bits
        if isinstance(fmt, BFP):
            codes = _codes(groups, per_group, spans, low, high, fmt.block_size)
            bits = bits + codes * fmt.exponent_bits
        of_tile = bits.sum(axis=1)
        for table, values in zip(
            tables,
            (
                spans.sum(of_tile),
                of_tile[spans.starts],
                spans.sum(bits[:, 0]),
                bits[spans.starts, 0],
                spans.max(bits.max(axis=1)),
            ),
            strict=True,
        ):
            table[:, column] = values
    return AxisBits(*tables)


def _codes(
    groups: int, per_group: int, spans: Tiles, low: Vector, high: Vector, block: int
) -> Vector:
    """Blocks that each tile touches: (tiles of groups, tiles of channels).

    A block that a tile's piece of one group shares with its piece of the next counts once.
    """
    base = np.arange(groups)[:, None] * per_group
    first, last = (base + low) // block, (base + high - 1) // block
    if groups == 1:
        return last - first + 1
    touched = _running(last - first + 1)
    shared = _running((first[1:] == last[:-1]).astype(np.int64))
    codes: Vector = touched[spans.high] - touched[spans.low]
    codes -= shared[spans.high - 1] - shared[spans.low]
    return codes


def _running(values: Vector) -> Vector:
    """Sums of the first 0, 1, 2, ... rows."""
    return np.concatenate([np.zeros((1, values.shape[1]), np.int64), np.cumsum(values, axis=0)])


def channel_tables(
    layer: ConvLayer, groups: Vector, channels: Vector, fmt: Format
) -> tuple[dict[tuple[str, str], Vector], Vector]:
    """Bits of one pixel of I over the tiles of G and C.

    Returns tables (G sizes, C sizes) by (which G tiles, which C tiles) of `STATES`, summed over
    those tiles, and the table of the largest tile.
    """
    bits = axis_bits(layer.G, layer.C, groups, channels, fmt, 1)
    every, row, column, corner, largest = bits
    tables = {
        ("every", "every"): every,
        ("first", "every"): row,
        ("every", "first"): column,
        ("first", "first"): corner,
        ("rest", "every"): every - row,
        ("every", "rest"): every - column,
        ("first", "rest"): row - corner,
        ("rest", "first"): column - corner,
        ("rest", "rest"): every - row - column + corner,
    }
    return tables, largest


def weight_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, channels: Vector, fmt: Format
) -> tuple[Vector, Vector]:
    """Bits of W: all tiles together, and the largest tile; tables over (G, K, C) sizes."""
    taps = layer.R * layer.S
    if layer.C == 1:  # blocks of filters
        bits = axis_bits(layer.G, layer.K, groups, filters, fmt, taps)
        return bits.every[:, :, None], bits.largest[:, :, None]
    one = np.ones(1, np.int64)
    of_filter = axis_bits(1, layer.C, one, channels, fmt, taps)
    every = of_filter.every[None] * layer.G * layer.K
    largest = of_filter.largest[None] * (groups[:, None] * filters)[:, :, None]
    return np.broadcast_to(every, largest.shape), largest


def result_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, fmt: Format
) -> tuple[Vector, NDArray[np.bool_]]:
    """Bits of one finished pixel of O in the largest tile, and which tiles end on blocks."""
    largest = axis_bits(layer.G, layer.K, groups, filters, fmt, 1).largest
    if not isinstance(fmt, BFP):
        return largest, np.ones(largest.shape, bool)
    block = fmt.block_size
    # Cuts between groups, and, if a tile takes a part of each group, inside and around every group.
    between = (groups >= layer.G) | (groups * layer.K % block == 0)
    inside = (filters % block == 0) & (layer.G == 1 or layer.K % block == 0)
    whole = filters == layer.K
    return largest, np.where(whole[None, :], between[:, None], inside[None, :])
