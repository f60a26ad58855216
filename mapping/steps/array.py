"""What one tile costs in the PE array: cycles, and bits exchanged with the innermost memory.

- A stationary operand is read once per fold. A streaming one is read every cycle; an axis that it
  does not depend on broadcasts it.
- An input element is read as im2col arrays read it, once per filter position that uses it. Padding
  is made in the array, not read.
- A block's exponent is read with its mantissas: once per fold that uses it, per pass over them.
- Output stationary: a tile's sums stay in the array and leave it once. Otherwise they leave after
  every fold of the reduction (C, R, S, whether unrolled or in time), and come back for the next.
- Sums leave at `accumulator_bits`, the finished ones in the format of O.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import PEArray
from bfpsim.mapping.array import (
    STATIONARY,
    Lanes,
    Sizes,
    computing_cycles,
    in_time,
    lanes_of,
    reduction_folds,
)
from bfpsim.mapping.nest import EVERY_DIM, RELEVANT, Tensor
from bfpsim.mapping.steps.tiles import channel_intervals
from bfpsim.mapping.window import Interval, Window
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer


class Tile(NamedTuple):
    """The ranges of every dimension that one step computes."""

    N: Interval
    G: Interval
    K: Interval
    C: Interval
    P: Interval
    Q: Interval
    R: Interval
    S: Interval

    @property
    def sizes(self) -> Sizes:
        """Its extents."""
        return {dim: high - low for dim, (low, high) in zip(EVERY_DIM, self, strict=True)}


class ArrayTraffic(NamedTuple):
    """What a tile costs: cycles, bits of I and W read, and outputs with their folds.

    steady: cycles that lanes multiply; cycles: those and what filling and draining adds
    """

    steady: int
    cycles: int
    input_mantissa: int
    input_exponent: int
    weight_mantissa: int
    weight_exponent: int
    output_elements: int
    reduction_folds: int


def array_traffic(
    layer: ConvLayer, tile: Tile, array: PEArray, formats: LayerFormats
) -> ArrayTraffic:
    """Cycles and operand bits of one tile. See the module's text for the rules."""
    sizes, timed = tile.sizes, in_time(array)
    lanes = lanes_of(array, layer.dims)

    def repeats(tensor: Tensor) -> int:
        """How often the array goes through the tensor's tile."""
        depends = RELEVANT[tensor]
        broadcast = prod(own.folds(sizes) for own in lanes if own.dim[0] not in depends)
        if STATIONARY[array.stationary] == tensor:
            return broadcast
        return broadcast * prod(sizes[d] for d in timed if d not in depends)

    # Per filter row (column), the outputs that read a stored element with it.
    rows = Window.of(layer, "P").uses(tile.P)[slice(*tile.R)]
    cols = Window.of(layer, "Q").uses(tile.Q)[slice(*tile.S)]
    images = repeats("I") * sizes["N"]
    codes = sum(
        code * rows[r] * cols[s]
        for r, line in enumerate(input_codes(layer, tile, array, formats.I))
        for s, code in enumerate(line)
    )
    channels = sizes["G"] * sizes["C"]
    weights = channels * sizes["K"] * sizes["R"] * sizes["S"]
    weight_reads = weight_codes(layer, tile, array, formats.W)
    cycles = tile_cycles(layer, tile, array, formats)
    return ArrayTraffic(
        *cycles,
        input_mantissa=images * channels * sum(rows) * sum(cols) * formats.I.mantissa_bits,
        input_exponent=images * codes * formats.I.exponent_bits,
        weight_mantissa=repeats("W") * weights * formats.W.mantissa_bits,
        weight_exponent=repeats("W") * weight_reads * formats.W.exponent_bits,
        output_elements=prod(sizes[d] for d in RELEVANT["O"]),
        reduction_folds=reduction_folds(array, sizes, layer.dims),
    )


class TileCycles(NamedTuple):
    """Cycles of a tile: that lanes multiply, and with what filling and draining adds."""

    steady: int
    cycles: int


def tile_cycles(layer: ConvLayer, tile: Tile, array: PEArray, formats: LayerFormats) -> TileCycles:
    """Cycles of one tile."""
    steady, cycles = computing_cycles(array, formats, layer.dims, tile.sizes)
    return TileCycles(steady, int(cycles))


def input_codes(
    layer: ConvLayer, tile: Tile, array: PEArray, fmt: Format
) -> Sequence[Sequence[int]]:
    """Exponent reads per im2col pixel, for each filter position (r, s): folds x blocks used."""
    R, S = (high - low for low, high in (tile.R, tile.S))
    if not fmt.exponent_bits:
        return [[0] * S] * R
    lanes = lanes_of(array, layer.dims)
    if not any(set(own.dim) & {"G", "C"} for own in lanes):
        blocks = touched(channel_intervals(tile.G, tile.C, layer.C), fmt.block_size)
        return [[blocks] * S] * R
    groups = _phase(tile.G, layer.C, fmt.block_size)
    return _input_code_folds(groups, tile.C, layer.C, R, S, fmt.block_size, lanes)


