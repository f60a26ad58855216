"""Burst padding of many boxes of a packed tensor at once.

A box's payload lies in contiguous runs; each has padding before its start and after its end, known
from the place of the two within a burst. Runs that lie inside pixels are summed over pixels. If a
box takes pixels from end to end (their whole, or all but a gap), runs of neighbouring pixels join,
and what remains is the start and the end of each stretch of pixels: a part of a row, whole rows, or
whole images. All sums over boxes are differences of running sums. Weights are the same, as one row
of filters in place of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.boxes import Interval
from bfpsim.mapping.ragged import Vector
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout

Layout = ActivationLayout | WeightLayout
Part = tuple[Interval, ...]
"""What a box takes of each pixel (filter): intervals of its channels."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Ranges of images, rows and columns: half-open, an entry per box; some may be empty."""

    n: tuple[Vector, Vector]
    h: tuple[Vector, Vector]
    w: tuple[Vector, Vector]


def padding(
    layout: Layout, parts: Sequence[Part], which: Vector, boxes: Boxes, burst: int
) -> Vector:
    """Burst padding of each box [bit].

    parts: what boxes take of each of their pixels; which: the place of a box's own among them
    """
    grid, bits = layout.grid, layout.record_bits
    corners = _corners(grid, boxes)
    total = np.zeros(len(which), np.int64)
    order = np.argsort(which, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        of_part = corners[:, own]
        for place, sign in _ends(layout, parts[which[own[0]]], burst):
            total[own] += _SIGNS @ _end_sums(grid, bits, burst, place, sign)[of_part]
    joined = np.array([_joined(layout, part) for part in parts])[which]
    if joined.any():
        total += np.where(joined, _edges(grid, bits, burst).of(boxes), 0)
    (n0, n1), (h0, h1), (w0, w1) = boxes.n, boxes.h, boxes.w
    return np.where((n0 < n1) & (h0 < h1) & (w0 < w1), total, 0)


def partition_padding(layout: Layout, part: Part, boxes: Boxes, burst: int) -> int:
    """Burst padding of boxes that together hold every pixel once [bit]; none is empty."""
    inside = _inside(layout, part, burst)
    rounds, left = divmod(prod(layout.grid), len(inside))
    total = rounds * int(inside.sum()) + int(inside[:left].sum())
    if _joined(layout, part):
        total += int(_edges(layout.grid, layout.record_bits, burst).of(boxes).sum())
    return total


def partitions_padding(layout: Layout, low: Vector, high: Vector, boxes: Boxes, burst: int) -> int:
    """The same summed over many parts, intervals low .. high of a record's cells, at once [bit].

    Cells must hold one mantissa each, so that an interval is one run, and a code before it if it
    cuts a block.
    """
    row, bits = layout.row, layout.record_bits
    cuts = low % row.block != 0
    code = row.code_address(low // row.block)
    start, end = np.where(cuts, row.cell_address(low), code), row.cell_address(high - 1) + row.width
    joined = ((code if row.code else start) == 0) & (end == bits)
    period = burst // gcd(bits, burst)
    records = prod(layout.grid)
    times = records // period + (np.arange(period) < records % period)
    place = np.arange(period)[:, None] * bits
    inside = np.where(joined & ~cuts, 0, (place + start) % burst)
    inside += np.where(joined, 0, -(place + end) % burst)
    if row.code:
        before = np.where(joined, 0, (place + code) % burst)
        inside += np.where(cuts, before + -(place + code + row.code) % burst, 0)
    total = int((inside.sum(axis=1) * times).sum())
    if joined.any():
        around = int(_edges(layout.grid, bits, burst).of(boxes).sum())
        total += int(joined.sum()) * around
    return total


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Padding before a stretch of pixels that starts, and after one that ends, at a pixel.

    columns: running sums over images and rows, for stretches inside a row, (n, h, w)
    rows: running sums over images, for stretches of whole rows, (n, h); images: of whole images
    """

    columns_before: Vector
    columns_after: Vector
    rows_before: Vector
    rows_after: Vector
    images_before: Vector
    images_after: Vector

    def of(self, boxes: Boxes) -> Vector:
        """Padding around every stretch of each box."""
        (n0, n1), (h0, h1), (w0, w1) = boxes.n, boxes.h, boxes.w
        height, width = self.columns_before.shape[1] - 1, self.columns_before.shape[2] - 1
        inside_rows = np.zeros(len(n0), np.int64)
        for sums, w in ((self.columns_before, w0), (self.columns_after, w1)):
            inside_rows += sums[n1, h1, w] - sums[n1, h0, w] - sums[n0, h1, w] + sums[n0, h0, w]
        of_rows = self.rows_before[n1, h0] - self.rows_before[n0, h0]
        of_rows += self.rows_after[n1, h1] - self.rows_after[n0, h1]
        of_images = self.images_before[n0] + self.images_after[n1]
        whole_rows = (w0 == 0) & (w1 == width)
        whole_images = whole_rows & (h0 == 0) & (h1 == height)
        return np.where(whole_images, of_images, np.where(whole_rows, of_rows, inside_rows))


@lru_cache(maxsize=4096)
def _joined(layout: Layout, part: Part) -> bool:
    """Whether a pixel's runs reach from its start to its end, so that neighbours' runs join."""
    runs = layout.record_runs(part)
    return bool(runs.starts[0] == 0 and runs.ends[-1] == layout.record_bits)


@lru_cache(maxsize=4096)
def _ends(layout: Layout, part: Part, burst: int) -> tuple[tuple[int, int], ...]:
    """Where runs start (sign 1) and end (sign -1) inside a pixel: places within a burst.

    Padding before a start at bit x is x % burst, after an end -x % burst.
    """
    runs = layout.record_runs(part)
    starts, ends = (runs.starts[1:], runs.ends[:-1]) if _joined(layout, part) else runs
    return (
        *((int(place), 1) for place in starts % burst),
        *((int(place), -1) for place in ends % burst),
    )


def _inside(layout: Layout, part: Part, burst: int) -> Vector:
    """Padding inside each of the first pixels, until their places within a burst repeat."""
    bits = layout.record_bits
    first = np.arange(burst // gcd(bits, burst)) * bits
    inside = np.zeros(len(first), np.int64)
    for place, sign in _ends(layout, part, burst):
        inside += sign * (first + place) % burst
    return inside


@lru_cache(maxsize=512)
def _end_sums(grid: tuple[int, int, int], bits: int, burst: int, place: int, sign: int) -> Vector:
    """Running sums, over images, rows and columns, of the padding at one end of a run; flat."""
    pixels = sign * (np.arange(prod(grid)) * bits + place) % burst
    return _running(_running(_running(pixels.reshape(grid), 0), 1), 2).reshape(-1)


@lru_cache(maxsize=64)
def _edges(grid: tuple[int, int, int], bits: int, burst: int) -> _Edges:
    number, height, width = grid
    at = np.arange(number * height * width + 1) * bits
    before, after = at % burst, -at % burst
    row = np.arange(number)[:, None] * height + np.arange(height + 1)
    column = row[:, :-1, None] * width + np.arange(width + 1)
    image = np.arange(number + 1) * height * width
    return _Edges(
        _running(_running(before[column], 0), 1),
        _running(_running(after[column], 0), 1),
        _running(before[row * width], 0),
        _running(after[row * width], 0),
        before[image],
        after[image],
    )


def _running(values: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Sums of the first 0, 1, 2, ... along an axis."""
    shape = list(values.shape)
    shape[axis] = 1
    return np.concatenate([np.zeros(shape, np.int64), np.cumsum(values, axis=axis)], axis=axis)


_SIGNS = np.array([-1, 1, 1, -1, 1, -1, -1, 1])
"""Of a box's corners, by inclusion and exclusion."""


def _corners(grid: tuple[int, int, int], boxes: Boxes) -> Vector:
    """Where the eight corners of each box stand in flat running sums: (corners, boxes)."""
    _, height, width = grid
    n, h, w = (np.stack(axis) for axis in (boxes.n, boxes.h, boxes.w))
    rows = n[:, None] * (height + 1) + h[None, :]
    corners = rows[:, :, None] * (width + 1) + w[None, None, :]
    return np.asarray(corners.reshape(8, -1))
