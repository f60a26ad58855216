"""All tile sizes of one boundary inside SRAM at once, under given loops outside it.

As in `mapping.closed.grid` for the outermost boundary, the exact tables are broadcast against each
other. Arrays have an axis per dimension of `EVERY_DIM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, reduce
from itertools import product
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.array import (
    ArrayProfile,
    Cuts,
    Factors,
    array_profile,
    busy_cycles,
    fold_sums,
    input_reads,
    weight_reads,
)
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.movement import Axis, Repeats, coincidences, moved
from bfpsim.mapping.closed.registers import RegisterTiles
from bfpsim.mapping.nest import EVERY_DIM, Nest, Tensor
from bfpsim.quant.formats import LayerFormats

Sizes = Mapping[str, Vector]
"""Tile sizes by dimension of `EVERY_DIM`, ascending."""


class LevelGrid:
    """All combinations of tile sizes at a boundary.

    outside: the nest of the boundary outside
    sizes: by dimension, none larger than the tile outside
    """

    def __init__(self, outside: Nest, arch: Arch, formats: LayerFormats, sizes: Sizes) -> None:
        self._outside, self._arch, self._formats = outside, arch, formats
        self.sizes = sizes
        self.layer = outside.layer
        self._known_axes: dict[Tensor, list[Axis[Any]]] = {}
        self._leaves = {
            dim: Leaves.of_sizes(extent, sizes[dim], outside.cuts(dim))
            for dim, extent in outside.extents.items()
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Tile sizes per dimension."""
        return tuple(len(self.sizes[dim]) for dim in EVERY_DIM)

    def tile(self, place: tuple[int, ...]) -> dict[str, int]:
        """The tile sizes at a place of the arrays, those that cut the tile outside."""
        sizes = {dim: int(self.sizes[dim][i]) for dim, i in zip(EVERY_DIM, place, strict=True)}
        return {dim: size for dim, size in sizes.items() if size < self._outside.tile[dim]}

    # --- movement between the holder outside and the level ----------------------------------------

    def fetched(self, tensor: Tensor, order: str) -> Any:
        """What the level takes in of I or W, the boundary's loops in some order [bit]."""
        loops, axes = self._outside.order + order, self._axes(tensor)
        bits = moved(loops, axes, self._idle[tensor])
        spared = coincidences(loops, axes, self._idle[tensor]) if tensor == "I" else None
        return bits if spared is None else bits - spared

    def written(self, tensor: Tensor, order: str) -> Any:
        """What of I or W is written there [bit]."""
        return self.fetched(tensor, order)

    def summed(self, order: str) -> Any:
        """Sums of O that the level lets go of, if it is the accumulators'."""
        return self.visited(order)

    def visited(self, order: str) -> Any:
        """Elements of O over all visits of its tiles, the boundary's loops in some order."""
        return moved(self._outside.order + order, self._axes("O"), self._idle["O"])

    def held(self, tensor: Tensor, sums: bool) -> Any:
        """What the largest tile takes [bit]. sums: of O: as sums, not in its format."""
        cell = exact.Cell.of(self._formats.of(tensor))
        if sums:
            cell = exact.Cell(self._arch.pe_array.accumulator_bits, 0, 1)
        sizes = exact.tile_sizes(tensor, self.layer, self._leaves, cell)
        return _product(
            on_axes(dims, exact.largest(dims, self._leaves, of)) for dims, of in sizes.items()
        )

    @cached_property
    def whole_blocks(self) -> NDArray[np.bool_]:
        """Whether tiles of O end on blocks."""
        block = self._formats.O.block_size
        groups, filters = (self._leaves[dim] for dim in "GK")
        per_group, channels = self.layer.K, self.layer.G * self.layer.K
        low = np.arange(self.layer.G)[:, None] * per_group + filters.low
        high = low + filters.lengths
        cut = (low % block > 0) | ((high % block > 0) & (high != channels))
        inside = filters.largest(cut.any(axis=0).astype(np.int64)) == 0
        edges = groups.high * per_group
        between = groups.largest(((edges % block > 0) & (edges != channels)).astype(np.int64)) == 0
        whole = self.sizes["K"] == per_group
        return np.asarray(
            on_axes("GK", np.where(whole[None, :], between[:, None], inside[None, :]))
        )

    # --- between the level and the array ----------------------------------------------------------

    @cached_property
    def array_reads(self) -> dict[Tensor, Any]:
        """What the array reads of I and W, if the tiles are its own [bit]."""
        layer, array, formats = self.layer, self._arch.pe_array, self._formats
        g, k, c, r, s = (self._cuts(dim) for dim in "GKCRS")
        taps = list(product(r, s))
        inputs = np.stack(
            [input_reads(layer, array, formats.I, g, c, tap).bits(formats.I) for tap in taps], -1
        )
        weights = np.stack(
            [weight_reads(layer, array, formats.W, g, k, c, tap).bits(formats.W) for tap in taps],
            -1,
        )
        inputs = inputs.reshape(*inputs.shape[:-1], len(r), len(s))
        weights = weights.reshape(*weights.shape[:-1], len(r), len(s))
        return {
            "I": on_axes("GCRS", inputs) * _lifted(self._profile.input_passes),
            "W": on_axes("GKCRS", weights) * _lifted(self._profile.weight_passes),
        }

    @cached_property
    def contributions(self) -> Any:
        """Contributions to an output that leave the array apart, over all tiles."""
        sizes = [self.sizes[dim] for dim in "RS"]
        table = np.zeros((len(self.sizes["C"]), *(len(own) for own in sizes)), np.int64)
        for i, j in np.ndindex(table.shape[1:]):
            taps = {
                dim: Leaves.nested(self._outside.extents[dim], self._cuts(dim)[at])
                for dim, at in (("R", i), ("S", j))
            }
            folds = fold_sums(self.layer, self._arch.pe_array, self._leaves | taps)
            table[:, i, j] = folds.every
        return on_axes("CRS", table)

    @cached_property
    def busy_cycles(self) -> Any:
        """Cycles that the array computes, filling and draining included."""
        array = self._arch.pe_array
        busy = busy_cycles(self.layer, array, self._leaves, passes(array, self._formats))
        cycles = _lifted(busy.loads)
        return cycles + _lifted(busy.tiles) * busy.fill if busy.fill else cycles

    @cached_property
    def tiles(self) -> Any:
        """How many tiles there are over the whole layer."""
        return _product(on_axes(d, self._leaves[d].rounds(-1)) for d in EVERY_DIM)

    def _cuts(self, dim: str) -> list[Cuts]:
        return [(*self._outside.cuts(dim), size) for size in self.sizes[dim].tolist()]

    @cached_property
    def _profile(self) -> ArrayProfile:
        return array_profile(self.layer, self._arch.pe_array, self._leaves)

    def _axes(self, tensor: Tensor) -> list[Axis[Any]]:
        if tensor not in self._known_axes:
            cell = exact.ELEMENTS if tensor == "O" else exact.Cell.of(self._formats.of(tensor))
            axes = exact.axes_of(tensor, self.layer, self._leaves, cell, on_axes)
            if tensor == "I":
                sliding = self._arch.dma.halo == "sliding"
                axes += exact.window_axes(self.layer, self._leaves, sliding, on_axes)
            self._known_axes[tensor] = axes
        return self._known_axes[tensor]

    @cached_property
    def _idle(self) -> dict[Tensor, dict[str, Repeats[Any]]]:
        return {
            tensor: {d: exact.repeats(d, self._leaves[d], on_axes) for d in dims}
            for tensor, dims in exact.IDLE.items()
        }


