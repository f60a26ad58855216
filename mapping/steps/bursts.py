"""Burst padding: what whole bursts move beyond the payload, of many boxes at once.

A box's payload lies in contiguous runs; each has padding before its start and after its end, known
from the place of the two within a burst. Runs that lie inside pixels are summed over pixels. If a
box takes pixels from end to end (their whole, or all but a gap), runs of neighbouring pixels join,
and what remains is the start and the end of each stretch of pixels: a part of a row, whole rows, or
whole images. All sums over boxes are differences of running sums, taken at the columns at which
some box begins or ends. Weights are the same, as one row of filters in place of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.nest import Loop, Nest
from bfpsim.mapping.steps.tiles import (
    Halo,
    Ranges,
    Vector,
    channel_intervals,
    input_tiles,
)
from bfpsim.mapping.window import Interval
from bfpsim.quant.formats import ActivationLayout, Format, PartialSums, WeightLayout

Layout = ActivationLayout | WeightLayout
Intervals = tuple[Interval, ...]
"""What a box takes of each pixel (filter): the channels, as ordered intervals."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelRanges:
    """Ranges of images, rows and columns: an entry per box; some may be empty."""

    n: Ranges
    h: Ranges
    w: Ranges

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns at which some box begins or ends, ascending."""
        return tuple(np.unique(np.concatenate(self.w)).tolist())

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which boxes hold no pixel."""
        (n0, n1), (h0, h1), (w0, w1) = self.n, self.h, self.w
        return np.asarray((n0 >= n1) | (h0 >= h1) | (w0 >= w1))


def padding(
    layout: Layout, parts: Sequence[Intervals], which: Vector, place: PixelRanges, burst: int
) -> Vector:
    """Burst padding of each box [bit].

    parts: what boxes take of each of their pixels; which: the place of a box's own among them
    """
    total = np.zeros(len(which), np.int64)
    if burst == 1:
        return total
    grid, bits, columns = layout.grid, layout.record_bits, place.columns
    corners = _corners(grid, place, columns)
    known: dict[tuple[tuple[int, int], ...], int] = {}  # parts whose runs end alike pad alike
    alike = np.array([known.setdefault(_ends(layout, part, burst), len(known)) for part in parts])
    ends, own_ends = list(known), alike[which]
    order = np.argsort(own_ends, kind="stable") if len(ends) > 1 else np.arange(len(which))
    for own in np.split(order, np.flatnonzero(np.diff(own_ends[order])) + 1):
        sums = _end_sums(grid, bits, burst, ends[own_ends[own[0]]], columns)
        total[own] = _SIGNS @ sums[corners[:, own]]
    joined = np.array([_joined(layout, part) for part in parts])[which]
    if joined.any():
        total += np.where(joined, _edges(grid, bits, burst, columns).of(place), 0)
    return np.where(place.empty, 0, total)


# --- whole nests: each distinct transfer priced once ----------------------------------------------


def input_padding(nest: Nest, fmt: Format, burst: int, halo: Halo) -> int:
    """Padding of all fetches of I [bit].

    K's loop repeats the fetches of its second trip, so two trips are run and the second weighed.
    """
    if burst == 1:
        return 0
    layout = ActivationLayout(nest.layer.input_shape, fmt)
    tiles = input_tiles(_two_of(nest, "K"), halo)
    fetched = tiles.fetched
    place = PixelRanges(fetched.n, fetched.h, fetched.w)
    channels = fetched.channels
    padded = padding(layout, channels.intervals, channels.which, place, burst)
    repeats = max(1, nest.trips["K"] - 1)
    second = tiles.visits.ranges["K"].low > 0
    return int(padded[~second].sum() + repeats * padded[second].sum())


def _two_of(nest: Nest, dim: str) -> Nest:
    """The nest with two trips of a dimension's loop, if it has more."""
    if nest.trips[dim] <= 2:
        return nest
    loops = tuple(Loop(dim, 2, one.tile) if one.dim == dim else one for one in nest.loops)
    extents = nest.extents | {dim: 2 * nest.tile[dim]}
    return replace(nest, extents=extents, trips=nest.trips | {dim: 2}, loops=loops)


def weight_padding(nest: Nest, fmt: Format, burst: int) -> int:
    """Padding of fetching every tile of W once [bit]."""
    if burst == 1:
        return 0
    layer = nest.layer
    layout = WeightLayout(layer.weight_shape, fmt)
    if layout.depthwise:
        return sum(
            layout.runs(channel_intervals(g, k, layer.K), (0, 1)).burst_padding(burst)
            for g in _spans(nest, "G")
            for k in _spans(nest, "K")
        )
    inside, joined = _inside_filters(layout, nest.tile["C"], burst)
    if not joined:
        return inside
    filters = [
        span
        for g in _spans(nest, "G")
        for k in _spans(nest, "K")
        for span in channel_intervals(g, k, layer.K)
    ]
    place = filter_place(np.array(filters, np.int64).T)
    edges = _edges(layout.grid, layout.record_bits, burst, place.columns)
    return inside + joined * int(edges.of(place).sum())


