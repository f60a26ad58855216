"""Cycles that no run beats, in closed form over every tiling of a layer.

The array computes its total, and before it the first tiles of I and W arrive, and after it the last
tile of O drains. The channel moves its total. Each DMA engine does one thing after the other, and
waits for the latency of what it reads. With one slot per tensor nothing overlaps.
"""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.channel import least_channel_cycles
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.array import busy_cycles
from bfpsim.mapping.closed.exact import Cell, Lift
from bfpsim.mapping.closed.grid import Grid, Sizes, leaves_of, on_axes
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.nest import DIMS, RELEVANT, TENSORS, Tensor
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


class Edges(NamedTuple):
    """The ends of a run, over tilings.

    loads: bits of the first tiles of I and W; drain: of the last tile of O
    begin, end: cycles that the array computes on the first step, and on the last
    """

    loads: Any
    drain: Any
    begin: Any
    end: Any

    @classmethod
    def of(
        cls,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        sizes: Sizes,
        lift: Lift[Any] = on_axes,
    ) -> Edges:
        """Those of each combination of tile sizes."""
        leaves = leaves_of(layer, sizes)
        first, last = ({d: own.edge(end) for d, own in leaves.items()} for end in (0, 1))

        def bits(tensor: Tensor, tiles: Any) -> Any:
            cell = Cell.of(formats.of(tensor))
            return _product(
                lift(*own) for own in exact.tile_sizes(tensor, layer, tiles, cell).items()
            )

        def computing(tiles: Any) -> Any:
            array = arch.pe_array
            busy = busy_cycles(layer, array, tiles, passes(array, formats))
            return _product(lift(*own) for own in busy.loads) + busy.fill

        return cls(
            bits("I", first) + bits("W", first),
            bits("O", last),
            computing(first),
            computing(last),
        )

    @classmethod
    def of_classes(cls, layer: ConvLayer, arch: Arch, formats: LayerFormats, sizes: Sizes) -> Edges:
        """The least of all tilings with as many tiles of each dimension as these have."""
        every = {dim: np.arange(1, layer.dims[dim] + 1) for dim in DIMS}

        def least(dims: str, table: Vector) -> Any:
            for axis, dim in enumerate(dims):
                if dim in DIMS:
                    table = class_least(table, axis, sizes[dim])
            return on_axes(dims, table)

        return cls.of(layer, arch, formats, every, least)


def class_least(table: Vector, axis: int, sizes: Vector) -> Vector:
    """For some tile sizes, the least of a table over all sizes that make as many tiles.

    table: along `axis`, an entry for each size from 1 to the whole dimension
    """
    extent = table.shape[axis]
    trips = -(-extent // np.arange(1, extent + 1))
    begins = np.flatnonzero(np.diff(trips, prepend=0))
    least = np.minimum.reduceat(table, begins, axis=axis)
    return np.take(least, np.searchsorted(begins, sizes - 1, side="right") - 1, axis=axis)


def least_cycles(
    layer: ConvLayer,
    arch: Arch,
    grid: Grid,
    order: str,
    payload: dict[Tensor, Any],
    padding: dict[Tensor, Any],
    edges: Edges,
) -> NDArray[np.int64]:
    """A bound of the cycles of each tiling of a grid under a loop order.

    payload, padding: of each tensor under it, bursts' padding no more than it is [bit]
    edges: of the tilings, or of their classes
    """
    latency = arch.dram_latency_cycles
    trips = trips_of(layer, grid)
    visited = {t: visits(t, order, trips) for t in TENSORS}
    resumed = visited["O"] - _product(trips[d] for d in RELEVANT["O"])
    moving = {t: least_channel_cycles(arch, payload[t], padding[t]) for t in TENSORS}
    whole, padded = (sum(each.values()) for each in (payload, padding))
    fill = least_channel_cycles(arch, edges.loads) + latency
    if all(not arch.buffer(t).double_buffered for t in TENSORS):
        # Where O stays, W changes; so does what resumes wait for its latency.
        waits = 1 + (grid.steps - visited["O"]) + resumed
        channel = least_channel_cycles(arch, whole, padded)
        single: NDArray[np.int64] = grid.compute_cycles + channel + latency * waits
        return single
    drain = least_channel_cycles(arch, edges.drain)
    overlapped = np.maximum(grid.result_bits, grid.sum_bits)
    bounds = (
        grid.compute_cycles + fill + drain,
        least_channel_cycles(arch, whole, padded),
        # During the last step nothing but the tile of O before can drain.
        least_channel_cycles(arch, whole - overlapped) + edges.end,
        # A DMA engine does one thing after the other.
        moving["W"] + latency * visited["W"] + edges.end + drain,
        moving["I"] + latency + edges.end + drain,
        fill + edges.begin + moving["O"] + latency * resumed,
    )
    return np.asarray(reduce(np.maximum, bounds))


def trips_of(layer: ConvLayer, grid: Grid) -> dict[str, Any]:
    """Tiles of each dimension, on the axes of a grid."""
    return {d: on_axes(d, -(-layer.dims[d] // grid.sizes[d])) for d in DIMS}


def visits(tensor: Tensor, order: str, trips: dict[str, Any]) -> Any:
    """How many tiles of a tensor come: loops inside those that it depends on do not count."""
    count: Any = 1
    inside: Any = 1
    for dim in reversed(order):
        if dim in RELEVANT[tensor]:
            inside = inside * trips[dim]
            count = count * trips[dim]
        else:
            count = count * np.where(inside > 1, trips[dim], 1)
    return count


def _product(factors: Any) -> Any:
    return reduce(mul, factors)
