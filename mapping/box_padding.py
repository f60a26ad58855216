"""Burst padding of many boxes of a packed activation tensor at once.

A box's payload lies in contiguous runs; each has padding before its start and after its end, known
from the place of the two within a burst. Runs that lie inside pixels are summed over pixels. If a
box takes pixels from end to end (their whole, or all but a gap), runs of neighbouring pixels join,
and what remains is the start and the end of each stretch of pixels: a part of a row, whole rows, or
whole images. All sums over boxes are differences of running sums.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from mapping.boxes import Interval
from mapping.ragged import Vector
from quant.layout import ActivationLayout


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes that share their channels: half-open ranges, an entry per box; some may be empty."""

    n: tuple[Vector, Vector]
    h: tuple[Vector, Vector]
    w: tuple[Vector, Vector]

    def at(self, steps: Vector) -> "Boxes":
        """Some of the boxes."""
        n, h, w = ((low[steps], high[steps]) for low, high in (self.n, self.h, self.w))
        return Boxes(n, h, w)


def padding(
    layout: ActivationLayout, channels: tuple[Interval, ...], boxes: Boxes, burst: int
) -> Vector:
    """Burst padding of each box [bit]."""
    (n0, n1), (h0, h1), (w0, w1) = boxes.n, boxes.h, boxes.w
    pixels, edges = _sums(layout, channels, burst)
    total = _over(pixels, boxes)
    if edges is not None:
        total += edges.of(boxes)
    return np.where((n0 < n1) & (h0 < h1) & (w0 < w1), total, 0)


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


@lru_cache(maxsize=64)
def _sums(
    layout: ActivationLayout, channels: tuple[Interval, ...], burst: int
) -> tuple[Vector, _Edges | None]:
    """Running sums of what lies inside pixels, and the edges if neighbouring pixels join."""
    number, height, width, _ = layout.shape
    runs, bits = layout.pixel_runs(channels), layout.pixel_bits
    joined = bool(runs.starts[0] == 0 and runs.ends[-1] == bits)
    starts, ends = (runs.starts[1:], runs.ends[:-1]) if joined else runs
    # A pixel's place within a burst repeats after so many pixels.
    first = np.arange(burst // gcd(bits, burst))[:, None] * bits
    by_residue = ((first + starts) % burst).sum(axis=1) + (-(first + ends) % burst).sum(axis=1)
    grid = by_residue[np.arange(number * height * width) % len(first)]
    pixels = _running(_running(_running(grid.reshape(number, height, width), 0), 1), 2)
    if not joined:
        return pixels, None
    at = np.arange(number * height * width + 1) * bits
    before, after = at % burst, -at % burst
    row = np.arange(number)[:, None] * height + np.arange(height + 1)
    column = row[:, :-1, None] * width + np.arange(width + 1)
    image = np.arange(number + 1) * height * width
    return pixels, _Edges(
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


def _over(sums: Vector, boxes: Boxes) -> Vector:
    """The sum of each box, by inclusion and exclusion of its corners."""
    total = np.zeros(len(boxes.n[0]), np.int64)
    for i, n in enumerate(boxes.n):
        for j, h in enumerate(boxes.h):
            for k, w in enumerate(boxes.w):
                total += (-1) ** (i + j + k + 1) * sums[n, h, w]
    return total