@lru_cache(maxsize=4096)
def _inside_filters(layout: WeightLayout, size: int, burst: int) -> tuple[int, int]:
    """Padding inside every filter of fetching ranges of as many channels [bit]; and how many of
    the ranges join those of the filters beside.
    """
    _, channels, r, s = layout.shape
    low = np.arange(0, channels, size)
    high = np.minimum(low + size, channels)
    if r * s == 1:
        return _single_taps(layout, low, high, burst)
    parts = [(span,) for span in zip(low.tolist(), high.tolist(), strict=True)]
    inside = sum(_records_padding(layout, part, burst) for part in parts)
    return inside, sum(_joined(layout, part) for part in parts)


def filter_place(filters: Vector) -> PixelRanges:
    """Where intervals of filters lie: columns of one row.

    filters: (2, intervals)
    """
    row = np.zeros(filters.shape[1], np.int64)
    return PixelRanges(Ranges(row, row + 1), Ranges(row, row + 1), Ranges(*filters))


def result_padding(nest: Nest, fmt: Format, burst: int) -> int:
    """Padding of writing every tile of O once in its format [bit]."""
    return _output_padding(nest, ActivationLayout(nest.layer.output_shape, fmt), burst)


def sums_padding(nest: Nest, accumulator_bits: int, burst: int) -> int:
    """Padding of moving every tile of O once as partial sums [bit]."""
    sums = PartialSums(accumulator_bits)
    return _output_padding(nest, ActivationLayout(nest.layer.output_shape, sums), burst)


def _output_padding(nest: Nest, layout: ActivationLayout, burst: int) -> int:
    if burst == 1:
        return 0
    tiles = [np.array(_spans(nest, dim)) for dim in "NPQ"]
    numbers = np.unravel_index(np.arange(prod(map(len, tiles))), [len(spans) for spans in tiles])
    ranges = (Ranges(*spans[at].T) for spans, at in zip(tiles, numbers, strict=True))
    place = PixelRanges(*ranges)
    return sum(
        _partition_padding(layout, channel_intervals(g, k, nest.layer.K), place, burst)
        for g in _spans(nest, "G")
        for k in _spans(nest, "K")
    )


def _spans(nest: Nest, dim: str) -> list[Interval]:
    """Every tile's range of a dimension that has one loop at the most."""
    extent, size = nest.extents[dim], nest.tile[dim]
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


def _partition_padding(layout: Layout, part: Intervals, place: PixelRanges, burst: int) -> int:
    """Burst padding of boxes that together hold every pixel once [bit]; none is empty."""
    total = _records_padding(layout, part, burst)
    if _joined(layout, part):
        edges = _edges(layout.grid, layout.record_bits, burst, place.columns)
        total += int(edges.of(place).sum())
    return total


def _records_padding(layout: Layout, part: Intervals, burst: int) -> int:
    """Padding inside all pixels (filters) [bit]."""
    inside = record_padding(layout, part, burst)
    rounds, left = divmod(prod(layout.grid), len(inside))
    return rounds * int(inside.sum()) + int(inside[:left].sum())


