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
    outputs: NDArray[np.int64]


def words(q: Quantized) -> Words:
    """Every element of a tensor as its wires carry it."""
    bits = q.fmt.mantissa_bits
    mantissas = q.fields & ((1 << bits) - 1)
    if not q.fmt.exponent_bits:
        return mantissas
    return mantissas | spread(q.codes, q.block, q.shape) << bits


def feed(design: Design, layer: ConvLayer, tile: Tile, inputs: Words, weights: Words) -> Feed:
    """The feed of a tile of a layer whose operands are given whole, as `words`.

    Within a load's sums the reduction goes on first: they are accumulated before others begin.
    """
    i, w = _columns(layer, tile, inputs), _filters(layer, tile, weights)
    groups, pixels, depth = (extent - extra for extent, extra in zip(i.shape, (0, 1, 1), strict=True))
    filters = w.shape[2] - 1
    by_dims = {
        dims: _folds(dims, size, tile.sizes)
        for dims, size in ((design.row_dims, design.rows), (design.col_dims, design.cols))
    }
    pixel_folds, filter_folds, depth_folds = (
        next((folds for dims, folds in by_dims.items() if set(dims) <= set(family)), None)
        for family in ("NPQ", "K", "CRS")
    )
    channel = np.arange(groups * filters).reshape(groups, filters)
    place = np.arange(pixels)[:, None] * (groups * filters) + channel[:, None]  # (g, pixel, k)
    place = np.pad(place, ((0, 0), (0, 1), (0, 1)), constant_values=NOTHING)
    if design.held == "O":
        assert pixel_folds is not None
        assert filter_folds is not None
        every = list(product(range(groups), pixel_folds, filter_folds))
        streams = [i[g][p, :depth].T for g, p, _ in every], [w[g][:depth, k] for g, _, k in every]
        tables = [place[g][np.ix_(p, k)] for g, p, k in every]
        if design.row_dims == "K":
            streams, tables = streams[::-1], [table.T for table in tables]
        outputs = np.concatenate(tables).T  # (column, load x row)
        across, down = (np.stack(own) for own in streams)
        return Feed(len(every), 1, depth, None, across, down, outputs)
    assert depth_folds is not None
    kept_folds, length = (
        (filter_folds, pixels) if design.held == "W" else (pixel_folds, filters)
    )
    assert kept_folds is not None
    every = list(product(range(groups), kept_folds, depth_folds))
    if design.held == "W":
        kept = np.stack([w[g][np.ix_(d, k)] for g, k, d in every])
        stream = np.stack([i[g][:pixels, d] for g, _, d in every])
        outputs = [place[g][:pixels, k] for g, k in product(range(groups), kept_folds)]
    else:
        kept = np.stack([i[g][np.ix_(p, d)].T for g, p, d in every])
        stream = np.stack([w[g][d, :filters].T for g, _, d in every])
        outputs = [place[g][p, :filters].T for g, p in product(range(groups), kept_folds)]
    if design.sums_move_down:
        ports = kept, stream, None
    else:
        ports = kept.swapaxes(1, 2), None, stream
    count = groups * len(kept_folds)
    return Feed(count, len(depth_folds), length, *ports, np.concatenate(outputs).T)


def _folds(dims: str, size: int, sizes: dict[str, int]) -> NDArray[np.int64]:
    """Indices of a family's elements on an axis' lanes, (loads, lanes), -1 where there is none.

    dims: that the axis unrolls, first letter outermost; the family's others run in time.
    An element's index counts the family's dimensions in their usual order.
    """
    family = next(own for own in ("NPQ", "CRS", "K") if set(dims) <= set(own))
    extents = [sizes[d] for d in family]
    grid = np.arange(prod(extents)).reshape(extents)
    rest = [d for d in family if d not in dims]
    turned = grid.transpose([family.index(d) for d in (*rest, *dims)])
    lanes = turned.reshape(prod(sizes[d] for d in rest), -1)
    folds = -(-lanes.shape[1] // size)
    padded = np.pad(lanes, ((0, 0), (0, folds * size - lanes.shape[1])), constant_values=NOTHING)
    return padded.reshape(-1, size)


def _columns(layer: ConvLayer, tile: Tile, inputs: Words) -> Words:
    """im2col: (group, pixel, c r s), and a pixel and an element of zeros more, index -1."""
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    _, height, width, _ = inputs.shape
    n, g, c, p, q, r, s = (np.arange(*getattr(tile, dim)) for dim in "NGCPQRS")
    at = np.ix_(g, n, p, q, c, r, s)
    g, n, p, q, c, r, s = at
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
