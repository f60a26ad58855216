"""Layouts: the address of every bit of a packed tensor.

Activations are NHWC. Each pixel is a sequence of blocks, and each block is its code (exponent or
scale) followed by its mantissas. Weights are KRSC, blocked: each filter is a sequence of blocks of
channels, and each is its code, or where blocks do not span taps the codes of all taps, in the order
R, S, followed by its mantissas in the order R, S, channel. Depthwise weights (one input channel per
group) are a sequence of blocks of filters, mantissas in the order filter, R, S. Plain tensors are
the same without codes, as one block. Fields are big-endian and nothing is padded: addresses are bit
offsets from the tensor's start, which is burst-aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats.format import Format, PartialSums

Interval = tuple[int, int]
"""Half-open range of indices."""
Addresses = NDArray[np.int64]


class Runs(NamedTuple):
    """Maximal contiguous bit ranges, in address order: `starts[i] .. ends[i]`."""

    starts: Addresses
    ends: Addresses

    @property
    def bits(self) -> int:
        """Payload [bit]."""
        return int((self.ends - self.starts).sum())

    def burst_padding(self, burst: int) -> int:
        """Bits moved beyond the payload when each run is rounded out to bursts of `burst` bit."""
        if burst == 1:
            return 0
        moved = -(-self.ends // burst) * burst - self.starts // burst * burst
        return int(moved.sum()) - self.bits


@dataclass(frozen=True, slots=True)
class Row:
    """`cells` equal cells of `width` bit in blocks of `block` cells, each block led by a code."""

    cells: int
    width: int
    block: int
    code: int

    @property
    def bits(self) -> int:
        """Length [bit]."""
        return self.cells * self.width + -(-self.cells // self.block) * self.code

    def cell_address(self, cell: Addresses) -> Addresses:
        """Bit address of each cell."""
        return cell * self.width + (cell // self.block + 1) * self.code

    def code_address(self, block: Addresses) -> Addresses:
        """Bit address of each block's code, where the block starts."""
        return block * (self.code + self.block * self.width)

    def runs(self, intervals: Sequence[Interval]) -> Runs:
        """Codes of every touched block and the cells of the intervals (ordered, disjoint)."""
        return _row_runs(self, tuple(intervals))


def _row(cells: int, elements: int, codes: int, fmt: Format | PartialSums) -> Row:
    """Cells of so many elements in blocks of so many codes; codes of 0 bits part no blocks."""
    block = fmt.block_size if fmt.exponent_bits else cells
    return Row(cells, elements * fmt.mantissa_bits, block, codes * fmt.exponent_bits)


