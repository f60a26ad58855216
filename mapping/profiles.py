"""What each tile size of one dimension means for every count, as vectors over tile sizes.

The exact model factors into one sum per dimension (see `mapping.models`). Here those sums are
tabulated for many tile sizes at once, so that a whole grid of mappings is priced by broadcasting.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mapping.boxes import Interval, channel_intervals, input_cols, input_rows
from quant.blocks import touched
from quant.formats import BFP, Format
from workloads import ConvLayer

Vector = NDArray[np.int64]


def spans(extent: int, size: int) -> list[Interval]:
    """The ranges of a dimension's tiles."""
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


@dataclass(frozen=True, slots=True, eq=False)
class WindowProfile:
    """Input rows (columns) of the tiles of P (Q), per candidate tile size.

    every, first, rest: lengths summed over all tiles, the first one, all but the first
    fresh: lengths beyond the tile before, over all but the first
    same: lengths of tiles that equal the tile before, over all but the first
    wrapped: length of the first tile if it equals the last one, else 0
    largest: longest tile
    """

    sizes: Vector
    trips: Vector
    every: Vector
    first: Vector
    rest: Vector
    fresh: Vector
    same: Vector
    wrapped: Vector
    largest: Vector


def window_profile(layer: ConvLayer, dim: str) -> WindowProfile:
    """The profile of P or Q over every tile size that no other size with as many tiles beats.

    A size is beaten if another costs no more in any count and takes no more room; the search over
    the remaining sizes loses nothing.
    """
    reach = input_rows if dim == "P" else input_cols
    rows = []
    for size in range(1, layer.dims[dim] + 1):
        tiles = [reach(layer, span) for span in spans(layer.dims[dim], size)]
        lengths = [high - low for low, high in tiles]
        pairs = list(pairwise(tiles))
        rows.append(
            (
                size,
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
    table = np.array(rows, np.int64)
    worse_if_larger = table[:, [0, 2, 3, 4, 5, 8]]
    metrics = np.concatenate([worse_if_larger, -table[:, [6, 7]]], axis=1)
    return WindowProfile(*table[undominated(table[:, 1], metrics)].T)


def undominated(trips: Vector, metrics: Vector) -> NDArray[np.bool_]:
    """Rows that no row with equal trips beats or ties in every metric; of ties, the first."""
    keep = np.ones(len(trips), bool)
    for count in np.unique(trips):
        rows = np.flatnonzero(trips == count)
        for position, row in enumerate(rows):
            others = metrics[rows]
            no_worse = (others <= metrics[row]).all(axis=1)
            better = (others < metrics[row]).any(axis=1)
            earlier = np.arange(len(rows)) < position
            keep[row] = not (no_worse & (better | earlier)).any()
    return keep


def simple_sizes(extent: int) -> Vector:
    """The smallest size of every trip count."""
    trips = {-(-extent // size): size for size in range(extent, 0, -1)}
    return np.array(sorted(trips.values()), np.int64)


def channel_sizes(extent: int, blocks: tuple[int, ...], per_step: int = 1) -> Vector:
    """Tile sizes of a channel dimension: per trip count the smallest, and the smallest that ends
    on block boundaries of each of `blocks` (of channels, `per_step` for each unit of the size).
    """
    sizes = set(simple_sizes(extent).tolist())
    for block in blocks:
        step = block // np.gcd(block, per_step)
        by_trips: dict[int, int] = {}
        for size in range(step, extent, step):
            by_trips.setdefault(-(-extent // size), size)
        sizes |= set(by_trips.values())
    return np.array(sorted(sizes), np.int64)


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
    for i, g_size in enumerate(groups):
        for j, c_size in enumerate(channels):
            bits = np.array(
                [
                    [
                        row_bits(channel_intervals(g, c, layer.C), fmt, 1)
                        for c in spans(layer.C, int(c_size))
                    ]
                    for g in spans(layer.G, int(g_size))
                ]
            )
            slices = {"every": slice(None), "first": slice(1), "rest": slice(1, None)}
            for (g_state, c_state), table in tables.items():
                table[i, j] = bits[slices[g_state], slices[c_state]].sum()
            largest[i, j] = bits.max()
    return tables, largest


def weight_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, channels: Vector, fmt: Format
) -> tuple[Vector, Vector]:
    """Bits of W: all tiles together, and the largest tile; tables over (G, K, C) sizes."""
    shape = (len(groups), len(filters), len(channels))
    every, largest = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    taps = layer.R * layer.S
    if layer.C == 1:
        for i, g_size in enumerate(groups):
            for j, k_size in enumerate(filters):
                bits = [
                    row_bits(channel_intervals(g, k, layer.K), fmt, taps)
                    for g in spans(layer.G, int(g_size))
                    for k in spans(layer.K, int(k_size))
                ]
                every[i, j], largest[i, j] = sum(bits), max(bits)
        return every, largest
    for j, c_size in enumerate(channels):
        bits = [row_bits([c], fmt, taps) for c in spans(layer.C, int(c_size))]
        every[:, :, j] = sum(bits) * layer.G * layer.K
        largest[:, :, j] = max(bits) * groups[:, None] * filters
    return every, largest


def result_tables(
    layer: ConvLayer, groups: Vector, filters: Vector, fmt: Format
) -> tuple[Vector, NDArray[np.bool_]]:
    """Bits of one finished pixel of O in the largest tile, and which tiles end on blocks."""
    shape = (len(groups), len(filters))
    largest, legal = np.zeros(shape, np.int64), np.ones(shape, bool)
    channels = layer.G * layer.K
    for i, g_size in enumerate(groups):
        for j, k_size in enumerate(filters):
            tiles = [
                channel_intervals(g, k, layer.K)
                for g in spans(layer.G, int(g_size))
                for k in spans(layer.K, int(k_size))
            ]
            largest[i, j] = max(row_bits(tile, fmt, 1) for tile in tiles)
            if isinstance(fmt, BFP):
                legal[i, j] = all(
                    low % fmt.block_size == 0 and (high % fmt.block_size == 0 or high == channels)
                    for tile in tiles
                    for low, high in tile
                )
    return largest, legal


def row_bits(intervals: list[Interval] | tuple[Interval, ...], fmt: Format, positions: int) -> int:
    """Bits of cells of `positions` mantissas in blocks along an axis, cut codes included."""
    cells = sum(high - low for low, high in intervals)
    codes = touched(intervals, fmt.block_size) if isinstance(fmt, BFP) else 0
    return cells * positions * fmt.mantissa_bits + codes * fmt.exponent_bits
