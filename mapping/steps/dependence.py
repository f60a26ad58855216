"""Which finished tiles of a tensor an operation's tiles wait for.

An operation writes an activation tile by tile, each tile once; another reads boxes of it. A box is
there when the last tile that it touches is: so many tiles after the first, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bfpsim.mapping.steps.tiles import Boxes, Channels, Mask, Ranges, Vector, distinct
from bfpsim.mapping.window import Interval


@dataclass(frozen=True, eq=False)
class Completion:
    """When each part of a tensor is finished: a number of tiles by cells between tiles' edges.

    edges: along n, h, w and the channels, ascending, from 0 to the extent
    after: how many tiles are finished when a cell is, shape (n, h, w, channels) of cells
    """

    edges: tuple[Vector, Vector, Vector, Vector]
    after: Vector

    @classmethod
    def of(cls, boxes: Boxes, finished: Mask | None = None) -> Completion:
        """The completion of a tensor by tiles in their order.

        finished: which of them; None: all. They must cover each element once
        """
        tiles = np.arange(len(boxes.n.low)) if finished is None else np.flatnonzero(finished)
        n, h, w = (Ranges(own.low[tiles], own.high[tiles]) for own in (boxes.n, boxes.h, boxes.w))
        parts = boxes.channels.intervals
        channels = [edge for own in parts for interval in own for edge in interval]
        by_rows, by_columns, by_image = (np.unique(np.concatenate(own)) for own in (h, w, n))
        edges = by_image, by_rows, by_columns, np.unique(channels)
        after = np.zeros(tuple(len(own) - 1 for own in edges), np.int64)
        order = np.arange(1, len(tiles) + 1)
        which = boxes.channels.which[tiles]
        at = [np.searchsorted(edge, own.low) for edge, own in zip(edges, (n, h, w), strict=False)]
        for number in np.unique(which):
            own = which == number
            for low, high in parts[number]:
                first, end = np.searchsorted(edges[3], (low, high))
                rows = (*(place[own] for place in at), slice(first, end))
                after[rows] = order[own][:, None]
        return cls(edges, after)

    def tiles_before(self, boxes: Boxes, first: int = 0) -> Vector:
        """How many tiles must be finished before each box is there; 0 for an empty one.

        first: the channel of this tensor that the boxes' own channel 0 is; what lies outside it is
            another writer's
        """
        table = self.after
        table, c = _over_channels(table, self.edges[3], boxes.channels, first)
        numbers = [c]
        for axis, own in ((2, boxes.w), (1, boxes.h), (0, boxes.n)):
            firsts, number = distinct([own.low, own.high])
            low, high = own.low[firsts], own.high[firsts]
            parts = [
                _most(table, self.edges[axis], (int(a), int(b)), axis)
                for a, b in zip(low, high, strict=True)
            ]
            table = np.stack(parts, axis=axis)
            numbers.insert(0, number)
        needs: Vector = table[tuple(numbers)]
        return needs


def _most(table: Vector, edges: Vector, part: Interval, axis: int) -> Vector:
    """The latest of the cells along an axis that a range touches."""
    low, high = max(part[0], int(edges[0])), min(part[1], int(edges[-1]))
    if low >= high:
        return np.zeros(np.delete(table.shape, axis), np.int64)
    first = int(np.searchsorted(edges, low, side="right")) - 1
    end = int(np.searchsorted(edges, high, side="left"))
    cells: Vector = np.take(table, range(first, end), axis=axis).max(axis=axis)
    return cells


def _over_channels(
    table: Vector, edges: Vector, channels: Channels, first: int
) -> tuple[Vector, Vector]:
    """The table with, in place of channels' cells, the latest of each distinct set of channels."""
    columns = []
    for intervals in channels.intervals:
        latest = np.zeros(table.shape[:3], np.int64)
        for low, high in intervals:
            latest = np.maximum(latest, _most(table, edges, (low + first, high + first), 3))
        columns.append(latest)
    return np.stack(columns, axis=3), channels.which
