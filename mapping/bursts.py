"""Burst padding of a nest: each distinct transfer priced once.

DRAM moves whole bursts, so every contiguous run of a transfer is rounded out to burst boundaries.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from bfpsim.mapping.box_padding import Boxes, padding, partition_padding, partitions_padding
from bfpsim.mapping.boxes import Interval, channel_intervals, input_cols, input_rows
from bfpsim.mapping.movement import Halo
from bfpsim.mapping.nest import DIMS, RELEVANT, Nest
from bfpsim.mapping.ragged import Vector
from bfpsim.quant.formats import Format, PartialSums
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout


def input_padding(nest: Nest, fmt: Format, burst: int, halo: Halo) -> int:
    """Padding of all fetches of I [bit].

    K's loop repeats the fetches of its second trip, so two trips are run and the second weighed.
    """
    if burst == 1:
        return 0
    layer = nest.layer
    layout = ActivationLayout(layer.input_shape, fmt)
    walked = [
        (loop.dim, min(loop.trips, 2) if loop.dim == "K" else loop.trips) for loop in nest.loops
    ]
    if walked and walked[-1][0] == "K":  # innermost: I stays
        walked.pop()
    trips = [count for _, count in walked]
    at = dict.fromkeys(DIMS, np.zeros(prod(trips), np.int64))
    numbers = np.unravel_index(np.arange(prod(trips)), trips) if trips else ()
    at |= {dim: index for (dim, _), index in zip(walked, numbers, strict=True)}
    boxes = _fetched(nest, at, halo)
    parts = [channel_intervals(g, c, layer.C) for g in nest.spans("G") for c in nest.spans("C")]
    padded = padding(layout, parts, at["G"] * nest.trips["C"] + at["C"], boxes, burst)
    times = np.where(at["K"] == 1, nest.trips["K"] - 1, 1)
    return int((padded * times).sum())


def _fetched(nest: Nest, at: dict[str, Vector], halo: Halo) -> Boxes:
    """What `mapping.movement.input_fetches` fetches at each step, empty where nothing moves."""
    layer = nest.layer
    n0, n1 = _ranges(nest.spans("N"), at["N"])
    h0, h1 = _ranges([input_rows(layer, span) for span in nest.spans("P")], at["P"])
    w0, w1 = _ranges([input_cols(layer, span) for span in nest.spans("Q")], at["Q"])

    def before(values: Vector) -> Vector:
        return np.concatenate([np.full(1, -1), values[:-1]])

    other = {dim: at[dim] != before(at[dim]) for dim in RELEVANT["I"]}
    changed = sum(other.values(), start=np.zeros(len(n0), np.int64))
    same_place = ~(other["N"] | other["G"] | other["C"])
    resident = [before(edge) for edge in (h0, h1, w0, w1)]
    still = np.ones(len(n0), bool)
    for edge, old in zip((h0, h1, w0, w1), resident, strict=True):
        still &= edge == old
    h1 = np.where(same_place & still, h0, h1)
    if halo == "sliding":
        down, along = (
            (changed == 1) & other[dim] & (at[dim] == before(at[dim]) + 1) for dim in "PQ"
        )
        h0 = np.where(down, np.maximum(h0, resident[1]), h0)
        w0 = np.where(along, np.maximum(w0, resident[3]), w0)
    return Boxes((n0, n1), (h0, np.maximum(h0, h1)), (w0, np.maximum(w0, w1)))


def _ranges(spans: Sequence[Interval], number: Vector) -> tuple[Vector, Vector]:
    low, high = np.array(spans, np.int64).T
    return low[number], high[number]


def weight_padding(nest: Nest, fmt: Format, burst: int) -> int:
    """Padding of fetching every tile of W once [bit]."""
    if burst == 1:
        return 0
    layer = nest.layer
    layout = WeightLayout(layer.weight_shape, fmt)
    if layout.depthwise:
        return sum(
            layout.runs(channel_intervals(g, k, layer.K), (0, 1)).burst_padding(burst)
            for g in nest.spans("G")
            for k in nest.spans("K")
        )
    filters = [
        span
        for g in nest.spans("G")
        for k in nest.spans("K")
        for span in channel_intervals(g, k, layer.K)
    ]
    row = np.zeros(len(filters), np.int64)
    low, high = np.array(filters, np.int64).T
    boxes = Boxes((row, row + 1), (row, row + 1), (low, high))
    if layer.R * layer.S == 1:
        low = np.arange(0, layer.C, nest.tile["C"])
        high = np.minimum(low + nest.tile["C"], layer.C)
        return partitions_padding(layout, low, high, boxes, burst)
    return sum(partition_padding(layout, (c,), boxes, burst) for c in nest.spans("C"))


def result_padding(nest: Nest, fmt: Format, burst: int) -> int:
    """Padding of writing every tile of O once in its format [bit]."""
    return _output_padding(nest, ActivationLayout(nest.layer.output_shape, fmt), burst)


def sums_padding(nest: Nest, accumulator_bits: int, burst: int) -> int:
    """Padding of moving every tile of O once as partial sums [bit]."""
    sums = PartialSums(accumulator_bits)
    return _output_padding(nest, ActivationLayout(nest.layer.output_shape, sums), burst)


def _output_padding(nest: Nest, layout: ActivationLayout, burst: int) -> int:
    if burst == 1:
        return 0
    tiles = [nest.spans(dim) for dim in "NPQ"]
    numbers = np.unravel_index(np.arange(prod(map(len, tiles))), [len(spans) for spans in tiles])
    n, p, q = (_ranges(spans, index) for spans, index in zip(tiles, numbers, strict=True))
    boxes = Boxes(n, p, q)
    return sum(
        partition_padding(layout, channel_intervals(g, k, nest.layer.K), boxes, burst)
        for g in nest.spans("G")
        for k in nest.spans("K")
    )
