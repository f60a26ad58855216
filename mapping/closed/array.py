"""Reads and cycles of the PE array in closed form, over the tiles that loops make.

The rules are those of `mapping.steps.array`; here each is a sum over all tiles, in factors that
belong to one dimension or to a few. Tables have an axis per dimension, of an entry per way of
cutting it: every tile size, or the one nest that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import PEArray
from bfpsim.mapping.array import (
    STATIONARY,
    Lanes,
    in_time,
    lanes_of,
    load_cycles,
    reduction_folds,
    streamed,
    tile_fill,
)
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, RELEVANT, Tensor
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format
from bfpsim.workloads import ConvLayer

_TABLES = 32
"""Tables that are remembered: those of a layer's candidates in every block size."""

Cuts = tuple[int, ...]
"""Tile sizes of the loops over a dimension, outer to inner."""

Factors = list[tuple[str, Vector]]
"""Tables that multiply to a sum over all tiles, and the dimensions of their axes."""

AllLeaves = Mapping[str, Leaves]
"""The tiles of every dimension, R and S included."""


class FoldSums(NamedTuple):
    """Contributions to an output that leave the array apart: of all tiles, and of the largest."""

    every: Vector
    largest: Vector


def fold_sums(layer: ConvLayer, array: PEArray, leaves: AllLeaves) -> FoldSums:
    """The contributions by the cuts of C; R and S are cut in one way."""
    lengths = np.broadcast_arrays(*_lengths(REDUCTION, leaves).values())
    each = reduction_folds(array, dict(zip(REDUCTION, lengths, strict=True)), layer.dims)
    every = most = np.broadcast_to(np.asarray(each, np.int64), lengths[0].shape)
    for axis, dim in enumerate(REDUCTION):
        every, most = leaves[dim].totals(every, axis), leaves[dim].largest(most, axis)
    return FoldSums(every[:, 0, 0], most[:, 0, 0])


class Reads(NamedTuple):
    """What one pass over a tensor reads, over all tiles: elements, and codes by cuts."""

    elements: int
    codes: Vector

    def bits(self, fmt: Format) -> Vector:
        """Mantissas and codes together [bit]."""
        return self.elements * fmt.mantissa_bits + self.codes * fmt.exponent_bits


WHOLE: Cuts = ()
"""No loop over a dimension."""


def one_size(sizes: Vector) -> tuple[Cuts, ...]:
    """One loop of each tile size."""
    return tuple((size,) for size in sizes.tolist())


def input_reads(
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    groups: Sequence[Cuts],
    channels: Sequence[Cuts],
    taps: tuple[Cuts, Cuts] = (WHOLE, WHOLE),
) -> Reads:
    """One pass over I, by cuts of G and C: (G, C). taps: cuts of R and S."""
    rows, cols = _uses(layer)
    elements = layer.N * layer.G * layer.C * sum(rows) * sum(cols)
    if not fmt.exponent_bits:
        return Reads(elements, np.zeros((len(groups), len(channels)), np.int64))
    cuts = tuple(groups), tuple(channels)
    return Reads(elements, layer.N * _input_codes(layer, array, fmt.block_size, *cuts, taps))


def weight_reads(
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    groups: Sequence[Cuts],
    filters: Sequence[Cuts],
    channels: Sequence[Cuts],
    taps: tuple[Cuts, Cuts] = (WHOLE, WHOLE),
) -> Reads:
    """One pass over W, by cuts of G, K and C: (G, K, C). taps: cuts of R and S."""
    shape = (len(groups), len(filters), len(channels))
    elements = prod(layer.weight_shape)
    if not fmt.exponent_bits:
        return Reads(elements, np.zeros(shape, np.int64))
    cuts = tuple(groups), tuple(filters), tuple(channels)
    codes = _weight_codes(layer, array, fmt.block_size, fmt.spans_taps, *cuts, taps)
    return Reads(elements, np.broadcast_to(codes, shape))


@dataclass(frozen=True, slots=True, eq=False)
class ArrayProfile:
    """What the PE array does over all tiles, in factors.

    input_passes, weight_passes: over I and W, summed over the tiles of what they do not depend on
    steady: cycles that lanes multiply, in one pass
    """

    input_passes: Factors
    weight_passes: Factors
    steady: Factors


