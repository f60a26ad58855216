"""The window of a convolution: which input rows (columns) a range of output rows (columns) needs.

The one formula of the house. It works on whole numbers, fractions and arrays alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bfpsim.workloads import ConvLayer

Interval = tuple[int, int]


class Window(NamedTuple):
    """How P slides over the input's rows under R, or Q over its columns under S.

    taps: of the filter; before: padding ahead of the first stored row (column)
    extent: stored rows (columns)
    """

    stride: int
    taps: int
    dilation: int
    before: int
    extent: int

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, layer: ConvLayer, dim: str) -> Window:
        """The window of P or Q."""
        axis = "PQ".index(dim)
        taps, extent = ((layer.R, layer.height), (layer.S, layer.width))[axis]
        stride, dilation = layer.strides[axis], layer.dilations[axis]
        return cls(stride, taps, dilation, layer.paddings[2 * axis], extent)

    def span(self, outputs: Any, taps: Any = None) -> Any:
        """Rows that so many outputs reach over with so many taps (all), padding included."""
        taps = self.taps if taps is None else taps
        return (outputs - 1) * self.stride + (taps - 1) * self.dilation + 1

    def reach(self, low: Any, high: Any, first: Any = 0, end: Any = None) -> tuple[Any, Any]:
        """The rows that outputs low .. high reach over with taps first .. end, padding included.

        The half-open range may begin below 0 and end beyond what is stored.
        """
        start = low * self.stride + first * self.dilation - self.before
        return start, start + self.span(high - low, None if end is None else end - first)

    def stored(self, low: Any, high: Any, first: Any = 0, end: Any = None) -> tuple[Any, Any]:
        """The stored ones of those rows; (0, 0) if all of them are padding. Of arrays, or ints."""
        start, stop = self.reach(low, high, first, end)
        start, stop = np.maximum(start, 0), np.minimum(stop, self.extent)
        some = start < stop
        return start * some, stop * some

    def interval(self, outputs: Interval) -> Interval:
        """The stored rows that a range of outputs needs."""
        low, high = self.stored(*outputs)
        return int(low), int(high)

    def uses(self, outputs: Interval) -> tuple[int, ...]:
        """Per tap, how many outputs of a range read a stored row with it, not padding."""
        counts = []
        for tap in range(self.taps):
            first, end = self._users(tap)
            counts.append(max(0, min(outputs[1], end) - max(outputs[0], first)))
        return tuple(counts)

    def pairs(self, low: Any, high: Any, first: Any, end: Any) -> Any:
        """How many outputs low .. high and taps first .. end read a stored row; of arrays."""
        count: Any = 0
        for tap in range(self.taps):
            begin, stop = self._users(tap)
            users = np.maximum(np.minimum(high, stop) - np.maximum(low, begin), 0)
            count = count + users * ((first <= tap) & (tap < end))
        return count

    def _users(self, tap: int) -> Interval:
        """The outputs, of any number, that read a stored row with a tap."""
        offset = tap * self.dilation - self.before  # input index = output * stride + offset
        return -(offset // self.stride), (self.extent - 1 - offset) // self.stride + 1

    def lines(self, outputs: int) -> int:
        """Stored rows that some of the first so many outputs read: not those strided over."""
        # Output o reads row (o + q) * stride + r of each tap, whose offset is q * stride + r. Taps
        # of one r read one range of quotients together, or several; the rows of two r differ.
        q, r = np.divmod(np.arange(self.taps) * self.dilation - self.before, self.stride)
        # Stored are the quotients in 0 .. end, where end * stride + r is the first row beyond.
        end = -((r - self.extent) // self.stride)
        low = np.clip(q, 0, end)
        high = np.clip(q + outputs, low, end)
        order = np.lexsort((low, r))
        r, low, high = r[order], low[order], high[order]
        # Within an r the ranges have one length, so they end in the order in which they begin.
        reached = np.where(np.diff(r, prepend=-1) == 0, np.roll(high, 1), 0)
        return int(np.maximum(high - np.maximum(low, reached), 0).sum())
