"""Which elements share an exponent.

A tensor's blocks form a regular grid: block `b` of an axis holds elements
`b * length .. (b + 1) * length`, the last one possibly fewer. Activations are (N, H, W, channels),
weights (filters, C, R, S).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bfpsim.quant.formats.format import Format

Shape = tuple[int, ...]


def activation_block(fmt: Format, shape: Shape) -> Shape:
    """Elements per block of an (N, H, W, channels) tensor: BS channels of one pixel."""
    return (1, 1, 1, fmt.block_size)


def weight_block(fmt: Format, shape: Shape) -> Shape:
    """Elements per block of (filters, C, R, S) weights.

    BS input channels x R x S of one filter; where a group has one input channel, BS filters of
    R x S.
    """
    _, channels, r, s = shape
    return (fmt.block_size, 1, r, s) if channels == 1 else (1, fmt.block_size, r, s)


def grid(shape: Shape, block: Shape) -> Shape:
    """How many blocks there are along each axis."""
    return tuple(-(-size // length) for size, length in zip(shape, block, strict=True))


def spread(per_block: NDArray[np.int64], block: Shape, shape: Shape) -> NDArray[np.int64]:
    """Repeat one value per block over the block's elements: an array of `shape`."""
    out = per_block
    for axis, (length, size) in enumerate(zip(block, shape, strict=True)):
        if out.shape[axis] == 1:  # broadcasting does it without a copy
            continue
        if length > 1:
            out = np.repeat(out, length, axis=axis)
        if out.shape[axis] != size:
            out = np.take(out, range(size), axis=axis)
    return np.broadcast_to(out, shape)


def block_maxima(values: NDArray[np.float64], block: Shape) -> NDArray[np.float64]:
    """The largest value of each block, an array of `grid(values.shape, block)`."""
    out = values
    for axis, length in enumerate(block):
        if length > 1:
            out = np.maximum.reduceat(out, range(0, values.shape[axis], length), axis=axis)
    return out


def touched(intervals: Iterable[tuple[int, int]], length: int) -> int:
    """How many blocks of `length` the union of ordered, disjoint half-open intervals touches."""
    count, last = 0, -1
    for low, high in intervals:
        if low < high:
            first = max(low // length, last + 1)
            end = (high - 1) // length
            count += max(0, end - first + 1)
            last = max(last, end)
    return count
