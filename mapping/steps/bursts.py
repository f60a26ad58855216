"""Burst padding: what whole bursts move beyond the payload, of many boxes at once.

A box's payload lies in contiguous runs; each has padding before its start and after its end, known
from the place of the two within a burst. Runs that lie inside pixels are summed over pixels. If a
box takes pixels from end to end (their whole, or all but a gap), runs of neighbouring pixels join,
and what remains is the start and the end of each stretch of pixels: a part of a row, whole rows, or
whole images. All sums over boxes are differences of running sums over rows. Pixels lie alike in
their bursts again after a while, and so do columns and rows: sums are kept of one turn of each.
Weights are the same, as one row of filters in place of pixels.
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
    grid, bits = layout.grid, layout.record_bits
    corners = _Corners.of(grid, _period(bits, burst), place)
    known: dict[tuple[tuple[int, int], ...], int] = {}  # parts whose runs end alike pad alike
    alike = np.array([known.setdefault(_ends(layout, part, burst), len(known)) for part in parts])
    ends, own_ends = list(known), alike[which]
    order = np.argsort(own_ends, kind="stable") if len(ends) > 1 else np.arange(len(which))
    for own in np.split(order, np.flatnonzero(np.diff(own_ends[order])) + 1):
        total[own] = _at_ends(grid, bits, burst, ends[own_ends[own[0]]], corners.at(own))
    joined = np.array([_joined(layout, part) for part in parts])[which]
    if joined.any():
        total += np.where(joined, _around(grid, bits, burst, place, corners), 0)
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
    around = _around(layout.grid, layout.record_bits, burst, place)
    return inside + joined * int(around.sum())


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
        total += int(_around(layout.grid, layout.record_bits, burst, place).sum())
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
    period = _period(bits, burst)
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
class _Corners:
    """Where boxes begin and end among sums that repeat.

    classes: places, in a turn of columns, of those at which some box begins or ends
    turn: rows until they repeat
    pixels: of each box
    n, h: images and rows, a low and a high for each box; w: the class of its columns
    """

    classes: tuple[int, ...]
    turn: int
    pixels: Vector
    n: Ranges
    h: Ranges
    w: Ranges

    @classmethod
    def of(cls, grid: tuple[int, int, int], period: int, place: PixelRanges) -> _Corners:
        """The corners of boxes of pixels that lie alike in a burst after a period."""
        low, high = (edge % period for edge in place.w)
        classes = np.unique(np.concatenate([low, high]))
        w = Ranges(np.searchsorted(classes, low), np.searchsorted(classes, high))
        turn = period // gcd(grid[2], period)
        pixels = place.n.lengths * place.h.lengths * place.w.lengths
        return cls(tuple(classes.tolist()), turn, pixels, place.n, place.h, w)

    def at(self, boxes: Vector) -> _Corners:
        """Of some of the boxes."""
        n, h, w = (Ranges(own.low[boxes], own.high[boxes]) for own in (self.n, self.h, self.w))
        return replace(self, pixels=self.pixels[boxes], n=n, h=h, w=w)


@dataclass(frozen=True, slots=True, eq=False)
class _RowSums:
    """Running sums over images and rows of a value that repeats, at some classes of columns.

    inside: (images, rows of a turn, classes); turn: of a whole turn of rows, by class
    """

    inside: Vector
    turn: Vector

    @classmethod
    def of(cls, grid: tuple[int, int, int], values: Vector, classes: Sequence[int]) -> _RowSums:
        """values: by the place of a pixel in a turn."""
        number, height, width = grid
        period = len(values)
        rows = min(height, period // gcd(width, period))
        row = np.arange(number)[:, None] * height + np.arange(rows)
        each = values[(row[:, :, None] * width + np.array(classes)) % period]
        running = _running(each, 1)
        return cls(_running(running, 0), running[0, rows])

    def over(self, corners: _Corners, w: Vector) -> Vector:
        """The sum over each box's rows at a class of columns."""
        (n0, n1), (h0, h1) = corners.n, corners.h
        turns = (h1 // corners.turn - h0 // corners.turn) * (n1 - n0)
        r0, r1 = h0 % corners.turn, h1 % corners.turn
        own = self.inside
        rest: Vector = own[n1, r1, w] - own[n1, r0, w] - own[n0, r1, w] + own[n0, r0, w]
        return turns * self.turn[w] + rest


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Padding before a stretch of pixels that starts, and after one that ends, at a pixel.

    before, after: for stretches inside a row
    rows: running sums over images, for stretches of whole rows, (n, h); images: of whole images
    """

    before: _RowSums
    after: _RowSums
    rows_before: Vector
    rows_after: Vector
    images_before: Vector
    images_after: Vector


def _around(
    grid: tuple[int, int, int],
    bits: int,
    burst: int,
    place: PixelRanges,
    corners: _Corners | None = None,
) -> Vector:
    """Padding around every stretch of each box's pixels."""
    if corners is None:
        corners = _Corners.of(grid, _period(bits, burst), place)
    edges = _edges(grid, bits, burst, corners.classes)
    (n0, n1), (h0, h1), (w0, w1) = place.n, place.h, place.w
    _, height, width = grid
    inside_rows = edges.before.over(corners, corners.w.low)
    inside_rows += edges.after.over(corners, corners.w.high)
    of_rows = edges.rows_before[n1, h0] - edges.rows_before[n0, h0]
    of_rows += edges.rows_after[n1, h1] - edges.rows_after[n0, h1]
    of_images = edges.images_before[n0] + edges.images_after[n1]
    whole_rows = (w0 == 0) & (w1 == width)
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
    first = np.arange(_period(bits, burst)) * bits
    return _padded(first, _ends(layout, part, burst), burst)


def _padded(first: Vector, ends: tuple[tuple[int, int], ...], burst: int) -> Vector:
    """Padding at some ends of runs in each pixel, given where the pixel begins."""
    if not ends:
        return np.zeros_like(first)
    place, sign = np.array(ends).T[:, :, None]
    return np.asarray((sign * (first + place) % burst).sum(axis=0))


def _at_ends(
    grid: tuple[int, int, int],
    bits: int,
    burst: int,
    ends: tuple[tuple[int, int], ...],
    corners: _Corners,
) -> Vector:
    """Padding at ends of runs inside the pixels of each box."""
    period, turn, sums = _end_sums(grid, bits, burst, ends, corners.classes)
    rest = sums.over(corners, corners.w.high) - sums.over(corners, corners.w.low)
    padded: Vector = (turn * corners.pixels + rest) // period  # without a remainder
    return padded


@lru_cache(maxsize=512)
def _end_sums(
    grid: tuple[int, int, int],
    bits: int,
    burst: int,
    ends: tuple[tuple[int, int], ...],
    classes: tuple[int, ...],
) -> tuple[int, int, _RowSums]:
    """Pixels until their places in a burst repeat, what lies in as many at ends of runs, and what
    lies before a pixel beyond its share of that, by rows; both times the first.
    """
    period = _period(bits, burst)
    before = _running(_padded(np.arange(period) * bits, ends, burst), 0)
    turn = int(before[-1])
    beyond = period * before[:-1] - turn * np.arange(period)
    return period, turn, _RowSums.of(grid, beyond, classes)


@lru_cache(maxsize=64)
def _edges(grid: tuple[int, int, int], bits: int, burst: int, classes: tuple[int, ...]) -> _Edges:
    number, height, width = grid

    def before(pixel: Vector) -> Vector:
        return pixel * bits % burst

    def after(pixel: Vector) -> Vector:
        return -pixel * bits % burst

    place = np.arange(_period(bits, burst))
    row = (np.arange(number)[:, None] * height + np.arange(height + 1)) * width
    image = np.arange(number + 1) * height * width
    return _Edges(
        _RowSums.of(grid, before(place), classes),
        _RowSums.of(grid, after(place), classes),
        _running(before(row), 0),
        _running(after(row), 0),
        before(image),
        after(image),
    )


def _period(bits: int, burst: int) -> int:
    """Pixels of so many bits until their places in a burst repeat."""
    return burst // gcd(bits, burst)


def _running(values: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Sums of the first 0, 1, 2, ... along an axis."""
    shape = list(values.shape)
    shape[axis] = 1
    return np.concatenate([np.zeros(shape, np.int64), np.cumsum(values, axis=axis)], axis=axis)
