"""Burst padding that no tiling goes below, over a grid.

Where a tile takes a part of each pixel's channels, or of each filter's, its runs lie inside pixels
(filters), and what they are padded with is known: of W and O exactly, since each filter and each
pixel moves as often as any other; of I at least, since pixels may begin anywhere in a burst. Other
tiles' runs may join, and count as if they had no padding.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.closed.cycles import class_least, trips_of, visits
from bfpsim.mapping.closed.exact import whole_blocks
from bfpsim.mapping.closed.grid import Grid, on_axes
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.nest import RELEVANT, Tensor
from bfpsim.mapping.steps.bursts import Layout, record_padding
from bfpsim.mapping.window import Interval
from bfpsim.quant.formats import ActivationLayout, LayerFormats, PartialSums, WeightLayout
from bfpsim.workloads import ConvLayer


class LeastPadding:
    """Of the tilings of a layer as stored; what is known of a range of channels is remembered."""

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats) -> None:
        self._layer, self._burst = layer, arch.dram.burst
        self._block = formats.O.block_size
        sums = PartialSums(arch.pe_array.accumulator_bits)
        self._inputs = ActivationLayout(layer.input_shape, formats.I)
        self._weights = WeightLayout(layer.weight_shape, formats.W)
        self._results = ActivationLayout(layer.output_shape, formats.O)
        self._sums = ActivationLayout(layer.output_shape, sums)
        self._known: dict[tuple[Layout, Interval], tuple[int, int]] = {}

    def of(self, grid: Grid, order: str) -> dict[Tensor, Any]:
        """By tensor, of each tiling of a grid under a loop order [bit]."""

        def once(dim: str, layout: Layout) -> Vector:
            return self._once(dim, layout, grid.sizes[dim])

        inputs = self._of_inputs(grid, order) if self._burst > 1 else 0
        return self._often(grid, order, once) | {"I": inputs}

    def of_classes(self, grid: Grid, order: str) -> dict[Tensor, Any]:
        """The least of all tilings with as many tiles of each dimension as these have."""

        def once(dim: str, layout: Layout) -> Vector:
            legal = self._legal(dim)
            padding = self._once(dim, layout, np.flatnonzero(legal) + 1)
            every = np.full(len(legal), padding.max())
            every[legal] = padding
            return class_least(every, 0, grid.sizes[dim])

        return self._often(grid, order, once)

    def _legal(self, dim: str) -> NDArray[np.bool_]:
        """The sizes, from 1 on, that keep O's blocks whole."""
        layer = self._layer
        if dim not in "GK":
            return np.ones(layer.dims[dim], bool)
        groups, filters = (np.arange(1, layer.dims[d] + 1) for d in "GK")
        whole = whole_blocks(layer, groups, filters, self._block)
        return np.asarray(whole.any(axis="KG".index(dim)))

    def _often(
        self, grid: Grid, order: str, once: Callable[[str, Layout], Vector]
    ) -> dict[Tensor, Any]:
        """Of W and O; none of I is sure.

        once: of moving all once, by tile sizes of a dimension
        """
        layer, trips = self._layer, trips_of(self._layer, grid)
        padding: dict[Tensor, Any] = {"I": 0, "W": 0, "O": 0}
        if self._burst == 1:
            return padding

        def often(tensor: Tensor) -> Any:
            tiles = prod(trips[d] for d in RELEVANT[tensor] if d in trips)
            return visits(tensor, order, trips) // tiles

        if not self._weights.depthwise:
            padding["W"] = on_axes("C", once("C", self._weights)) * often("W")
        if layer.G == 1 or layer.K == 1:
            dim = "K" if layer.G == 1 else "G"
            results, sums = (on_axes(dim, once(dim, own)) for own in (self._results, self._sums))
            padding["O"] = results + 2 * (often("O") - 1) * sums
        return padding

    def _of_inputs(self, grid: Grid, order: str) -> Any:
        layer = self._layer
        if layer.G > 1 and layer.C > 1:
            return 0
        dim = "C" if layer.G == 1 else "G"
        leaves = Leaves.of_sizes(layer.dims[dim], grid.sizes[dim])
        each = self._each(self._inputs, leaves)[:, 0]
        if not each.any():
            return 0
        return grid.fetched_inputs(order, each[None, :] if dim == "C" else each[:, None])

    def _once(self, dim: str, layout: Layout, sizes: Vector) -> Vector:
        """Of moving every pixel (filter) once, by tile sizes."""
        leaves = Leaves.of_sizes(self._layer.dims[dim], sizes)
        return leaves.totals(self._each(layout, leaves)[:, 1])

    def _each(self, layout: Layout, leaves: Leaves) -> Vector:
        """By range of channels: the least padding of a pixel (filter), and that of all [bit]."""
        spans = zip(leaves.low.tolist(), leaves.high.tolist(), strict=True)
        return np.array([self._range(layout, span) for span in spans], np.int64)

    def _range(self, layout: Layout, span: Interval) -> tuple[int, int]:
        if (layout, span) not in self._known:
            inside = record_padding(layout, (span,), self._burst)
            rounds, left = divmod(prod(layout.grid), len(inside))
            every = rounds * int(inside.sum()) + int(inside[:left].sum())
            self._known[layout, span] = int(inside.min()), every
        return self._known[layout, span]
