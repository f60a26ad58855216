"""The plain exhaustive mapper: every tiling of a layer priced by the exact model at once."""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from arch import Arch
from mapping.bursts import input_padding, result_padding, sums_padding, weight_padding
from mapping.dram_model import refetches, stored
from mapping.nest import DIMS, RELEVANT, Mapping, MappingError, Nest, Tensor, make_nest
from mapping.pe_array import reduction_folds
from mapping.profiles import (
    Vector,
    WindowProfile,
    channel_sizes,
    channel_tables,
    result_tables,
    simple_sizes,
    weight_tables,
    window_profile,
)
from quant.formats import BFP, LayerFormats
from workloads import ConvLayer

T = TypeVar("T", bound=np.generic)

ORDERS = ("GKNPQC", "GNCQPK", "GNCPQK", "GKCNQP", "GKCNPQ")
"""One loop order per way of reusing tiles; every other order moves at least as much.

The innermost loop decides what stays: C keeps O until it is finished; K keeps I, and the loop
outside it may slide; P or Q keep W, and slide I. In the last case N, P and Q all stand inside the
loops of W, so W moves once. The place of every other loop changes nothing.
"""


Model = Literal["exact", "full"]


def find_mapping(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, model: Model = "exact"
) -> Mapping:
    """The legal mapping with the least DRAM traffic.

    model: "exact" counts payload; "full" counts whole bursts too, which is what the simulator
        counts. Both are proven over all candidates: with "full", candidates are tried in the
        order of their payload until payload alone exceeds the best total.

    Ties: fewest tile steps, then the order's place in `ORDERS`, then the largest tiles.
    Raises MappingError if no mapping is legal: which buffer is short, and by how many bits.
    """
    kept = stored(layer, arch)
    grid = _Grid(kept, arch, formats)
    legal = grid.legal()
    if not legal.any():
        raise MappingError(grid.shortage())
    payload = np.concatenate([grid.dram_bits(order)[legal] for order in ORDERS])
    steps = np.broadcast_to(grid.steps, legal.shape)[legal]
    places = np.argwhere(legal)
    # Grid places run from small to large tiles, so the negated place prefers large ones.
    place = np.tile(np.arange(len(places)), len(ORDERS))
    rank = np.repeat(np.arange(len(ORDERS)), len(places))
    preference = np.lexsort((-place, rank, steps[place], payload))

    def candidate(index: int) -> Mapping:
        sizes = dict(zip(DIMS, grid.tile(places[place[index]]), strict=True))
        order = ORDERS[rank[index]]
        tile = {d: size for d, size in sizes.items() if size < kept.dims[d]}
        return Mapping("".join(d for d in order if d in tile), tile)

    if model == "exact" or arch.dram.burst == 1:
        return candidate(int(preference[0]))
    paddings = _Paddings(arch, formats)
    best, least = candidate(int(preference[0])), None
    for index in preference:
        bits = int(payload[index])
        if least is not None and bits >= least:
            break
        mapping = candidate(int(index))
        total = bits + paddings.of(make_nest(kept, mapping), least and least - bits)
        if least is None or total < least:
            best, least = mapping, total
    return best


class _Paddings:
    """Burst padding of nests, each tensor's part remembered by the tiles that decide it."""

    def __init__(self, arch: Arch, formats: LayerFormats) -> None:
        self._arch, self._formats = arch, formats
        self._known: dict[object, int] = {}

    def of(self, nest: Nest, limit: int | None) -> int:
        """Padding of all transfers [bit]; may stop counting above `limit`."""
        burst, formats = self._arch.dram.burst, self._formats
        accumulator_bits, halo = self._arch.pe_array.accumulator_bits, self._arch.dma.halo
        spills = 2 * (refetches(nest, "O") - 1)
        parts: tuple[tuple[object, int, Callable[[], int]], ...] = (
            (_tiles(nest, "W"), refetches(nest, "W"),
             lambda: weight_padding(nest, formats.W, burst)),
            (("O", _tiles(nest, "O")), 1,
             lambda: result_padding(nest, formats.O, burst)),
            (("sums", _tiles(nest, "O")), spills,
             lambda: sums_padding(nest, accumulator_bits, burst)),
            (("I", nest.loops, _tiles(nest, "I")), 1,
             lambda: input_padding(nest, formats.I, burst, halo)),
        )  # fmt: skip
        total = 0
        for key, times, count in parts:
            if times and (limit is None or total < limit):
                if key not in self._known:
                    self._known[key] = count()
                total += times * self._known[key]
        return total


