"""How the PE array unrolls loop dimensions and how long it takes, which both homes build on.

Each axis unrolls one dimension, or a fused one such as PQ or CRS; the array runs through it in
folds of its size. The other dimensions run in time, one step a cycle. Between two loads of what is
stationary the array streams; what a load costs beyond that is the array's `fill`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bfpsim.arch import Arch, PEArray
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, RELEVANT, Nest, Tensor
from bfpsim.quant.formats import LayerFormats

Sizes = dict[str, int]
"""Extent of every loop dimension, R and S included."""

T = TypeVar("T")
"""A whole number, or an array of them."""

STATIONARY: dict[str, Tensor] = {"weight": "W", "input": "I", "output": "O"}

INSIDE = {"weight": "GKCRSNPQ", "output": "NGKPQCRS", "input": "NGCPQRSK"}
"""The order of the loops inside a tile, outer to inner, that keeps the operand in place."""


class Lanes(NamedTuple):
    """Processing elements side by side that take a (fused) dimension at once."""

    dim: str
    size: int

    def folds(self, sizes: Mapping[str, T]) -> T:
        """Times they must be filled to cover the dimension; of arrays, too."""
        indices: Any = prod(sizes[d] for d in self.dim)
        folds: T = -(-indices // self.size)
        return folds

    def in_use(self, sizes: Mapping[str, Any]) -> Any:
        """How many of them have something to do."""
        return np.minimum(self.size, prod(sizes[d] for d in self.dim))


def lanes_of(array: PEArray, extents: Sizes) -> tuple[Lanes, ...]:
    """The lanes of every axis, rows first.

    extents: of the layer's dimensions. An axis with `over` holds as many of that dimension as the
    whole `dim` leaves room for, so it makes two, the one that fills it up first.
    """
    lanes = []
    for axis in array.axes:
        if axis.over is not None:
            whole = prod(extents[d] for d in axis.dim)
            lanes.append(Lanes(axis.over, max(1, axis.size // whole)))
        lanes.append(Lanes(axis.dim, axis.size))
    return tuple(lanes)


def passes(array: PEArray, formats: LayerFormats) -> int:
    """Passes of a multiplication whose operands are wider than `mac_bits`, taken piecewise."""
    return prod(-(-f.significand_bits // array.mac_bits) for f in (formats.I, formats.W))


def in_time(array: PEArray) -> str:
    """The dimensions that no axis unrolls."""
    return _outside("".join(axis.dim + (axis.over or "") for axis in array.axes))


@cache
def _outside(unrolled: str) -> str:
    return "".join(d for d in EVERY_DIM if d not in unrolled)


def streamed(array: PEArray) -> str:
    """The dimensions that the array runs through between two loads of what is stationary."""
    return "".join(d for d in in_time(array) if d not in RELEVANT[STATIONARY[array.stationary]])


def reduction_folds(array: PEArray, sizes: Mapping[str, Any], extents: Sizes) -> Any:
    """Contributions to one output that leave the array apart from each other.

    sizes: of a tile, whole numbers or arrays; extents: of the layer's dimensions
    """
    if array.stationary == "output":
        return 1
    steps: Any = prod(sizes[d] for d in in_time(array) if d in REDUCTION)
    lanes = lanes_of(array, extents)
    return steps * prod(own.folds(sizes) for own in lanes if own.dim[0] in REDUCTION)


def sums_lie_outside(nest: Nest, arch: Arch, level: int = 1) -> bool:
    """Whether unfinished sums ever lie at a level that holds O, by its number from DRAM's 0.

    They do where a loop over C, R or S goes round outside one over O's dimensions, of all loops
    down to the next level inside that holds O. The array keeps nothing between its tiles, so where
    it comes next any such loop does, and folds of its own.
    """
    nests = (nest, *nest.inner)
    holders = [i for i in range(level + 1, len(arch.levels)) if arch.levels[i].holds("O")]
    if not holders:
        inner = nests[-1]
        cut = any(inner.trips[d] > 1 for d in REDUCTION)
        return cut or reduction_folds(arch.pe_array, inner.tile, inner.extents) > 1
    loops = nests[holders[0] - 1].order
    reduced = [place for place, dim in enumerate(loops) if dim in REDUCTION]
    return bool(reduced) and any(dim in RELEVANT["O"] for dim in loops[reduced[0] :])


def load_cycles(array: PEArray, streaming: Any) -> Any:
    """Cycles that each load takes, given those it streams for; of arrays, or ints [cycle]."""
    rows = array.axes[0].size
    if array.fill == "each_fold":
        preload = 0 if array.stationary == "output" else rows
        return streaming + skew(array) + preload
    if array.fill == "overlapped":  # the load before hides preload and drain, if it is as long
        return np.maximum(streaming, rows)
    return streaming


def computing_cycles(
    array: PEArray, formats: LayerFormats, extents: Sizes, sizes: Any
) -> tuple[Any, Any]:
    """Cycles that lanes multiply in a tile, and those with filling and draining [cycle].

    As many loads of what is stationary as there are, each streaming all that passes it.

    extents: of the layer; sizes: of the tile by dimension, whole numbers or arrays
    """
    dims = streamed(array)
    stream = prod(sizes[d] for d in dims) * passes(array, formats)
    loads = prod(own.folds(sizes) for own in lanes_of(array, extents))
    loads *= prod(sizes[d] for d in in_time(array) if d not in dims)
    return loads * stream, loads * load_cycles(array, stream) + tile_fill(array)


def tile_fill(array: PEArray) -> int:
    """Cycles that every tile adds once: what no other load hides [cycle]."""
    return array.axes[0].size + skew(array) if array.fill == "overlapped" else 0


def skew(array: PEArray) -> int:
    """Cycles from the first PE's first operand to the last PE's: rows + columns - 2."""
    return sum(axis.size - 1 for axis in array.axes)