def _single_taps(layout: WeightLayout, low: Vector, high: Vector, burst: int) -> tuple[int, int]:
    """The same of many ranges of channels of 1 x 1 filters at once.

    A range is one run, and a code before it if it cuts a block.
    """
    row, bits = layout.row, layout.record_bits
    cuts = low % row.block != 0
    code = row.code_address(low // row.block)
    start, end = np.where(cuts, row.cell_address(low), code), row.cell_address(high - 1) + row.width
    joined = ((code if row.code else start) == 0) & (end == bits)
    period = burst // gcd(bits, burst)
    records = prod(layout.grid)
    times = records // period + (np.arange(period) < records % period)
    at = np.arange(period)[:, None] * bits
    inside = np.where(joined & ~cuts, 0, (at + start) % burst)
    inside += np.where(joined, 0, -(at + end) % burst)
    if row.code:
        before = np.where(joined, 0, (at + code) % burst)
        inside += np.where(cuts, before + -(at + code + row.code) % burst, 0)
    return int((inside.sum(axis=1) * times).sum()), int(joined.sum())


# --- running sums -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Padding before a stretch of pixels that starts, and after one that ends, at a pixel.

    columns: those that are tabulated; width: of a row
    columns_before, columns_after: running sums over images and rows, for stretches inside a row,
        (n, h, columns)
    rows: running sums over images, for stretches of whole rows, (n, h); images: of whole images
    """

    columns: Vector
    width: int
    columns_before: Vector
    columns_after: Vector
    rows_before: Vector
    rows_after: Vector
    images_before: Vector
    images_after: Vector

    def of(self, place: PixelRanges) -> Vector:
        """Padding around every stretch of each box."""
        (n0, n1), (h0, h1), (w0, w1) = place.n, place.h, place.w
        height = self.columns_before.shape[1] - 1
        inside_rows = np.zeros(len(n0), np.int64)
        for sums, edge in ((self.columns_before, w0), (self.columns_after, w1)):
            w = np.searchsorted(self.columns, edge)
            inside_rows += sums[n1, h1, w] - sums[n1, h0, w] - sums[n0, h1, w] + sums[n0, h0, w]
        of_rows = self.rows_before[n1, h0] - self.rows_before[n0, h0]
        of_rows += self.rows_after[n1, h1] - self.rows_after[n0, h1]
        of_images = self.images_before[n0] + self.images_after[n1]
        whole_rows = (w0 == 0) & (w1 == self.width)
        whole_images = whole_rows & (h0 == 0) & (h1 == height)
        return np.where(whole_images, of_images, np.where(whole_rows, of_rows, inside_rows))


@lru_cache(maxsize=4096)
def _joined(layout: Layout, part: Intervals) -> bool:
    """Whether a pixel's runs reach from its start to its end, so that neighbours' runs join."""
    runs = layout.record_runs(part)
    return bool(runs.starts[0] == 0 and runs.ends[-1] == layout.record_bits)


@lru_cache(maxsize=4096)
def _ends(layout: Layout, part: Intervals, burst: int) -> tuple[tuple[int, int], ...]:
    """Where runs start (sign 1) and end (sign -1) inside a pixel: places within a burst.

    Padding before a start at bit x is x % burst, after an end -x % burst.
    """
    runs = layout.record_runs(part)
    starts, ends = (runs.starts[1:], runs.ends[:-1]) if _joined(layout, part) else runs
    return tuple(
        sorted((place, sign) for edge, sign in ((starts, 1), (ends, -1))
               for place in (edge % burst).tolist())
    )  # fmt: skip


def record_padding(layout: Layout, part: Intervals, burst: int) -> Vector:
    """Padding inside each of the first pixels (filters), until their places in a burst repeat."""
    bits = layout.record_bits
    first = np.arange(burst // gcd(bits, burst)) * bits
    return _padded(first, _ends(layout, part, burst), burst)


def _padded(first: Vector, ends: tuple[tuple[int, int], ...], burst: int) -> Vector:
    """Padding at some ends of runs in each pixel, given where the pixel begins."""
    if not ends:
        return np.zeros_like(first)
    place, sign = np.array(ends).T[:, :, None]
    return np.asarray((sign * (first + place) % burst).sum(axis=0))


@lru_cache(maxsize=512)
def _end_sums(
    grid: tuple[int, int, int],
    bits: int,
    burst: int,
    ends: tuple[tuple[int, int], ...],
    columns: tuple[int, ...],
) -> Vector:
    """Running sums, over images and rows, of the padding at ends of runs before each column.

    Flat, of (images, rows, columns). Pixels repeat their place in a burst after a period.
    """
    number, height, width = grid
    period = burst // gcd(bits, burst)
    one = _running(_padded(np.arange(period) * bits, ends, burst), 0)
    pixel = np.arange(number * height)[:, None] * width + np.array(columns)
    before = pixel // period * one[-1] + one[pixel % period]
    sums = before.reshape(number, height, len(columns))
    return _running(_running(sums, 0), 1).reshape(-1)


@lru_cache(maxsize=64)
def _edges(grid: tuple[int, int, int], bits: int, burst: int, columns: tuple[int, ...]) -> _Edges:
    number, height, width = grid

    def before(pixel: Vector) -> Vector:
        return pixel * bits % burst

    def after(pixel: Vector) -> Vector:
        return -pixel * bits % burst

    row = np.arange(number)[:, None] * height + np.arange(height + 1)
    column = row[:, :-1, None] * width + np.array(columns)
    image = np.arange(number + 1) * height * width
    return _Edges(
        np.array(columns),
        width,
        _running(_running(before(column), 0), 1),
        _running(_running(after(column), 0), 1),
        _running(before(row * width), 0),
        _running(after(row * width), 0),
        before(image),
        after(image),
    )


def _running(values: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Sums of the first 0, 1, 2, ... along an axis."""
    shape = list(values.shape)
    shape[axis] = 1
    return np.concatenate([np.zeros(shape, np.int64), np.cumsum(values, axis=axis)], axis=axis)


_SIGNS = np.array([-1, 1, 1, -1, 1, -1, -1, 1])
"""Of a box's corners, by inclusion and exclusion."""


def _corners(grid: tuple[int, int, int], place: PixelRanges, columns: tuple[int, ...]) -> Vector:
    """Where the eight corners of each box stand in flat running sums: (corners, boxes)."""
    _, height, _ = grid
    n, h = np.stack(place.n), np.stack(place.h)
    w = np.searchsorted(np.array(columns), np.stack(place.w))
    rows = n[:, None] * (height + 1) + h[None, :]
    corners = rows[:, :, None] * len(columns) + w[None, None, :]
    return np.asarray(corners.reshape(8, -1))
