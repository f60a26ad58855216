"""The paper's tables: Eq. 2-6 of BitQ, made precise as in MOpt (ASPLOS'21), for the same formula.

Trips are real-valued, extent / tile, and a loop is absent if its tile is the whole extent. Scanning
the loops inner to outer, absent ones before the first present one of the tensor count 1; that one
multiplies by its trips or, if it is P or Q of I, widens the tile to the whole extent; every loop
outside it multiplies by its trips. In `mapping.closed.movement` that is: all tiles are as large as
the first, and a sweep of P or Q brings what the widened tile holds.

Values are of any algebra: fractions of one mapping, arrays over all tile sizes, or monomials in
tile sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import product
from math import prod
from operator import mul
from typing import Any

import numpy as np

from bfpsim.arch import PEArray
from bfpsim.mapping.array import INSIDE, lanes_of
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.closed.movement import Axis, Repeats, moved
from bfpsim.mapping.nest import DIMS, EVERY_DIM, RELEVANT, TENSORS, Nest, Tensor
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format
from bfpsim.workloads import ConvLayer

_AXES: dict[Tensor, tuple[str, ...]] = {
    "I": ("N", "G", "C", "PR", "QS"),
    "W": ("G", "K", "C", "R", "S"),
    "O": ("N", "G", "K", "P", "Q"),
}


@dataclass(frozen=True, eq=False)
class Tiling:
    """Real-valued tiles under one boundary, in an algebra; each by dimension, R and S included.

    layer: as stored
    whole: what is cut; tile: into tiles of this size
    absent: 1 where a dimension has no loop, else 0
    """

    layer: ConvLayer
    whole: Mapping[str, Any]
    tile: Mapping[str, Any]
    absent: Mapping[str, Any]

    def trips(self, dim: str) -> Any:
        """Tiles of a dimension."""
        return self.whole[dim] / self.tile[dim]

    def elements(self, tensor: Tensor, order: str) -> Any:
        """Elements of a tensor that move under a loop order, outer to inner: Eq. 5."""
        axes = [self._axis(dims) for dims in _AXES[tensor]]
        idle = {d: Repeats([1, self.trips(d)], (), ()) for d in order if d not in RELEVANT[tensor]}
        return moved(order, axes, idle)

    def _axis(self, dims: str) -> Axis[Any]:
        if len(dims) == 1:
            return equal_tiles(dims, self.whole[dims], self.absent)
        outputs, taps = dims[0], dims[1]
        window = Window.of(self.layer, outputs)
        tile, sweep = (
            window.span(size, self.tile[taps]) * self.trips(taps)
            for size in (self.tile[outputs], self.whole[outputs])
        )
        return equal_tiles(dims, tile * self.trips(outputs), self.absent, {outputs: sweep})


def equal_tiles(
    dims: str, every: Any, absent: Mapping[str, Any], swept: Mapping[str, Any] | None = None
) -> Axis[Any]:
    """An axis of tiles of one size.

    every: lengths of all tiles together
    absent: by dimension: 1 where it has no loop, else 0
    swept: by dimension whose tiles overlap: what a sweep of its loop brings
    """
    single, fresh = {}, {}
    for depth in product((0, 1), repeat=len(dims)):
        inside = [dim for dim, outside in zip(dims, depth, strict=True) if not outside]
        single[depth] = reduce(mul, (absent[dim] for dim in inside), every)
        for dim in inside:
            sweep = (swept or {}).get(dim, every)
            others = (absent[other] for other in inside if other != dim)
            fresh[dim, depth] = reduce(mul, others, sweep) - single[depth]
    return Axis(dims, single, fresh)


def code_bits(fmt: Format, positions: int = 1) -> Fraction:
    """Exponent bits per element by Eq. 6: SE / BS, for weights SE / (BS R S), if blocks span taps.

    positions: R x S for weights
    """
    return Fraction(fmt.exponent_bits, fmt.block_size * (positions if fmt.spans_taps else 1))


def of_nest(nest: Nest) -> Tiling:
    """The tiles of one mapping, in fractions."""
    whole, tile = ({d: Fraction(n) for d, n in of.items()} for of in (nest.extents, nest.tile))
    return Tiling(nest.layer, whole, tile, {d: int(tile[d] == whole[d]) for d in whole})


def between(outer: Nest, inner: Nest) -> Tiling:
    """A tile of the nest outside cut into tiles of the nest inside, in fractions."""
    whole, tile = ({d: Fraction(n) for d, n in own.tile.items()} for own in (outer, inner))
    return Tiling(outer.layer, whole, tile, {d: int(tile[d] == whole[d]) for d in whole})


def tiles_of(nest: Nest) -> Fraction:
    """Tiles of a nest, real-valued."""
    return prod((Fraction(nest.extents[d], nest.tile[d]) for d in EVERY_DIM), start=Fraction(1))


def of_sizes(layer: ConvLayer, sizes: Mapping[str, Vector]) -> Tiling:
    """All combinations of tile sizes, on an array axis per dimension of `DIMS`."""
    tile = {}
    for axis, dim in enumerate(DIMS):
        shape = [1] * len(DIMS)
        shape[axis] = -1
        tile[dim] = sizes[dim].astype(float).reshape(shape)
    whole = {d: np.full((1,) * len(DIMS), float(n)) for d, n in layer.dims.items()}
    taps = {"R": whole["N"] * 0 + layer.R, "S": whole["N"] * 0 + layer.S}
    whole, tile = whole | taps, tile | taps
    return Tiling(layer, whole, tile, {d: (tile[d] == whole[d]).astype(float) for d in whole})


def array_elements(between: Tiling, array: PEArray) -> dict[Tensor, Any]:
    """DM_S of the paper: elements between the innermost level and the PE array.

    Eq. 5's rule once more: per tile of `between`, the loops inside it in the order of the dataflow,
    with the array's unrolling as the inner tile.
    """
    size = between.tile
    one = size["N"] / size["N"]
    lanes = dict.fromkeys(size, one)
    layer = between.layer
    for own in lanes_of(array, layer.dims):
        room = one * own.size
        for dim in reversed(own.dim):  # the last letter is the innermost of a fused dimension
            lanes[dim] = np.minimum(room, size[dim])
            room = np.maximum(one, room / lanes[dim])
    absent = {d: (size[d] == lanes[d]) * 1 for d in size}
    inside = Tiling(between.layer, size, lanes, absent)
    tiles = prod((between.trips(d) for d in EVERY_DIM), start=one)
    order = INSIDE[array.stationary]
    return {tensor: inside.elements(tensor, order) * tiles for tensor in TENSORS}
