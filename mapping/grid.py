"""Every tiling of a layer at once: legality and cost as arrays over candidate tile sizes.

The exact model factors into one sum per dimension, so that all combinations of tile sizes are
priced by broadcasting vectors against each other. Arrays have an axis per dimension of `DIMS`.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.candidates import Objective, candidate_sizes
from bfpsim.mapping.nest import DIMS, Tensor
from bfpsim.mapping.pe_array import passes
from bfpsim.mapping.profiles import (
    ArrayProfile,
    array_profile,
    fold_sums,
)
from bfpsim.mapping.ragged import Vector
from bfpsim.mapping.tile_bits import channel_tables, result_tables, weight_tables
from bfpsim.mapping.windows import window_profile
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads import ConvLayer

T = TypeVar("T", bound=np.generic)
_ONE = np.ones((1,) * len(DIMS), np.int64)


class Grid:
    """All combinations of candidate tile sizes of a layer as stored in DRAM.

    sizes: by dimension, ascending; see `mapping.candidates`
    input_bits, weight_bits: of the largest resident tile of I and of W
    result_bits, sum_bits: of the largest one of O as results, and as partial sums (0 where none
        leave the array); it has room for either
    """

    def __init__(
        self, layer: ConvLayer, arch: Arch, formats: LayerFormats, sizes: dict[str, Vector]
    ) -> None:
        self._layer, self._arch, self._formats, self.sizes = layer, arch, formats, sizes
        self._trips = {d: self._on(d, -(-layer.dims[d] // s)) for d, s in self.sizes.items()}
        n, g, k, c, p, q = (self.sizes[d] for d in DIMS)
        self._p, self._q = window_profile(layer, "P", p), window_profile(layer, "Q", q)
        self._pixel, pixel_largest = channel_tables(layer, g, c, formats.I)
        self._weights, weights_largest = weight_tables(layer, g, k, c, formats.W)
        result_largest, self._whole_blocks = result_tables(layer, g, k, formats.O)
        rows, cols = self._on("P", self._p.largest), self._on("Q", self._q.largest)
        self.input_bits = self._on("N", n) * rows * cols * _gc(pixel_largest)
        self.weight_bits = weights_largest[None, :, :, :, None, None]
        leave = (self._trips["C"] > 1) | (
            self._on("C", fold_sums(layer, arch.pe_array, c).largest) > 1
        )
        sums = self._on("G", g) * self._on("K", k) * arch.pe_array.accumulator_bits
        pixels = self._on("N", n) * self._on("P", p) * self._on("Q", q)
        self.sum_bits: Vector = pixels * np.where(leave, sums, 0)
        self.result_bits: Vector = pixels * _gk(result_largest)

    @classmethod
    def of(
        cls, layer: ConvLayer, arch: Arch, formats: LayerFormats, objective: Objective = "dram"
    ) -> Grid:
        """The grid of all sizes that can be part of a best mapping for an objective."""
        return cls(layer, arch, formats, candidate_sizes(layer, arch, [formats], objective))

    @property
    def steps(self) -> Vector:
        """Tile steps of each combination."""
        return prod(self._trips.values(), start=_ONE)

    def tile(self, at: Vector) -> tuple[int, ...]:
        """Tile sizes at a place in the grid, in the order of `DIMS`."""
        return tuple(int(self.sizes[d][i]) for d, i in zip(DIMS, at, strict=True))

    def legal(self) -> NDArray[np.bool_]:
        """Which combinations fit the buffers and keep O's blocks whole."""
        arch = self._arch
        if arch.shared:
            fits = self.resident_bits <= arch.usable_bits("I")
        else:
            fits = (
                (self.input_bits <= arch.usable_bits("I"))
                & (self.weight_bits <= arch.usable_bits("W"))
                & (self.output_bits <= arch.usable_bits("O"))
            )
        legal: NDArray[np.bool_] = fits & self.whole_blocks
        return legal

    @property
    def output_bits(self) -> Vector:
        """Of the largest resident tile of O."""
        return np.maximum(self.result_bits, self.sum_bits)

    @property
    def resident_bits(self) -> Vector:
        """What the resident tiles of all three tensors take together."""
        return self.input_bits + self.weight_bits + self.output_bits

    @property
    def whole_blocks(self) -> NDArray[np.bool_]:
        """Which combinations keep O's blocks whole."""
        return _gk(self._whole_blocks)

    def shortage(self) -> str:
        """Why nothing is legal: the smallest need against what there is."""
        arch, name = self._arch, self._layer.name
        whole = self.whole_blocks
        infinite = np.iinfo(np.int64).max
        if arch.shared:
            least = int(np.where(whole, self.resident_bits, infinite).min())
            usable = arch.usable_bits("I")
            return (
                f"{name}: no mapping fits {arch.name}: the shared SRAM has {usable} usable bit, "
                f"{least - usable} too few; allowed: at least {least} bit"
            )
        needs: dict[Tensor, int] = {
            "I": int(np.where(whole, self.input_bits, infinite).min()),
            "W": int(np.where(whole, self.weight_bits, infinite).min()),
            "O": int(np.where(whole, self.output_bits, infinite).min()),
        }
        short = [
            f"the buffer of {tensor} has {arch.usable_bits(tensor)} usable bit, "
            f"{need - arch.usable_bits(tensor)} too few; allowed: at least {need} bit"
            for tensor, need in needs.items()
            if need > arch.usable_bits(tensor)
        ]
        return f"{name}: no mapping fits {arch.name}: " + (
            "; ".join(short) or "each buffer holds some tile, but never all three at once"
        )

    # --- DRAM ------------------------------------------------------------------------------------

    def dram_bits(self, order: str) -> Vector:
        """DRAM payload of every combination under a loop order, as the exact model counts it."""
        by_tensor = self.dram_bits_by_tensor(order)
        return by_tensor["I"] + by_tensor["W"] + by_tensor["O"]

    def dram_bits_by_tensor(self, order: str) -> dict[Tensor, Vector]:
        """DRAM payload of I, W and O, reads and writes together."""
        return {"I": self._input(order), "W": self._weight(order), "O": self._output(order)}

    def _weight(self, order: str) -> Vector:
        times = _ONE
        inside = np.zeros_like(_ONE, bool)  # a loop of W runs inside
        for dim in reversed(order):
            trips = self._trips[dim]
            if dim in "GKC":
                inside = inside | (trips > 1)
            else:
                times = times * np.where(inside, trips, 1)
        moved: Vector = times * self._weights[None, :, :, :, None, None]
        return moved

    def _spills(self, order: str) -> Vector:
        """Times the partial sums leave and come back: visits of an O tile, but for the last."""
        inside = order[order.index("C") + 1 :]
        leaves = prod((self._trips[d] for d in inside), start=_ONE) > 1
        return np.where(leaves, self._trips["C"] - 1, 0)

    def _output(self, order: str) -> Vector:
        moved: Vector = self._spills(order) * 2 * self._sums_bits + self._result_bits
        return moved

    @property
    def _sums_bits(self) -> int:
        """All outputs once as partial sums."""
        return prod(self._layer.output_shape) * self._arch.pe_array.accumulator_bits

    @property
    def _result_bits(self) -> int:
        """All outputs once as results."""
        fmt, (n, p, q, channels) = self._formats.O, self._layer.output_shape
        pixel = channels * fmt.mantissa_bits
        if isinstance(fmt, BFP):
            pixel += -(-channels // fmt.block_size) * fmt.exponent_bits
        return n * p * q * pixel

    def _input(self, order: str) -> Vector:
        """`mapping.dram_model` sums over kinds of step; here each sum is a vector over sizes."""
        total = self._boxes({})
        for position, advancing in enumerate(order):
            state: dict[str, str] = dict.fromkeys(order[:position], "every")
            state[advancing] = "rest"
            wrapping = order[position + 1 :]
            times = _ONE
            if "K" in state:
                times = self._trips["K"] - (advancing == "K")
            moved = self._boxes(state) - self._unmoved(state, advancing, wrapping)
            if advancing in "PQ" and self._arch.dma.halo == "sliding":
                alone = np.ones_like(_ONE, bool)  # no loop of I runs inside
                for dim in wrapping:
                    if dim != "K":
                        alone = alone & (self._trips[dim] == 1)
                moved = np.where(alone, self._boxes(state | {advancing: "fresh"}), moved)
            total = total + times * moved
        return total

    def _boxes(self, state: dict[str, str]) -> Vector:
        """Bits of the boxes at which every dimension is in its state ("first" if not named)."""
        rows = self._on("P", self._p.of(state.get("P", "first")))
        cols = self._on("Q", self._q.of(state.get("Q", "first")))
        return self._batch(state) * self._channel_bits(state) * rows * cols

    def _unmoved(self, state: dict[str, str], advancing: str, wrapping: str) -> Vector:
        """The part of those boxes that clipping makes equal to the box before."""
        if advancing in "NGC":
            return np.zeros_like(_ONE)
        still = np.ones_like(_ONE, bool)
        for dim in wrapping:
            if dim in "NGC":
                still = still & (self._trips[dim] == 1)
        lengths = []
        for dim, profile in (("P", self._p), ("Q", self._q)):
            if dim == advancing:
                length = profile.same
            elif dim in wrapping:
                length = np.where(profile.trips == 1, profile.first, profile.wrapped)
            else:
                length = profile.every
            lengths.append(self._on(dim, length))
        return still * self._batch(state) * self._channel_bits(state) * lengths[0] * lengths[1]

    def _batch(self, state: dict[str, str]) -> Vector:
        sizes, extent = self.sizes["N"], self._layer.N
        first = np.minimum(sizes, extent)
        lengths = {"every": np.full_like(sizes, extent), "first": first, "rest": extent - first}
        return self._on("N", lengths[state.get("N", "first")])

    def _channel_bits(self, state: dict[str, str]) -> Vector:
        return _gc(self._pixel[state.get("G", "first"), state.get("C", "first")])

    # --- SRAM and PE array -----------------------------------------------------------------------

    def sram_bits_by_tensor(self, order: str) -> dict[Tensor, Vector]:
        """SRAM traffic of every combination under a loop order, as the exact model counts it."""
        array = self._array
        dram = self.dram_bits_by_tensor(order)
        inputs = _gc(array.input_bits) * self._on("K", array.input_repeats)
        weights = array.weight_bits[None, :, :, :, None, None] * self._npq(array.weight_repeats)
        # Each fold's sums leave and come back, but for the last, which leave as results.
        sums = (self._on("C", array.folds.every) - 1) * 2 * self._sums_bits
        return {
            "I": dram["I"] + inputs,
            "W": dram["W"] + weights,
            "O": dram["O"] + sums + self._result_bits,
        }

    @cached_property
    def _array(self) -> ArrayProfile:
        return array_profile(self._layer, self._arch.pe_array, self._formats, self.sizes)

    @property
    def compute_cycles(self) -> Vector:
        """Cycles the PE array is busy."""
        cycles = self._on("G", self._array.cycles["G"]) * self._on("K", self._array.cycles["K"])
        cycles = cycles * self._on("C", self._array.cycles["C"])
        cycles = cycles * self._npq(self._array.pixel_cycles)
        moved: Vector = cycles * passes(self._arch.pe_array, self._formats)
        return moved

    def _on(self, dim: str, values: Vector) -> Vector:
        """A vector over the tile sizes of `dim`, on its axis."""
        shape = [1] * len(DIMS)
        shape[DIMS.index(dim)] = -1
        return values.reshape(shape)

    def _npq(self, table: Vector) -> Vector:
        """An (N, P, Q) table on the axes of the grid."""
        return table[:, None, None, None, :, :]


def _gc(table: NDArray[T]) -> NDArray[T]:
    """A (G, C) table on the axes of the grid."""
    return table[None, :, None, :, None, None]


def _gk(table: NDArray[T]) -> NDArray[T]:
    """A (G, K) table on the axes of the grid."""
    return table[None, :, :, None, None, None]