def _phase(groups: Interval, per_group: int, block: int) -> Interval:
    """The groups moved down by whole blocks: equal cuts give equal keys."""
    period = block // gcd(block, per_group)  # groups after which cuts repeat
    down = groups[0] // period * period
    return groups[0] - down, groups[1] - down


@lru_cache(maxsize=4096)
def _input_code_folds(
    groups: Interval, c: Interval, per_group: int, R: int, S: int, block: int,
    lanes: tuple[Lanes, ...],
) -> tuple[tuple[int, ...], ...]:  # fmt: skip
    grid = np.meshgrid(np.arange(*groups), np.arange(*c), np.arange(R), np.arange(S), indexing="ij")
    index = dict(zip("GCRS", (grid[0] - groups[0], grid[1] - c[0], grid[2], grid[3]), strict=True))
    sizes = {"G": groups[1] - groups[0], "C": c[1] - c[0], "R": R, "S": S}
    block_of = (grid[0] * per_group + grid[1]) // block
    fold = _fold_ids(lanes, index, sizes)
    per_tap = (block_of * (int(fold.max()) + 1) + fold).reshape(-1, R, S)
    return tuple(tuple(len(np.unique(per_tap[:, r, s])) for s in range(S)) for r in range(R))


def weight_codes(layer: ConvLayer, tile: Tile, array: PEArray, fmt: Format) -> int:
    """Exponent reads for one pass over the tile's weights: folds x blocks used."""
    if not fmt.exponent_bits:
        return 0
    lanes = lanes_of(array, layer.dims)
    R, S = (high - low for low, high in (tile.R, tile.S))
    if layer.C == 1:  # blocks of filters
        groups = _phase(tile.G, layer.K, fmt.block_size)
        return _depthwise_code_folds(
            groups, tile.K, layer.K, R, S, fmt.block_size, fmt.spans_taps, lanes
        )
    filters = (tile.G[1] - tile.G[0]) * (tile.K[1] - tile.K[0])
    return filters * _filter_code_folds(tile.C, R, S, fmt.block_size, fmt.spans_taps, lanes)


@lru_cache(maxsize=4096)
def _filter_code_folds(
    c: Interval, R: int, S: int, block: int, spans_taps: bool, lanes: tuple[Lanes, ...]
) -> int:
    """Folds x blocks of one filter; the folds of K and G hold it once."""
    cc, r, s = np.meshgrid(np.arange(*c), np.arange(R), np.arange(S), indexing="ij")
    index = {"C": cc - c[0], "R": r, "S": s}
    fold = _fold_ids(lanes, index, {"C": c[1] - c[0], "R": R, "S": S})
    return _pairs(cc // block if spans_taps else (cc // block * R + r) * S + s, fold)


@lru_cache(maxsize=4096)
def _depthwise_code_folds(
    groups: Interval, k: Interval, per_group: int, R: int, S: int, block: int, spans_taps: bool,
    lanes: tuple[Lanes, ...],
) -> int:  # fmt: skip
    g, kk, r, s = np.meshgrid(
        np.arange(*groups), np.arange(*k), np.arange(R), np.arange(S), indexing="ij"
    )
    zero = np.zeros_like(g)
    index = {"G": g - groups[0], "K": kk - k[0], "C": zero, "R": r, "S": s}
    sizes = {"G": groups[1] - groups[0], "K": k[1] - k[0], "C": 1, "R": R, "S": S}
    blocks = (g * per_group + kk) // block
    if not spans_taps:
        blocks = (blocks * R + r) * S + s
    return _pairs(blocks, _fold_ids(lanes, index, sizes))


def _pairs(block: NDArray[np.int64], fold: NDArray[np.int64]) -> int:
    """Distinct (block, fold) pairs."""
    return len(np.unique(block * (int(fold.max()) + 1) + fold))


def _fold_ids(
    lanes: tuple[Lanes, ...], index: dict[str, NDArray[np.int64]], sizes: Sizes
) -> NDArray[np.int64]:
    """A number per fold of the axes over the given dimensions; other axes count as one fold."""
    fold = np.zeros(1, np.int64)
    for own in lanes:
        if own.dim[0] in index:
            lane = np.zeros(1, np.int64)
            for dim in own.dim:  # first letter outermost, as in an im2col matrix
                lane = lane * sizes[dim] + index[dim]
            fold = fold * own.folds(sizes) + lane // own.size
    return fold
