"""Which tiles of a tensor are resident, in which order, and what of each is new: rules 1 to 4.

A tensor's tile is named by its ranges of the dimensions that it depends on. While they stay the
same nothing moves, whatever loops turned over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, RELEVANT, Nest, Tensor
from bfpsim.mapping.window import Interval, Window

Vector = NDArray[np.int64]
Mask = NDArray[np.bool_]
Halo = Literal["sliding", "none"]


class Ranges(NamedTuple):
    """Half-open ranges of a dimension, one per tile."""

    low: Vector
    high: Vector

    @property
    def lengths(self) -> Vector:
        """Of each range."""
        return self.high - self.low

    def at(self, tile: int) -> Interval:
        """One range."""
        return int(self.low[tile]), int(self.high[tile])


class Turns:
    """Every dimension's range over turns of some loops, by dimension.

    begins: the step that each turn begins at
    cut: the ranges of the dimensions that the loops cut; the others are whole
    """

    def __init__(self, begins: Vector, cut: dict[str, Ranges], extents: dict[str, int]) -> None:
        self.begins, self.cut = begins, cut
        self._extents = extents
        self._known = dict(cut)

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, dim: str) -> Ranges:
        if dim not in self._known:
            whole = np.full(len(self), self._extents[dim], np.int64)
            self._known[dim] = Ranges(np.zeros(len(self), np.int64), whole)
        return self._known[dim]

    def at(self, turns: Vector) -> Turns:
        """Some of the turns."""
        cut = {d: Ranges(own.low[turns], own.high[turns]) for d, own in self.cut.items()}
        return Turns(self.begins[turns], cut, self._extents)


@dataclass(frozen=True, eq=False)
class Visits:
    """A tensor's tiles in the order they come: one for every change of its ranges.

    ends: each is resident during the steps `begins .. ends - 1`
    ranges: of every dimension at a visit's first step; last: at its last turn
    """

    ends: Vector
    ranges: Turns
    last: Turns

    @property
    def begins(self) -> Vector:
        """The step at which each becomes resident."""
        return self.ranges.begins

    def __len__(self) -> int:
        return len(self.ends)


class ActivationBox(NamedTuple):
    """A box of an (N, H, W, channels) tensor: half-open ranges, and the channels as intervals."""

    n: Interval
    h: Interval
    w: Interval
    channels: tuple[Interval, ...]

    @property
    def pixels(self) -> int:
        """Pixels in the box."""
        (n0, n1), (h0, h1), (w0, w1) = self.n, self.h, self.w
        return (n1 - n0) * (h1 - h0) * (w1 - w0)


class WeightBox(NamedTuple):
    """A box of (filters, C, R, S) weights: filters as intervals, whole R x S."""

    filters: tuple[Interval, ...]
    c: Interval


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a tensor's tiles: some groups, and the same range inside each.

    groups, inner: distinct pairs of ranges; which: the pair of each tile
    """

    groups: Ranges
    inner: Ranges
    which: Vector
    per_group: int

    @cached_property
    def intervals(self) -> list[tuple[Interval, ...]]:
        """The channels of each distinct pair, as merged intervals."""
        return [
            channel_intervals(self.groups.at(i), self.inner.at(i), self.per_group)
            for i in range(len(self.groups.low))
        ]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of an (N, H, W, channels) tensor, one per tile."""

    n: Ranges
    h: Ranges
    w: Ranges
    channels: Channels

    @property
    def pixels(self) -> Vector:
        """Pixels of each box."""
        return self.n.lengths * self.h.lengths * self.w.lengths

    def at(self, tile: int) -> ActivationBox:
        """One box."""
        channels = self.channels.intervals[self.channels.which[tile]]
        return ActivationBox(self.n.at(tile), self.h.at(tile), self.w.at(tile), channels)


@dataclass(frozen=True, eq=False)
class InputTiles:
    """Tiles of I: `resident` boxes, and `fetched` parts of them; the rest was there."""

    visits: Visits
    resident: Boxes
    fetched: Boxes


@dataclass(frozen=True, eq=False)
class WeightTiles:
    """Tiles of W, each fetched whole."""

    visits: Visits
    filters: Channels
    c: Ranges
    taps: Vector

    def at(self, tile: int) -> WeightBox:
        """One box."""
        return WeightBox(self.filters.intervals[self.filters.which[tile]], self.c.at(tile))


@dataclass(frozen=True, eq=False)
class OutputTiles:
    """Visits of O tiles.

    resumed: its reduction began at an earlier visit, so its partial sums are read back first
    finished: its reduction ends with this visit, so it leaves as a result, not as partial sums
    """

    visits: Visits
    resident: Boxes
    resumed: Mask
    finished: Mask


def input_tiles(nest: Nest, halo: Halo, apart: Sequence[str] = ()) -> InputTiles:
    """Tiles of I.

    apart: windows (PR of rows, QS of columns) of which nothing stays if a range of theirs changes

    If exactly one of I's ranges changed, it is P, Q, R or S, and begins where the old one ended,
    the overlap with the resident box stays (`sliding`); every other change fetches the box whole. A
    box that clipping leaves unchanged is not fetched at all.
    """
    visits = visits_of(nest, "I")
    ranges, layer = visits.ranges, nest.layer
    h, w = (
        Ranges(*Window.of(layer, out).stored(*ranges[out], *ranges[taps]))
        for out, taps in ("PR", "QS")
    )
    channels = _channels(ranges, "GC", layer.C)
    resident = Boxes(ranges["N"], h, w, channels)
    changed = {dim: _changed(own) for dim, own in ranges.cut.items() if dim in RELEVANT["I"]}
    still = ~(_changed(h) | _changed(w))
    for dim in "NGC" + "".join(apart):
        if dim in changed:
            still &= ~changed[dim]
    still[:1] = False  # the first tile has none before it
    low = {"h": h.low, "w": w.low}
    if halo == "sliding" and changed:
        alone = np.sum(list(changed.values()), axis=0) == 1
        for edge, own, dims in (("h", h, "PR"), ("w", w, "QS")):
            if dims in apart:
                continue
            slides = np.zeros(len(visits), bool)
            for dim in dims:
                if dim in changed:
                    adjacent = ranges[dim].low == _before(ranges[dim].high)
                    slides |= alone & changed[dim] & adjacent
            slides[:1] = False
            if slides.any():
                low[edge] = np.where(slides, np.maximum(own.low, _before(own.high)), own.low)
    # Of a box that is still there, no row is new.
    new_h = Ranges(low["h"], np.where(still, low["h"], np.maximum(h.high, low["h"])))
    left = np.where(still, w.low, low["w"])
    new_w = Ranges(left, np.maximum(w.high, left))
    return InputTiles(visits, resident, Boxes(ranges["N"], new_h, new_w, channels))


def weight_tiles(nest: Nest) -> WeightTiles:
    """Tiles of W."""
    visits = visits_of(nest, "W")
    ranges = visits.ranges
    filters = _channels(ranges, "GK", nest.layer.K)
    return WeightTiles(visits, filters, ranges["C"], ranges["R"].lengths * ranges["S"].lengths)


def output_tiles(nest: Nest) -> OutputTiles:
    """Visits of O: the first if its reduction begins at 0, the last if it ends at the extent."""
    visits = visits_of(nest, "O")
    ranges = visits.ranges
    channels = _channels(ranges, "GK", nest.layer.K)
    resumed, finished = np.zeros(len(visits), bool), np.ones(len(visits), bool)
    for dim in REDUCTION:
        if dim in ranges.cut:
            resumed |= ranges[dim].low > 0
            finished &= visits.last[dim].high == nest.extents[dim]
    boxes = Boxes(ranges["N"], ranges["P"], ranges["Q"], channels)
    return OutputTiles(visits, boxes, resumed, finished)


def visits_of(nest: Nest, tensor: Tensor) -> Visits:
    """The tiles of a tensor in the order they come."""
    relevant = [i for i, loop in enumerate(nest.loops) if loop.dim in RELEVANT[tensor]]
    depth = relevant[-1] + 1 if relevant else 0
    turns = unrolled(nest, depth)
    changed = np.zeros(len(turns), bool)
    changed[0] = True
    for dim, ranges in turns.cut.items():
        if dim in RELEVANT[tensor]:
            changed |= _changed(ranges)
    ends = np.append(turns.begins[1:], nest.steps)
    if changed.all():
        return Visits(ends, turns, turns)
    first = np.flatnonzero(changed)
    last = np.append(first[1:], len(turns)) - 1
    return Visits(ends[last], turns.at(first), turns.at(last))


def unrolled(nest: Nest, depth: int) -> Turns:
    """Every turn of the outer `depth` loops."""
    cut: dict[str, Ranges] = {}
    turns = 1
    for loop in nest.loops[:depth]:
        dim = loop.dim
        own = cut.pop(dim, None) or Ranges(np.zeros(1, np.int64), np.array([nest.extents[dim]]))
        trips = -(-own.lengths // loop.tile)
        if len(trips) == 1:  # the first loop of its dimension: as many trips at every turn
            each, whole = int(trips[0]), turns
            turns *= each
            cut = {d: Ranges(*(np.repeat(edge, each) for edge in r)) for d, r in cut.items()}
            low = np.tile(np.arange(each) * loop.tile, whole)
            cut[dim] = Ranges(low, np.minimum(low + loop.tile, nest.extents[dim]))
            continue
        first = np.cumsum(trips) - trips
        cut = {d: Ranges(*(np.repeat(edge, trips) for edge in r)) for d, r in cut.items()}
        turns = int(trips.sum())
        low = np.repeat(own.low, trips)
        low = low + (np.arange(turns) - np.repeat(first, trips)) * loop.tile
        cut[dim] = Ranges(low, np.minimum(low + loop.tile, np.repeat(own.high, trips)))
    inside, constant = np.ones(turns, np.int64), 1
    for dim in EVERY_DIM:
        cuts = [loop.tile for loop in nest.loops[depth:] if loop.dim == dim]
        if cuts and dim in cut:
            inside = inside * _pieces(cut[dim].lengths, cuts)
        elif cuts:
            constant *= int(_pieces(np.array([nest.extents[dim]]), cuts)[0])
    begins = (np.cumsum(inside) - inside) * constant
    return Turns(begins, cut, nest.extents)


def _pieces(lengths: Vector, cuts: Sequence[int]) -> Vector:
    """How many tiles the loops inside make of ranges of some lengths."""
    if not cuts:
        return (lengths > 0).astype(np.int64)
    whole, edge = np.divmod(lengths, cuts[0])
    inner = _pieces(np.full(1, cuts[0]), cuts[1:])
    return whole * inner + _pieces(edge, cuts[1:])


def channel_intervals(group: Interval, inner: Interval, per_group: int) -> tuple[Interval, ...]:
    """The channels of a range of groups and a range inside each, as merged intervals."""
    if inner[1] - inner[0] == per_group:
        return ((group[0] * per_group, group[1] * per_group),)
    return tuple((g * per_group + inner[0], g * per_group + inner[1]) for g in range(*group))


def distinct(columns: Sequence[Vector]) -> tuple[Vector, Vector]:
    """The first place of each distinct row of some columns, and every row's number among them."""
    rows, count = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        if count * (high - low + 1) > _LARGEST:
            known, rows = np.unique(rows, return_inverse=True)
            count = len(known)
        rows = rows * (high - low + 1) + (column - low)
        count *= high - low + 1
    _, firsts, number = np.unique(rows, return_index=True, return_inverse=True)
    return firsts, number


_LARGEST = 2**62


def _channels(ranges: Turns, dims: str, per_group: int) -> Channels:
    groups, inner = (ranges[dim] for dim in dims)
    firsts, which = np.zeros(1, np.int64), np.zeros(len(ranges), np.int64)
    cut = [edge for dim in dims if dim in ranges.cut for edge in ranges[dim]]
    if cut:
        firsts, which = distinct(cut)
    return Channels(
        Ranges(groups.low[firsts], groups.high[firsts]),
        Ranges(inner.low[firsts], inner.high[firsts]),
        which,
        per_group,
    )


def _changed(ranges: Ranges) -> Mask:
    """Tiles whose range differs from that of the tile before; not the first."""
    changed = np.zeros(len(ranges.low), bool)
    for edge in ranges:
        changed[1:] |= edge[1:] != edge[:-1]
    return changed


def _before(values: Vector) -> Vector:
    """Of the tile before; of the first, nothing that matters."""
    return np.concatenate([values[:1], values[:-1]])
