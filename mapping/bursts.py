"""Burst padding of a nest: each distinct transfer priced once.

DRAM moves whole bursts, so every contiguous run of a transfer is rounded out to burst boundaries.
"""

from dataclasses import replace

import numpy as np

from mapping.boxes import channel_intervals
from mapping.movement import Halo, input_fetches
from mapping.nest import Nest
from quant.formats import Format, PartialSums
from quant.layout import ActivationLayout, WeightLayout


def input_padding(nest: Nest, fmt: Format, burst: int, halo: Halo) -> int:
    """Padding of all fetches of I [bit].

    K's loop repeats the fetches of its second trip, so two trips are run and the second weighed.
    """
    if burst == 1:
        return 0
    layout = ActivationLayout(nest.layer.input_shape, fmt)
    loops = tuple(
        replace(loop, trips=min(loop.trips, 2)) if loop.dim == "K" else loop for loop in nest.loops
    )
    short, repeats = replace(nest, loops=loops), nest.trips["K"] - 1
    padding = 0
    for fetch in input_fetches(short, halo):
        times = repeats if short.indices(fetch.step)["K"] else 1
        padding += times * layout.runs(*fetch.new).burst_padding(burst)
    return padding


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
    group, k = np.divmod(np.arange(layer.G * layer.K), layer.K)
    owners = group // nest.tile["G"] * nest.trips["K"] + k // nest.tile["K"]
    return sum(layout.partition_runs(c, owners).burst_padding(burst) for c in nest.spans("C"))


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
    layer, tile, trips = nest.layer, nest.tile, nest.trips
    n, p, q = np.ogrid[: layer.N, : layer.P, : layer.Q]
    owners = (n // tile["N"] * trips["P"] + p // tile["P"]) * trips["Q"] + q // tile["Q"]
    return sum(
        layout.partition_runs(channel_intervals(g, k, layer.K), owners).burst_padding(burst)
        for g in nest.spans("G")
        for k in nest.spans("K")
    )