class RegisterGrid(LevelGrid):
    """All combinations of tile sizes at the registers; their tiles are those of the whole array."""

    def fetched(self, tensor: Tensor, order: str) -> Any:
        """What comes from outside of I or W, once for all PEs [bit]."""
        cell = exact.Cell.of(self._formats.of(tensor))
        return self._registers.fetched(tensor, self._outside.order + order, cell)

    def written(self, tensor: Tensor, order: str) -> Any:
        """What of I or W is written in all PEs [bit]."""
        return self._copied(tensor, order, code=False) + self.codes(tensor, order)

    def codes(self, tensor: Tensor, order: str) -> Any:
        """Of that, the exponents: each is read once [bit]."""
        return self._copied(tensor, order, code=True)

    def summed(self, order: str) -> Any:
        """Sums of O that PEs let go of, each their own."""
        return self._registers.summed(self._outside.order + order)

    def held(self, tensor: Tensor, sums: bool) -> Any:
        """What the fullest PE holds of the largest tile [bit]."""
        return self._registers.share(tensor)

    @property
    def inputs(self) -> int:
        """Multiply-accumulates that read an input: all but those of padding."""
        return self._registers.inputs

    def _copied(self, tensor: Tensor, order: str, code: bool) -> Any:
        fmt = self._formats.of(tensor)
        width = fmt.exponent_bits if code else fmt.mantissa_bits
        if not width:
            return 0
        return self._registers.written(tensor, self._outside.order + order, code) * width

    @cached_property
    def _registers(self) -> RegisterTiles:
        return RegisterTiles(self.layer, self._arch, self._formats, self._leaves, on_axes)


def on_axes(dims: str, table: NDArray[Any]) -> Any:
    """A table over the sizes of some dimensions, in the order of `EVERY_DIM`, on its axes."""
    shape = [1] * len(EVERY_DIM)
    for dim, length in zip(dims, table.shape, strict=True):
        shape[EVERY_DIM.index(dim)] = length
    # Axes of windows come as (P, R) and (Q, S), which are in order, too.
    return table.reshape(shape)


def _lifted(factors: Factors) -> Any:
    return _product(on_axes(dims, table) for dims, table in factors)


def _product(factors: Any) -> Any:
    return reduce(mul, factors)
