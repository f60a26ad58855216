"""Which elements share an exponent.

A tensor's blocks form a regular grid of boxes: along an axis on which a box has `length` elements,
box `b` holds the elements `b * length .. (b + 1) * length`, the last one possibly fewer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats.format import Format
from bfpsim.quant.formats.rounding import FormatError

Shape = tuple[int, ...]
"""Elements along each axis, of a tensor or of a box."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which elements share an exponent, in any order of axes.

    axis: BS consecutive indices of this axis, at one index of every other
    taps: for weights (filters, C, R, S), (filters, C, R) or (filters, C): a block is BS input
        channels with all their taps, or at one tap, as the format has it (`spans_taps`); where C is
        1 (depthwise), BS filters
    """

    axis: int
    taps: bool = False

    def __post_init__(self) -> None:
        if self.taps and self.axis != 1:
            raise FormatError(f"Blocks: axis={self.axis} with taps; allowed: 1, the input channels")

    def check(self, shape: Sequence[int], name: str) -> None:
        """Raise FormatError, naming the tensor, for a shape that lacks the axis."""
        dims = len(shape)
        if not (dims >= 2 if self.taps else -dims <= self.axis < dims):
            allowed = "at least 2 axes" if self.taps else f"an axis {self.axis}"
            raise FormatError(f"{name}: shape {tuple(shape)}; allowed: {allowed}")

    def channel_axis(self, shape: Sequence[int]) -> int:
        """The axis, from 0, along which blocks follow one another."""
        if self.taps:
            return 0 if shape[1] == 1 else 1
        return self.axis % len(shape)

    def box(self, shape: Sequence[int], size: int) -> Shape:
        """Elements along each axis of a block of `size` channels."""
        channels = self.channel_axis(shape)
        return tuple(
            size if axis == channels else length if self.taps and axis > 1 else 1
            for axis, length in enumerate(shape)
        )

    def at_taps(self, shape: Sequence[int]) -> "Blocks":
        """The same at one tap each."""
        return Blocks(self.channel_axis(shape))

    def of(self, fmt: Format, shape: Sequence[int]) -> Shape:
        """Elements along each axis of a block of a format."""
        own = self if fmt.spans_taps else self.at_taps(shape)
        return own.box(shape, fmt.block_size)

    def extents(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """A tensor of `shape` as (outer, channels, inner): blocks run along the middle axis.

        With taps, all of `inner` belongs to the block.
        """
        if self.taps:
            inner = math.prod(shape[2:])
            return (1, shape[0], inner) if shape[1] == 1 else (shape[0], shape[1], inner)
        axis = self.axis % len(shape)
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


CHANNELS = Blocks(axis=1)
"""Activations (N, channels, ...), channels first or last in memory."""
LAST = Blocks(axis=-1)
"""Tokens (..., channels); activations (N, H, W, channels)."""
WEIGHT = Blocks(axis=1, taps=True)


def activation_block(fmt: Format, shape: Shape) -> Shape:
    """Elements per block of an (N, H, W, channels) tensor: BS channels of one pixel."""
    return LAST.of(fmt, shape)


def weight_block(fmt: Format, shape: Shape) -> Shape:
    """Elements per block of (filters, C, R, S) weights.

    BS input channels x R x S of one filter; where a group has one input channel, BS filters of
    R x S. Of a format whose blocks do not span taps, at one of the R x S.
    """
    return WEIGHT.of(fmt, shape)


def block_count(shape: Sequence[int], box: Shape) -> int:
    """Count the boxes that hold a tensor of `shape`."""
    return math.prod(-(-size // length) for size, length in zip(shape, box, strict=True))


def spread(per_block: NDArray[np.int64], box: Shape, shape: Shape) -> NDArray[np.int64]:
    """Repeat one value per block over the block's elements: an array of `shape`."""
    out = per_block
    for axis, (length, size) in enumerate(zip(box, shape, strict=True)):
        if out.shape[axis] == 1:  # broadcasting does it without a copy
            continue
        if length > 1:
            out = np.repeat(out, length, axis=axis)
        if out.shape[axis] != size:
            out = np.take(out, range(size), axis=axis)
    return np.broadcast_to(out, shape)


def block_maxima(values: NDArray[np.float64], box: Shape) -> NDArray[np.float64]:
    """The largest value of each block: an array of as many entries per axis as there are boxes."""
    out = values
    for axis, length in enumerate(box):
        if length > 1:
            out = np.maximum.reduceat(out, range(0, values.shape[axis], length), axis=axis)
    return out


def touched(intervals: Iterable[tuple[int, int]], length: int) -> int:
    """Count the blocks of `length` that ordered, disjoint half-open intervals touch."""
    count, last = 0, -1
    for low, high in intervals:
        if low < high:
            first = max(low // length, last + 1)
            end = (high - 1) // length
            count += max(0, end - first + 1)
            last = max(last, end)
    return count
