"""Every tiling of a layer at once: room and traffic as arrays over tile sizes.

The tables of `mapping.closed.exact` depend on one or two dimensions each, so that all combinations
of tile sizes are priced by broadcasting them against each other. Arrays have an axis per dimension
of `DIMS`. At one tiling (`Grid.of_nest`) the same is computed in Python's whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, reduce
from math import prod
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.array import (
    ArrayProfile,
    Factors,
    FoldSums,
    Reads,
    array_profile,
    busy_cycles,
    fold_sums,
    input_reads,
    one_size,
    weight_reads,
)
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.movement import Axis, Repeats, again, coincidences, moved, once
from bfpsim.mapping.nest import DIMS, EVERY_DIM, TENSORS, Nest, Tensor
from bfpsim.mapping.room import claims, fits
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.workloads import ConvLayer

Sizes = Mapping[str, Vector]
"""Tile sizes by dimension of `DIMS`, ascending."""


def leaves_of(layer: ConvLayer, sizes: Sizes) -> dict[str, Leaves]:
    """The tiles of every size of each dimension; R and S stay whole."""
    cut = {dim: Leaves.of_sizes(layer.dims[dim], sizes[dim]) for dim in DIMS}
    return cut | {"R": Leaves.nested(layer.R, ()), "S": Leaves.nested(layer.S, ())}


def on_axes(dims: str, table: NDArray[Any]) -> Any:
    """A table over the sizes of some dimensions, in the order of `DIMS`, on the grid's axes."""
    shape = [1] * len(DIMS)
    for dim, length in zip(dims, table.shape, strict=True):
        if dim in DIMS:
            shape[DIMS.index(dim)] = length
    return table.reshape(shape)


def whole_number(dims: str, table: NDArray[Any]) -> Any:
    """The one entry of a table, of any length in Python."""
    return table.item()