def array_profile(layer: ConvLayer, array: PEArray, leaves: AllLeaves) -> ArrayProfile:
    """The profile of the tiles of every dimension."""
    lanes, timed = lanes_of(array, layer.dims), in_time(array)

    def passes_over(tensor: Tensor) -> Factors:
        dims = "".join(d for d in EVERY_DIM if d not in RELEVANT[tensor])
        in_steps = "" if STATIONARY[array.stationary] == tensor else timed
        return _factors(dims, lanes, in_steps, leaves)

    return ArrayProfile(
        passes_over("I"),
        passes_over("W"),
        _factors(EVERY_DIM, lanes, timed, leaves),
    )


class Busy(NamedTuple):
    """Busy cycles over all tiles: those of loads, and `fill` more for each of the tiles."""

    loads: Factors
    tiles: Factors
    fill: int


def busy_cycles(layer: ConvLayer, array: PEArray, leaves: AllLeaves, passes: int) -> Busy:
    """Cycles of the array in factors, filling and draining included."""
    lanes, dims = lanes_of(array, layer.dims), streamed(array)
    holding = "".join(d for d in EVERY_DIM if d not in dims)
    loads = _factors(holding, lanes, in_time(array), leaves)
    stream = np.full((1,) * len(dims), passes)
    for own in _lengths(dims, leaves).values():
        stream = stream * own
    if array.fill == "none":  # no load waits, so that its dimensions count apart
        loads += [("", np.array(passes)), *_factors(dims, lanes, dims, leaves)]
    else:
        loads.append((dims, _summed(dims, leaves, np.asarray(load_cycles(array, stream)))))
    return Busy(loads, _factors(EVERY_DIM, (), "", leaves), tile_fill(array))


def axis_sums(layer: ConvLayer, array: PEArray, dim: str, leaves: AllLeaves) -> Vector:
    """Cycles that `dim` contributes over its tiles: folds of its axis, or steps in time.

    With C come R and S, which stay whole.
    """
    lanes = lanes_of(array, layer.dims)
    own = "CRS" if dim == "C" else dim
    product = np.ones(1, np.int64)
    for _, table in _factors(own, lanes, in_time(array), leaves):
        product = product * table.reshape(-1)
    return product


