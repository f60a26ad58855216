"""A tile's operands in the order in which the array's ports take them, and where its sums lie."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.steps.array import Tile
from bfpsim.quant.formats.blocks import spread
from bfpsim.quant.formats.quantize import Quantized
from bfpsim.sim.rtl.design import Design
from bfpsim.workloads import ConvLayer

Words = NDArray[np.int64]
"""Operands as their wires carry them: a mantissa's bits, above it its block's code."""

Table = NDArray[np.int64]
"""Indices of elements."""

NOTHING = -1
"""In tables of indices: a lane without work."""


class Feed(NamedTuple):
    """What a tile's ports take, and where its sums come to lie.

    groups, loads, length: as the sequencer counts them
    kept: (load, row, column), of a design that keeps an operand
    across, down: (load, element, lane), where they stream
    outputs: (bank, address): the element of the tile's O, (n, p, q, channel) flattened, that lies
        there; -1 for none
    """

    groups: int
    loads: int
    length: int
    kept: Words | None
    across: Words | None
    down: Words | None
    outputs: Table


def words(q: Quantized) -> Words:
    """Every element of a tensor as its wires carry it."""
    bits = q.fmt.mantissa_bits
    mantissas = q.fields & ((1 << bits) - 1)
    if not q.fmt.exponent_bits:
        return mantissas
    return mantissas | spread(q.codes, q.block, q.shape) << bits


def feed(design: Design, layer: ConvLayer, tile: Tile, inputs: Words, weights: Words) -> Feed:
    """The feed of a tile of a layer whose operands are given whole, as `words`."""
    columns, filters = _columns(layer, tile, inputs), _filters(layer, tile, weights)
    if design.held == "O":
        return _to_sums(design, tile, columns, filters)
    if design.held == "W":
        others = _folds_of("K", design, tile)
        return _to_operand(design, tile, filters.swapaxes(1, 2), columns, others)
    return _to_operand(
        design, tile, columns, filters.swapaxes(1, 2), _folds_of("NPQ", design, tile)
    )


def _to_sums(design: Design, tile: Tile, columns: Words, filters: Words) -> Feed:
    """Where sums stay: a load for each fold of pixels and of filters, all of the reduction in it.

    columns: (group, pixel, c r s); filters: (group, c r s, filter)
    """
    place = _places(tile)
    every = list(
        product(range(len(columns)), _folds_of("NPQ", design, tile), _folds_of("K", design, tile))
    )
    along_i = np.stack([columns[g, p, :-1].T for g, p, _ in every])
    along_w = np.stack([filters[g, :-1, k].T for g, _, k in every])
    sums = np.stack([place[g][np.ix_(p, k)] for g, p, k in every])  # (load, pixel, filter)
    across, down = along_i, along_w
    if design.row_dims == "K":
        across, down, sums = along_w, along_i, sums.swapaxes(1, 2)
    outputs = sums.reshape(-1, design.cols).T
    return Feed(len(every), 1, across.shape[1], None, across, down, outputs)


def _to_operand(design: Design, tile: Tile, kept: Words, streaming: Words, others: Table) -> Feed:
    """Where an operand stays: a load for each of its folds, those of the reduction first, so that a
    group's sums are whole before others begin.

    kept, streaming: (group, what has sums of its own, c r s)
    others: the folds of the kept operand that have sums of their own
    """
    place = _places(tile)
    if design.held == "W":
        place = place.swapaxes(1, 2)  # (group, of the kept operand, of the streaming one)
    depths = _folds_of("CRS", design, tile)
    every = list(product(range(len(kept)), others, depths))
    loads = np.stack([kept[g][np.ix_(o, d)].T for g, o, d in every])  # (load, depth, other)
    stream = np.stack([streaming[g, :-1, d].T for g, _, d in every])  # (load, element, depth)
    sums = [place[g, o, :-1] for g, o in product(range(len(kept)), others)]
    outputs = np.concatenate(sums, axis=1)
    counts = len(sums), len(depths), stream.shape[1]
    if design.sums_move_down:
        return Feed(*counts, loads, stream, None, outputs)
    return Feed(*counts, loads.swapaxes(1, 2), None, stream, outputs)


def _places(tile: Tile) -> Table:
    """(group, pixel, filter): the element of the tile's O; a pixel and a filter of none more."""
    sizes = tile.sizes
    groups, filters = sizes["G"], sizes["K"]
    pixels = np.arange(sizes["N"] * sizes["P"] * sizes["Q"])
    channels = np.arange(groups * filters).reshape(groups, 1, filters)
    return np.pad(
        pixels[:, None] * (groups * filters) + channels,
        ((0, 0), (0, 1), (0, 1)),
        constant_values=NOTHING,
    )


def room(design: Design, tile: Tile) -> int:
    """Sums per bank of accumulators that a tile takes."""
    sizes = tile.sizes
    if design.held == "O":
        folds = len(_folds_of("NPQ", design, tile)) * len(_folds_of("K", design, tile))
        return sizes["G"] * folds * design.rows
    if design.held == "W":
        length = sizes["N"] * sizes["P"] * sizes["Q"]
        return sizes["G"] * len(_folds_of("K", design, tile)) * length
    return sizes["G"] * len(_folds_of("NPQ", design, tile)) * sizes["K"]


def _folds_of(family: str, design: Design, tile: Tile) -> Table:
    """The indices that the lanes of an axis have, (folds, lanes), -1 where there is none.

    family: the dimensions of which the axis unrolls some, first letter outermost; the others run
    in time. An index counts all of them in their usual order.
    """
    dims, size = design.row_dims, design.rows
    if not set(dims) <= set(family):
        dims, size = design.col_dims, design.cols
    extents = [tile.sizes[d] for d in family]
    grid = np.arange(prod(extents)).reshape(extents)
    rest = [d for d in family if d not in dims]
    turned = grid.transpose([family.index(d) for d in (*rest, *dims)])
    lanes = turned.reshape(prod(tile.sizes[d] for d in rest), -1)
    folds = -(-lanes.shape[1] // size)
    padded = np.pad(lanes, ((0, 0), (0, folds * size - lanes.shape[1])), constant_values=NOTHING)
    return padded.reshape(-1, size)


def _columns(layer: ConvLayer, tile: Tile, inputs: Words) -> Words:
    """im2col: (group, pixel, c r s), and a pixel and an element of zeros more, index -1."""
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    _, height, width, _ = inputs.shape
    n, g, c, p, q, r, s = (np.arange(*getattr(tile, dim)) for dim in "NGCPQRS")
    g, n, p, q, c, r, s = np.ix_(g, n, p, q, c, r, s)
    row, col = p * sr + r * dr - layer.paddings[0], q * sc + s * dc - layer.paddings[2]
    stored = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    taken = inputs[n, row.clip(0, height - 1), col.clip(0, width - 1), g * layer.C + c]
    groups, pixels = g.size, n.size * p.size * q.size
    columns = np.where(stored, taken, 0).reshape(groups, pixels, -1)
    return np.pad(columns, ((0, 0), (0, 1), (0, 1)))


def _filters(layer: ConvLayer, tile: Tile, weights: Words) -> Words:
    """(group, c r s, filter), and an element and a filter of zeros more, index -1."""
    g, c, k, r, s = np.ix_(*(np.arange(*getattr(tile, dim)) for dim in "GCKRS"))
    taken = weights[g * layer.K + k, c, r, s]  # (g, c, k, r, s)
    filters = np.moveaxis(taken, 2, 4).reshape(g.size, -1, k.size)
    return np.pad(filters, ((0, 0), (0, 1), (0, 1)))
