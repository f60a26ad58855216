"""Registers in every PE: who holds what of a tile of the whole array, which both homes build on.

A lane takes every so many-th index of its (fused) dimension, one per fold. A PE holds what the
indices of its lanes, and all indices in time, need:

- W and O: an element for each of these indices.
- I: where P and R run in time, the rows that they reach over, as in any tile; where one of them is
  on lanes, a row for each pair of an output and a tap. Columns likewise under Q and S. PEs hand no
  rows to each other, so nothing slides along a window on lanes: of another range all is fetched.
- Codes of all blocks that it holds elements of.

What leaves the level outside once is written in every PE that holds it. A sum comes back into one
PE; each that added to it gives its own, and they are added on their way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import gcd, prod
from typing import Any

import numpy as np

from bfpsim.arch import PEArray
from bfpsim.mapping.array import Lanes, in_time, lanes_of
from bfpsim.mapping.nest import EVERY_DIM, RELEVANT, Tensor
from bfpsim.mapping.window import Interval
from bfpsim.quant.formats import Format
from bfpsim.workloads import ConvLayer

Lengths = Mapping[str, Any]
"""Of tiles, by dimension: whole numbers, or arrays that broadcast."""


def lanes(layer: ConvLayer, array: PEArray) -> tuple[Lanes, ...]:
    """The lanes of an array for a layer."""
    return lanes_of(array, layer.dims)


def on_lanes(array: PEArray) -> tuple[str, ...]:
    """The windows, PR of rows or QS of columns, of which nothing stays once their ranges change."""
    timed = in_time(array)
    return tuple(dims for dims in ("PR", "QS") if not set(dims) <= set(timed))


def beside(layer: ConvLayer, array: PEArray, tensor: Tensor) -> dict[str, Lanes | None]:
    """What a tensor does not depend on: the dimensions that lanes take together, or that run in
    time."""
    groups: dict[str, Lanes | None] = {}
    for dim in EVERY_DIM:
        if dim not in RELEVANT[tensor]:
            own = next((own for own in lanes(layer, array) if dim in own.dim), None)
            groups["".join(d for d in EVERY_DIM if own and d in own.dim) or dim] = own
    return groups


def share_bits(
    tensor: Tensor,
    layer: ConvLayer,
    array: PEArray,
    fmt: Format,
    sizes: Lengths,
    spans: Lengths,
    blocks: Any,
) -> Any:
    """What the fullest PE holds of the largest tile of a tensor [bit].

    sizes: of that tile; spans: of I: its stored rows and columns, by window
    blocks: of I and W: codes of the tile, of a pixel or a filter (where blocks run along
        filters, of all); a PE has no more of them than it holds elements

    O takes `accumulator_bits` per element.
    """

    def share(dims: str) -> Any:
        """Indices of some dimensions that the PE has, all of which their lanes take together."""
        folds = prod(own.folds(sizes) for own in lanes(layer, array) if own.dim[0] in dims)
        return folds * prod(sizes[d] for d in in_time(array) if d in dims)

    if tensor == "O":
        return share(RELEVANT["O"]) * array.accumulator_bits
    if tensor == "W":
        places, run = ("", "GKRS") if layer.C == 1 else ("GK", "CRS")
        many, run_length = share(places), share(run)
    else:
        apart = on_lanes(array)
        many, run_length = share("N" + "".join(apart)), share("GC")
        for dims, span in spans.items():
            many = many * (1 if dims in apart else span)
    codes = many * np.minimum(run_length, blocks)
    return many * run_length * fmt.mantissa_bits + codes * fmt.exponent_bits


def in_use(own: Lanes | None, lengths: Lengths) -> Any:
    """Lanes that have something to do in a tile; of dimensions in time, one."""
    return 1 if own is None else own.in_use(lengths)


def code_holders(
    layer: ConvLayer, array: PEArray, tensor: Tensor, outer: Interval, inner: Interval, block: int
) -> int:
    """Codes of a tile in all lanes along its channels: pairs of a block and a lane that has it.

    outer, inner: of I: ranges of G and C, for a pixel; of W: of C alone, for a tap of a filter, or
        where blocks run along filters, of G and K
    """
    dims, per_group = "GC", layer.C
    if tensor == "W":
        dims, per_group = ("GK", layer.K) if layer.C == 1 else (" C", layer.C)
    widths = tuple(
        next((own.size for own in lanes(layer, array) if own.dim == dim), 1) for dim in dims
    )
    period = block // gcd(block, per_group)  # groups after which cuts repeat
    down = outer[0] // period * period
    return _pairs((outer[0] - down, outer[1] - down), inner, per_group, block, *widths)


@lru_cache(maxsize=16384)
def _pairs(
    outer: Interval, inner: Interval, per_group: int, block: int, wide: int, deep: int
) -> int:
    group, index = (np.arange(*own) for own in (outer, inner))
    lane = (group - outer[0])[:, None] % wide * deep + (index - inner[0]) % deep
    number = (group[:, None] * per_group + index) // block * (wide * deep) + lane
    return len(np.unique(number))