def _factors(dims: str, lanes: Sequence[Lanes], timed: str, leaves: AllLeaves) -> Factors:
    """Folds of lanes times steps in time, summed over the tiles of some dimensions.

    Dimensions that lanes unroll together make one factor, every other one its own.
    """
    factors = []
    for group in _together(dims, lanes):
        lengths = _lengths(group, leaves)
        values = np.ones((1,) * len(group), np.int64)
        for own in lanes:
            if own.dim[0] in group:
                values = values * -(-prod(lengths[d] for d in own.dim) // own.size)
        for dim in group:
            values = values * (lengths[dim] if dim in timed else lengths[dim] ** 0)
        factors.append((group, _summed(group, leaves, values)))
    return factors


def _together(dims: str, lanes: Sequence[Lanes]) -> Iterator[str]:
    """Some dimensions in groups that share lanes, in their order."""
    done = ""
    for dim in dims:
        if dim not in done:
            own = next((lane.dim for lane in lanes if dim in lane.dim), dim)
            group = "".join(d for d in dims if d in own)
            done += group
            yield group


def _lengths(dims: str, leaves: AllLeaves) -> dict[str, Vector]:
    """Of the tiles of some dimensions, on an array axis for each."""
    lengths = {}
    for axis, dim in enumerate(dims):
        shape = [1] * len(dims)
        shape[axis] = -1
        lengths[dim] = leaves[dim].lengths.reshape(shape)
    return lengths


def _summed(dims: str, leaves: AllLeaves, values: Vector) -> Vector:
    for axis, dim in enumerate(dims):
        values = leaves[dim].totals(values, axis)
    return values


def _uses(layer: ConvLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Outputs that read a stored element with each filter row, and with each column."""
    return Window.of(layer, "P").uses((0, layer.P)), Window.of(layer, "Q").uses((0, layer.Q))


# --- codes --------------------------------------------------------------------------------------
# A read is a distinct (tile, fold, block), so that all tiles of one way of cutting are counted
# together, by sorting a number for each element.

Indices = dict[str, Vector]
"""The index of every element, by dimension, on an array axis for each."""


@lru_cache(_TABLES)
def _input_codes(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    groups: tuple[Cuts, ...],
    channels: tuple[Cuts, ...],
    taps: tuple[Cuts, Cuts],
) -> Vector:
    """Codes of I read for one sample: a table (cuts of G, cuts of C)."""
    uses = np.outer(*_uses(layer)).reshape(-1)
    at = _indices(G=layer.G, C=layer.C, R=layer.R, S=layer.S)
    block = (at["G"] * layer.C + at["C"]) // block_size
    table = np.zeros((len(groups), len(channels)), np.int64)
    numbers = _reads(layer, array, at, block)
    for i, g in enumerate(groups):
        for j, c in enumerate(channels):
            reads = numbers({"G": g, "C": c, "R": taps[0], "S": taps[1]})
            # By tap: each element is read once per output that it meets there.
            table[i, j] = uses @ _distinct(reads.reshape(-1, len(uses)))
    return table


@lru_cache(_TABLES)
def _weight_codes(
    layer: ConvLayer,
    array: PEArray,
    block_size: int,
    spans_taps: bool,
    groups: tuple[Cuts, ...],
    filters: tuple[Cuts, ...],
    channels: tuple[Cuts, ...],
    taps: tuple[Cuts, Cuts],
) -> Vector:
    """Codes of W read: a table that broadcasts to (cuts of G, cuts of K, cuts of C)."""
    inside = {"R": taps[0], "S": taps[1]}
    if layer.C == 1:  # blocks of filters
        at = _indices(G=layer.G, K=layer.K, C=1, R=layer.R, S=layer.S)
        block = (at["G"] * layer.K + at["K"]) // block_size
        numbers = _reads(layer, array, at, block if spans_taps else _by_tap(block, at))
        table = np.zeros((len(groups), len(filters), 1), np.int64)
        for i, g in enumerate(groups):
            for j, k in enumerate(filters):
                table[i, j] = _distinct(numbers({"G": g, "K": k} | inside).reshape(-1, 1))
        return table
    at = _indices(C=layer.C, R=layer.R, S=layer.S)
    block = at["C"] // block_size
    numbers = _reads(layer, array, at, block if spans_taps else _by_tap(block, at))
    of_one_filter = [_distinct(numbers({"C": c} | inside).reshape(-1, 1))[0] for c in channels]
    return np.array(of_one_filter)[None, None] * layer.G * layer.K


def _by_tap(block: Vector, at: Indices) -> Vector:
    """Numbers of blocks that lie at one tap."""
    number: Vector = (block * at["R"].size + at["R"]) * at["S"].size + at["S"]
    return number


def _indices(**extents: int) -> Indices:
    return dict(zip(extents, np.indices(tuple(extents.values()), sparse=True), strict=True))


def _reads(
    layer: ConvLayer, array: PEArray, at: Indices, block: Vector
) -> Callable[[Mapping[str, Cuts]], Vector]:
    """By cuts, a number for each element; equal ones are one read: of one tile, fold and block."""
    extents = {dim: index.size for dim, index in at.items()}
    lanes = lanes_of(array, layer.dims)

    def numbers(tile: Mapping[str, Cuts]) -> Vector:
        number = np.zeros((1,) * len(at), np.int64)
        inside, size = dict(at), {dim: np.array(extent) for dim, extent in extents.items()}
        for dim, cuts in tile.items():
            if not cuts:
                continue
            leaves = Leaves.nested(extents[dim], cuts)
            which = np.repeat(np.arange(len(leaves.low)), leaves.lengths).reshape(at[dim].shape)
            number = number * len(leaves.low) + which
            inside[dim] = at[dim] - leaves.low[which]
            size[dim] = leaves.lengths[which]
        for own in lanes:
            if own.dim[0] in at:
                most = -(-prod(extents[dim] for dim in own.dim) // own.size)
                number = number * most + _fold(own, inside, size)
        number = number * (int(block.max()) + 1) + block
        return np.broadcast_to(number, tuple(extents.values()))

    return numbers


def _fold(own: Lanes, inside: Indices, size: Indices) -> Vector:
    """Which fold of its lanes each element of a tile falls into."""
    lane = np.zeros(1, np.int64)
    for dim in own.dim:  # the first letter is the outermost, as in an im2col matrix
        lane = lane * size[dim] + inside[dim]
    fold: Vector = lane // own.size
    return fold


def _distinct(numbers: NDArray[np.int64]) -> Vector:
    """How many different numbers each column has."""
    ordered = np.sort(numbers, axis=0, kind="stable")
    return np.asarray(1 + np.count_nonzero(np.diff(ordered, axis=0), axis=0))