@lru_cache(maxsize=4096)
def _row_runs(row: Row, intervals: tuple[Interval, ...]) -> Runs:
    if intervals == ((0, row.cells),):
        return _whole(row.bits)
    starts: list[int] = []
    ends: list[int] = []
    last_block = -1
    for low, high in intervals:
        if low >= high:
            continue
        for block in range(low // row.block, -(-high // row.block)):
            at = block * (row.code + row.block * row.width)
            if row.code and block > last_block:
                starts.append(at)
                ends.append(at + row.code)
            last_block = max(last_block, block)
            first = max(low, block * row.block) - block * row.block
            end = min(high, (block + 1) * row.block) - block * row.block
            starts.append(at + row.code + first * row.width)
            ends.append(at + row.code + end * row.width)
    return _merge(np.array(starts, np.int64), np.array(ends, np.int64))


def _whole(bits: int) -> Runs:
    return Runs(np.zeros(1, np.int64), np.full(1, bits, np.int64))


def _merge(starts: Addresses, ends: Addresses) -> Runs:
    """Join runs that touch; `starts` ascend."""
    edge = np.ones(len(starts) + 1, bool)
    np.not_equal(starts[1:], ends[:-1], out=edge[1:-1])
    return Runs(starts[edge[:-1]], ends[edge[1:]])


def _repeat(inner: Runs, pitch: int, indices: Addresses) -> Runs:
    """The runs of one record, repeated at every record index."""
    if inner.starts.size == 1 and inner.starts[0] == 0 and inner.ends[0] == pitch:
        return _merge(indices * pitch, (indices + 1) * pitch)  # whole records
    base = (indices * pitch)[:, None]
    return _merge((base + inner.starts).ravel(), (base + inner.ends).ravel())


def indices(intervals: Sequence[Interval]) -> Addresses:
    """Every index of ordered, disjoint intervals."""
    if not intervals:
        return np.empty(0, np.int64)
    return np.concatenate([np.arange(low, high, dtype=np.int64) for low, high in intervals])


@dataclass(frozen=True, slots=True)
class ActivationLayout:
    """A packed (N, H, W, channels) tensor."""

    shape: tuple[int, int, int, int]
    fmt: Format | PartialSums

    @property
    def row(self) -> Row:
        """A pixel as cells of one mantissa per channel."""
        channels = self.shape[3]
        return _row(channels, 1, 1, self.fmt)

    @property
    def bits(self) -> int:
        """Length of the packed tensor [bit]."""
        n, h, w, _ = self.shape
        return n * h * w * self.row.bits

    @property
    def grid(self) -> tuple[int, int, int]:
        """Pixels, as images x rows x columns."""
        return self.shape[:3]

    @property
    def record_bits(self) -> int:
        """Length of one pixel [bit]."""
        return self.row.bits

    def record_runs(self, channels: Sequence[Interval]) -> Runs:
        """The maximal contiguous bit ranges of some channels of the first pixel."""
        return self.row.runs(channels)

    def field_addresses(
        self, n: Interval, h: Interval, w: Interval, channels: Sequence[Interval]
    ) -> Addresses:
        """Bit address of every element's mantissa, shape (n, h, w, channels)."""
        cells = self.row.cell_address(indices(channels))
        return self._pixel_addresses(n, h, w)[..., None] + cells

    def code_addresses(self, n: Interval, h: Interval, w: Interval, blocks: Addresses) -> Addresses:
        """Bit address of the exponent code of each block index, shape (n, h, w, blocks)."""
        return self._pixel_addresses(n, h, w)[..., None] + self.row.code_address(blocks)

    def runs(self, n: Interval, h: Interval, w: Interval, channels: Sequence[Interval]) -> Runs:
        """The maximal contiguous bit ranges of a box, codes of cut blocks included."""
        _, height, width, _ = self.shape
        pixel = self.row
        if min(n[1] - n[0], h[1] - h[0], w[1] - w[0]) <= 0:
            return pixel.runs(())
        pixels = (
            (np.arange(*n)[:, None, None] * height + np.arange(*h)[:, None]) * width + np.arange(*w)
        ).ravel()
        return _repeat(pixel.runs(channels), pixel.bits, pixels)

    def _pixel_addresses(self, n: Interval, h: Interval, w: Interval) -> Addresses:
        _, height, width, _ = self.shape
        rows = np.arange(*n)[:, None, None] * height + np.arange(*h)[None, :, None]
        pixels: Addresses = (rows * width + np.arange(*w)).astype(np.int64)
        return pixels * self.row.bits


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Packed (filters, C, R, S) weights."""

    shape: tuple[int, int, int, int]
    fmt: Format

    @property
    def depthwise(self) -> bool:
        """Blocks run over filters because a group has one input channel."""
        return self.shape[1] == 1

    @property
    def row(self) -> Row:
        """A filter as cells of R x S mantissas per channel; depthwise, the tensor as filters."""
        filters, channels, r, s = self.shape
        cells = filters if self.depthwise else channels
        return _row(cells, r * s, 1 if self.fmt.spans_taps else r * s, self.fmt)

    @property
    def bits(self) -> int:
        """Length of the packed tensor [bit]."""
        return self.row.bits * (1 if self.depthwise else self.shape[0])

    def field_addresses(self, filters: Sequence[Interval], c: Interval) -> Addresses:
        """Bit address of every element's mantissa, shape (filters, channels, R, S)."""
        _, channels, r, s = self.shape
        m, row = self.fmt.mantissa_bits, self.row
        k = indices(filters)[:, None, None, None]
        position = np.arange(r * s, dtype=np.int64).reshape(r, s)
        addresses: Addresses
        if self.depthwise:
            addresses = row.cell_address(k) + position * m
            return addresses
        ch = np.arange(*c, dtype=np.int64)[:, None, None]
        block = ch // row.block
        length = np.minimum(row.block, channels - block * row.block)
        inside = position * length + ch - block * row.block
        addresses = k * row.bits + row.code_address(block) + row.code + inside * m
        return addresses

    def code_addresses(self, filters: Addresses, blocks: Addresses) -> Addresses:
        """Bit address of the codes of each filter's blocks; depthwise, of each block of filters.

        Shape (filters, blocks, R, S), depthwise (blocks, 1, R, S); a block that spans taps has one
        code, in place of R, S.
        """
        _, _, r, s = self.shape
        grid = (1, 1) if self.fmt.spans_taps else (r, s)
        taps = np.arange(grid[0] * grid[1]).reshape(grid) * self.fmt.exponent_bits
        at = self.row.code_address(blocks)
        of_filter = at[:, None] if self.depthwise else filters[:, None] * self.row.bits + at
        addresses: Addresses = of_filter[..., None, None] + taps
        return addresses

    @property
    def grid(self) -> tuple[int, int, int]:
        """Filters, as one row; not depthwise."""
        return 1, 1, self.shape[0]

    @property
    def record_bits(self) -> int:
        """Length of one filter [bit]; not depthwise."""
        return self.row.bits

    def runs(self, filters: Sequence[Interval], c: Interval) -> Runs:
        """The maximal contiguous bit ranges of a box, codes of cut blocks included."""
        if self.depthwise:
            return self.row.runs(filters)
        return _repeat(self.record_runs((c,)), self.row.bits, indices(filters))

    def record_runs(self, channels: Sequence[Interval]) -> Runs:
        """The maximal contiguous bit ranges of a range of channels of the first filter.

        Not depthwise; `channels` is one interval.
        """
        (c,) = channels
        _, all_channels, r, s = self.shape
        row, m, code = self.row, self.fmt.mantissa_bits, self.row.code
        if c == (0, all_channels):
            return _whole(row.bits)
        starts: list[int] = []
        ends: list[int] = []
        blocks = range(c[0] // row.block, -(-c[1] // row.block)) if c[0] < c[1] else ()
        for block in blocks:
            at = block * (code + row.block * row.width)
            low = block * row.block
            length = min(row.block, all_channels - low)
            first, end = max(c[0], low) - low, min(c[1], low + length) - low
            if code:
                starts.append(at)
                ends.append(at + code)
            for position in range(r * s):
                starts.append(at + code + (position * length + first) * m)
                ends.append(at + code + (position * length + end) * m)
        return _merge(np.array(starts, np.int64), np.array(ends, np.int64))