def _tiles(nest: Nest, tensor: Tensor) -> tuple[int, ...]:
    return tuple(nest.tile[dim] for dim in RELEVANT[tensor])


class _Grid:
    """All combinations of candidate tile sizes; arrays have an axis per dimension of `DIMS`."""

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        block_i, block_w, block_o = (
            (fmt.block_size,) if isinstance(fmt, BFP) else ()
            for fmt in (formats.I, formats.W, formats.O)
        )
        self._p, self._q = _window(layer, "P"), _window(layer, "Q")
        filter_blocks = block_o + (block_w if layer.C == 1 else ())
        groups = sorted(
            set(channel_sizes(layer.G, filter_blocks, layer.K).tolist())
            | set(channel_sizes(layer.G, block_i, layer.C).tolist())
        )
        self._sizes: dict[str, Vector] = {
            "N": simple_sizes(layer.N),
            "G": np.array(groups),
            "K": channel_sizes(layer.K, filter_blocks),
            "C": channel_sizes(layer.C, block_i + block_w),
            "P": self._p.sizes,
            "Q": self._q.sizes,
        }
        self._trips = {d: self._on(d, -(-layer.dims[d] // s)) for d, s in self._sizes.items()}
        g, k, c = self._sizes["G"], self._sizes["K"], self._sizes["C"]
        self._pixel, pixel_largest = channel_tables(layer, g, c, formats.I)
        self._weights, weights_largest = weight_tables(layer, g, k, c, formats.W)
        result_largest, self._whole_blocks = result_tables(layer, g, k, formats.O)
        n, p, q = (self._on(d, self._sizes[d]) for d in "NPQ")
        rows, cols = self._on("P", self._p.largest), self._on("Q", self._q.largest)
        self.input_bits = n * rows * cols * _gc(pixel_largest)
        self.weight_bits = weights_largest[None, :, :, :, None, None]
        folds = [reduction_folds(arch.pe_array, self._tile_sizes(int(size))) for size in c]
        unfinished = (self._trips["C"] > 1) | (self._on("C", np.array(folds)) > 1)
        sums = self._on("G", g) * self._on("K", k) * arch.pe_array.accumulator_bits
        results = _gk(result_largest)
        self.output_bits = n * p * q * np.where(unfinished, np.maximum(sums, results), results)

    @property
    def steps(self) -> Vector:
        """Tile steps of each combination."""
        return prod(self._trips.values(), start=np.ones((1,) * 6, np.int64))

    def tile(self, at: Vector) -> tuple[int, ...]:
        """Tile sizes at a place in the grid, in the order of `DIMS`."""
        return tuple(int(self._sizes[d][i]) for d, i in zip(DIMS, at, strict=True))

    def legal(self) -> NDArray[np.bool_]:
        """Which combinations fit the buffers and keep O's blocks whole."""
        arch = self._arch
        if arch.shared:
            fits = self.input_bits + self.weight_bits + self.output_bits <= arch.usable_bits("I")
        else:
            fits = (
                (self.input_bits <= arch.usable_bits("I"))
                & (self.weight_bits <= arch.usable_bits("W"))
                & (self.output_bits <= arch.usable_bits("O"))
            )
        legal: NDArray[np.bool_] = fits & _gk(self._whole_blocks)
        return legal

    def shortage(self) -> str:
        """Why nothing is legal: the smallest need against what there is."""
        arch, name = self._arch, self._layer.name
        whole = _gk(self._whole_blocks)
        infinite = np.iinfo(np.int64).max
        needs: dict[Tensor, int] = {
            "I": int(np.where(whole, self.input_bits, infinite).min()),
            "W": int(np.where(whole, self.weight_bits, infinite).min()),
            "O": int(np.where(whole, self.output_bits, infinite).min()),
        }
        if arch.shared:
            total = self.input_bits + self.weight_bits + self.output_bits
            least = int(np.where(whole, total, infinite).min())
            usable = arch.usable_bits("I")
            return (
                f"{name}: no mapping fits {arch.name}: the shared SRAM has {usable} usable bit, "
                f"{least - usable} too few; allowed: at least {least} bit"
            )
        short = [
            f"{tensor} has {arch.usable_bits(tensor)} usable bit; allowed: at least {need} bit"
            for tensor, need in needs.items()
            if need > arch.usable_bits(tensor)
        ]
        return f"{name}: no mapping fits {arch.name}: " + (
            "; ".join(short) or "each buffer holds some tile, but never all three at once"
        )

    def dram_bits(self, order: str) -> Vector:
        """DRAM payload of every combination under a loop order, as the exact model counts it."""
        return self._input(order) + self._weight(order) + self._output(order)

    def _weight(self, order: str) -> Vector:
        times = np.ones((1,) * 6, np.int64)
        inside = np.zeros((1,) * 6, bool)  # a loop of W runs inside
        for dim in reversed(order):
            trips = self._trips[dim]
            if dim in "GKC":
                inside = inside | (trips > 1)
            else:
                times = times * np.where(inside, trips, 1)
        moved: Vector = times * self._weights[None, :, :, :, None, None]
        return moved

    def _output(self, order: str) -> Vector:
        inside = order[order.index("C") + 1 :]
        leaves = prod((self._trips[d] for d in inside), start=np.ones((1,) * 6, np.int64)) > 1
        visits = np.where(leaves, self._trips["C"], 1)
        spilled = 2 * self._arch.pe_array.accumulator_bits * prod(self._layer.output_shape)
        fmt, (n, p, q, channels) = self._formats.O, self._layer.output_shape
        result = channels * fmt.mantissa_bits
        if isinstance(fmt, BFP):
            result += -(-channels // fmt.block_size) * fmt.exponent_bits
        moved: Vector = (visits - 1) * spilled + n * p * q * result
        return moved

    def _input(self, order: str) -> Vector:
        """`mapping.models` sums over kinds of step; here each sum is a vector over tile sizes."""
        total = self._pixels_and_channels({})
        for position, advancing in enumerate(order):
            state: dict[str, str] = dict.fromkeys(order[:position], "every")
            state[advancing] = "rest"
            wrapping = order[position + 1 :]
            times = np.ones((1,) * 6, np.int64)
            if "K" in state:
                times = self._trips["K"] - (advancing == "K")
            moved = self._pixels_and_channels(state)
            moved = moved - self._unmoved(state, advancing, wrapping)
            if advancing in "PQ" and self._arch.dma.halo == "sliding":
                alone = np.ones((1,) * 6, bool)  # no loop of I runs inside
                for dim in wrapping:
                    if dim != "K":
                        alone = alone & (self._trips[dim] == 1)
                fresh = self._pixels_and_channels(state | {advancing: "fresh"})
                moved = np.where(alone, fresh, moved)
            total = total + times * moved
        return total

    def _pixels_and_channels(self, state: dict[str, str]) -> Vector:
        """Bits of the boxes at which every dimension is in its state ("first" if not named)."""
        rows = self._on("P", getattr(self._p, state.get("P", "first")))
        cols = self._on("Q", getattr(self._q, state.get("Q", "first")))
        return self._batch(state) * self._channel_bits(state) * rows * cols

    def _unmoved(self, state: dict[str, str], advancing: str, wrapping: str) -> Vector:
        """The part of those boxes that clipping makes equal to the box before."""
        if advancing in "NGC":
            return np.zeros((1,) * 6, np.int64)
        still = np.ones((1,) * 6, bool)
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
        sizes, extent = self._sizes["N"], self._layer.N
        first = np.minimum(sizes, extent)
        lengths = {"every": np.full_like(sizes, extent), "first": first, "rest": extent - first}
        return self._on("N", lengths[state.get("N", "first")])

    def _channel_bits(self, state: dict[str, str]) -> Vector:
        return _gc(self._pixel[state.get("G", "first"), state.get("C", "first")])

    def _on(self, dim: str, values: Vector) -> Vector:
        """A vector over the tile sizes of `dim`, on its axis."""
        shape = [1] * 6
        shape[DIMS.index(dim)] = -1
        return values.reshape(shape)

    def _tile_sizes(self, c: int) -> dict[str, int]:
        return dict.fromkeys("NGKPQ", 1) | {"C": c, "R": self._layer.R, "S": self._layer.S}


def _gc(table: NDArray[T]) -> NDArray[T]:
    """A (G, C) table on the axes of the grid."""
    return table[None, :, None, :, None, None]


def _gk(table: NDArray[T]) -> NDArray[T]:
    """A (G, K) table on the axes of the grid."""
    return table[None, :, :, None, None, None]


@lru_cache(maxsize=256)
def _window(layer: ConvLayer, dim: str) -> WindowProfile:
    return window_profile(layer, dim)