class Grid:
    """All combinations of tile sizes of a layer as stored, priced by the movement rules.

    sizes: by dimension, ascending
    lift: what a table becomes: an array on the grid's axes, a whole number (at one tiling), or a
        sum of products for a solver
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        sizes: Sizes,
        lift: exact.Lift[Any] = on_axes,
    ) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        self._dims = layer.dims
        self.sizes, self._lift = sizes, lift
        self._leaves = leaves_of(layer, sizes)
        self._cells = {t: exact.Cell.of(formats.of(t)) for t in TENSORS}

    @classmethod
    def of_nest(cls, nest: Nest, arch: Arch, formats: LayerFormats) -> Grid:
        """The one tiling of a nest, in whole numbers."""
        sizes = {dim: np.array([nest.tile[dim]]) for dim in DIMS}
        return cls(nest.layer, arch, formats, sizes, whole_number)

    @cached_property
    def steps(self) -> Any:
        """Tile steps of each combination."""
        return _product(self._repeats[d].rounds[-1] for d in DIMS)

    def tile(self, at: Vector) -> tuple[int, ...]:
        """Tile sizes at a place in the grid, in the order of `DIMS`."""
        return tuple(int(self.sizes[d][i]) for d, i in zip(DIMS, at, strict=True))

    # --- room ------------------------------------------------------------------------------------

    @cached_property
    def room(self) -> dict[Tensor, Any]:
        """What the largest resident tile of each tensor takes [bit].

        O takes `accumulator_bits` per element while its reduction is unfinished in the buffer, then
        its format's bits: the more of the two.
        """
        results = exact.largest("GK", self._leaves, self._pixel)
        sums = np.outer(*(self._lengths(d) for d in "GK")) * self._arch.pe_array.accumulator_bits
        wider = self._lift("GK", np.maximum(sums - results, 0))
        pixel = self._lift("GK", results) + self._lift("C", self._unfinished * 1) * wider
        outputs = _product(self._lift(d, self._lengths(d)) for d in "NPQ") * pixel
        return {"I": self._largest("I"), "W": self._largest("W"), "O": outputs}

    @property
    def _pixel(self) -> Vector:
        """Bits of a pixel of O in the tiles of G and K."""
        return exact.tile_sizes("O", self._layer, self._leaves, self._cells["O"])["GK"]

    @property
    def _unfinished(self) -> NDArray[np.bool_]:
        """Whether unfinished sums lie in the buffer of O, by sizes of C.

        They do when C is cut into tiles, or when the array's sums leave it between folds, unless
        accumulators take these.
        """
        cut = self.sizes["C"] < self._layer.C
        return cut if self._arch.accumulators is not None else cut | (self._folds.largest > 1)

    def _lengths(self, dim: str) -> Vector:
        """Of the longest tile of a dimension, by its sizes."""
        return exact.largest(dim, self._leaves, self._leaves[dim].lengths)

    @cached_property
    def result_bits(self) -> Any:
        """The largest tile of O as results [bit]."""
        return self._largest("O")

    @cached_property
    def sum_bits(self) -> Any:
        """The largest tile of O as partial sums; 0 where none lie in the buffer [bit]."""
        tile = _product(self._lift(d, self._lengths(d)) for d in "NGKPQ")
        return tile * self._lift("C", self._unfinished * self._arch.pe_array.accumulator_bits)

    def _largest(self, tensor: Tensor) -> Any:
        sizes = exact.tile_sizes(tensor, self._layer, self._leaves, self._cells[tensor])
        return _product(
            self._lift(dims, exact.largest(dims, self._leaves, of)) for dims, of in sizes.items()
        )

    @cached_property
    def whole_blocks(self) -> Any:
        """Which combinations keep O's blocks whole."""
        g, k, block = self.sizes["G"], self.sizes["K"], self._formats.O.block_size
        return self._lift("GK", exact.whole_blocks(self._layer, g, k, block))

    def legal(self, order: str = "") -> NDArray[np.bool_]:
        """Which combinations fit the buffers and keep O's blocks whole, under a loop order or any.

        With C innermost, accumulators that hold the whole tile of O keep its sums to the end.
        """
        legal: NDArray[np.bool_] = fits(self._arch, self.room_under(order)) & self.whole_blocks
        return legal

    def room_under(self, order: str) -> dict[Tensor, Any]:
        """As `room`, under a loop order: sums that accumulators keep to the end take none [bit]."""
        kept = self._kept_inside(order)
        if kept is None:
            return self.room
        return self.room | {"O": np.where(kept, self.result_bits, self.room["O"])}

    def sums_lie(self, order: str) -> Any:
        """Where unfinished sums of O lie in SRAM under a loop order."""
        lie, kept = self._lift("C", self._unfinished), self._kept_inside(order)
        return lie if kept is None else lie & ~kept

    def _kept_inside(self, order: str) -> Any:
        """Where accumulators keep the sums of an O tile to the end; None if they never do."""
        level = self._arch.accumulators
        if level is None or level.tensors != ("O",) or not order.endswith("C"):
            return None
        sums = _product(self._lift(d, self._lengths(d)) for d in "NGKPQ")
        return sums * self._arch.pe_array.accumulator_bits <= level.buffers["O"].usable_bits

    def outputs_in(self, fmt: Format) -> tuple[Any, Any]:
        """The boxes of O's tiles in a format: the largest, and all of them once [bit]."""
        sizes = exact.tile_sizes("O", self._layer, self._leaves, exact.Cell.of(fmt))
        most, every = (
            _product(self._lift(dims, each(dims, self._leaves, of)) for dims, of in sizes.items())
            for each in (exact.largest, exact.totals)
        )
        return most, every

    def shortage(self) -> str:
        """Why nothing is legal: the smallest need against what there is."""
        arch, name = self._arch, self._layer.name
        infinite = np.iinfo(np.int64).max

        def least(bits: Any) -> int:
            return int(np.where(self.whole_blocks, bits, infinite).min())

        short = [
            f"the {'shared ' + buffer if arch.shared else 'buffer of ' + buffer} has {usable} "
            f"usable bit, {least(taken) - usable} too few; allowed: at least {least(taken)} bit"
            for buffer, taken, usable in claims(arch, self.room)
            if least(taken) > usable
        ]
        return f"{name}: no mapping fits {arch.name}: " + (
            "; ".join(short) or "each buffer holds some tile, but never all three at once"
        )

    # --- between the outermost level and the next -------------------------------------------------

    def outer_bits(self, order: str) -> dict[Tensor, Any]:
        """Payload of I, W and O under a loop order, reads and writes together [bit]."""
        accumulator_bits = self._arch.pe_array.accumulator_bits
        sums = self.spilled_elements(order) * (2 * accumulator_bits)
        return {
            "I": self.fetched("I", order),
            "W": self.fetched("W", order),
            "O": sums + self.results_bits,
        }

    def fetched(self, tensor: Tensor, order: str) -> Any:
        """What is fetched of I or W under a loop order [bit]."""
        if tensor == "I":
            return self._fetched_inputs(order, self._axes["I"])
        axes = self._axes["W"]
        return once(axes) + again(self._loops(order), axes, self._idle("W"))

    def fetched_inputs(self, order: str, pixel: Vector) -> Any:
        """What is fetched of I under a loop order, given what each pixel of a tile takes.

        pixel: by the leaves of G and of C, (G, C)
        """
        own = exact.disjoint("GC", self._leaves, pixel, self._lift)
        axes = [own if axis.dims == "GC" else axis for axis in self._axes["I"]]
        return self._fetched_inputs(order, axes)

    def _fetched_inputs(self, order: str, axes: list[Axis[Any]]) -> Any:
        order, idle = self._loops(order), self._idle("I")
        bits, spared = moved(order, axes, idle), coincidences(order, axes, idle)
        return bits if spared is None else bits - spared

    def _idle(self, tensor: Tensor) -> dict[str, Repeats[Any]]:
        return {d: self._repeats[d] for d in exact.IDLE[tensor]}

    def spilled_elements(self, order: str) -> Any:
        """Sums of O that leave unfinished, and come back, under a loop order."""
        idle = {d: self._repeats[d] for d in exact.IDLE["O"]}
        return again(self._loops(order), self._axes["O"], idle)

    @property
    def results_bits(self) -> int:
        """All outputs once as results [bit]."""
        return ActivationLayout(self._layer.output_shape, self._formats.O).bits

    def buffer_pj(self, order: str) -> Any:
        """Energy of SRAM under a loop order: DMA's side, and the array's if it is next [pJ]."""
        arch, formats = self._arch, self._formats
        level, width = arch.levels[1], arch.pe_array.accumulator_bits
        read, write = level.read_pj, level.write_pj
        spilled = self.spilled_elements(order) * width
        energy = self.fetched("I", order) * write["I"] + self.fetched("W", order) * write["W"]
        energy = energy + spilled * (read["O"] + write["O"]) + self.results_bits * read["O"]
        if len(arch.levels) > 2:
            return energy
        energy = energy + (
            self._lift("GC", self.input_reads.bits(formats.I)) * self.input_passes * read["I"]
            + self._lift("GKC", self.weight_reads.bits(formats.W)) * self.weight_passes * read["W"]
        )
        sums = (self.contributions - 1) * (prod(self._layer.output_shape) * width)
        return energy + sums * (read["O"] + write["O"]) + self.results_bits * write["O"]

    def _loops(self, order: str) -> str:
        """The dimensions that can have a loop."""
        return "".join(d for d in order if self._dims[d] > 1)

    @cached_property
    def _axes(self) -> dict[Tensor, list[Axis[Any]]]:
        sliding = self._arch.dma.halo == "sliding"
        cells = self._cells | {"O": exact.ELEMENTS}
        axes = {
            t: exact.axes_of(t, self._layer, self._leaves, cells[t], self._lift) for t in TENSORS
        }
        axes["I"] += exact.window_axes(self._layer, self._leaves, sliding, self._lift)
        return axes

    @cached_property
    def _repeats(self) -> dict[str, Repeats[Any]]:
        return {d: exact.repeats(d, self._leaves[d], self._lift) for d in EVERY_DIM}

    # --- between the innermost level and the PE array ---------------------------------------------

    def inner_bits(self, outer: Mapping[Tensor, Any]) -> dict[Tensor, Any]:
        """Traffic of the innermost level by tensor, given that with the level outside [bit]."""
        formats, array = self._formats, self._arch.pe_array
        inputs = self._lift("GC", self.input_reads.bits(formats.I)) * self.input_passes
        weights = self._lift("GKC", self.weight_reads.bits(formats.W)) * self.weight_passes
        elements = prod(self._layer.output_shape)
        # Each fold's sums leave and come back, but for the last, which leave as results.
        sums = (self.contributions - 1) * (2 * elements * array.accumulator_bits)
        return {
            "I": outer["I"] + inputs,
            "W": outer["W"] + weights,
            "O": outer["O"] + sums + self.results_bits,
        }

    @cached_property
    def input_reads(self) -> Reads:
        """One pass of the array over I, by sizes of G and C."""
        g, c = (one_size(self.sizes[d]) for d in "GC")
        return input_reads(self._layer, self._arch.pe_array, self._formats.I, g, c)

    @cached_property
    def weight_reads(self) -> Reads:
        """One pass of the array over W, by sizes of G, K and C."""
        g, k, c = (one_size(self.sizes[d]) for d in "GKC")
        return weight_reads(self._layer, self._arch.pe_array, self._formats.W, g, k, c)

    @property
    def input_passes(self) -> Any:
        """Passes over I, over all tiles of K."""
        return self._lifted(self._profile.input_passes)

    @property
    def weight_passes(self) -> Any:
        """Passes over W, over all tiles of N, P and Q."""
        return self._lifted(self._profile.weight_passes)

    @property
    def contributions(self) -> Any:
        """Contributions to an output that leave the array apart, over all tiles of C."""
        return self._lift("C", self._folds.every)

    @cached_property
    def compute_cycles(self) -> Any:
        """Cycles the PE array is busy, filling and draining included."""
        array = self._arch.pe_array
        busy = busy_cycles(self._layer, array, self._leaves, passes(array, self._formats))
        cycles = self._lifted(busy.loads)
        return cycles + self._lifted(busy.tiles) * busy.fill if busy.fill else cycles

    def _lifted(self, factors: Factors) -> Any:
        return _product(self._lift(dims, table) for dims, table in factors)

    @cached_property
    def _folds(self) -> FoldSums:
        return fold_sums(self._layer, self._arch.pe_array, self._leaves)

    @cached_property
    def _profile(self) -> ArrayProfile:
        return array_profile(self._layer, self._arch.pe_array, self._leaves)


def _product(factors: Any) -> Any:
    return reduce(mul, factors)
