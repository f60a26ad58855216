"""How often a tile's elements are written in the registers of PEs, and how many PEs share a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bfpsim.mapping.nest import Nest, Tensor
from bfpsim.mapping.registers import beside, code_holders, in_use, lanes, on_lanes
from bfpsim.mapping.steps.tiles import InputTiles, Vector, Visits, WeightTiles, distinct
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format

if TYPE_CHECKING:
    from bfpsim.arch import Arch


def copies(visits: Visits, nest: Nest, arch: Arch, tensor: Tensor) -> Vector:
    """PEs in use beside each other that hold the same elements of a tile, by visit.

    As many as at the visit's first step: what the tensor does not depend on begins there with its
    longest range.
    """
    many = np.ones(len(visits), np.int64)
    for dims, own in beside(nest.layer, arch.pe_array, tensor).items():
        longest = {d: np.minimum(visits.ranges[d].lengths, nest.tile[d]) for d in dims}
        many = many * in_use(own, longest)
    return many


def input_copies(tiles: InputTiles, nest: Nest, arch: Arch, fmt: Format) -> tuple[Vector, Vector]:
    """Mantissas and exponents of I that are written for each tile, in all PEs [bit]."""
    array, ranges, new = arch.pe_array, tiles.visits.ranges, tiles.fetched
    pixels = new.n.lengths * copies(tiles.visits, nest, arch, "I")
    for dims, own in (("PR", new.h), ("QS", new.w)):
        if dims in on_lanes(array):  # a row or column for each pair of an output and a tap
            outputs, taps = (ranges[dim] for dim in dims)
            pairs = Window.of(nest.layer, dims[0]).pairs(*outputs, *taps)
            pixels = pixels * np.where(own.lengths > 0, pairs, 0)
        else:
            pixels = pixels * own.lengths
    channels, which = new.channels, new.channels.which
    elements = (channels.groups.lengths * channels.inner.lengths)[which]
    codes = np.zeros(1, np.int64)
    if fmt.exponent_bits:
        pairs_of = [
            code_holders(
                nest.layer, array, "I", channels.groups.at(i), channels.inner.at(i), fmt.block_size
            )
            for i in range(len(channels.groups.low))
        ]
        codes = np.array(pairs_of, np.int64)[which]
    return pixels * elements * fmt.mantissa_bits, pixels * codes * fmt.exponent_bits


def weight_copies(tiles: WeightTiles, nest: Nest, arch: Arch, fmt: Format) -> tuple[Vector, Vector]:
    """Mantissas and exponents of W that are written for each tile, in all PEs [bit]."""
    layer, ranges = nest.layer, tiles.visits.ranges
    many = copies(tiles.visits, nest, arch, "W")
    length = {dim: ranges[dim].lengths for dim in "GKCRS"}
    filters = length["G"] * length["K"]
    codes = np.zeros(1, np.int64)
    if fmt.exponent_bits:
        outer, inner = (ranges["G"], ranges["K"]) if layer.C == 1 else (None, ranges["C"])
        firsts, which = distinct([*inner] if outer is None else [*outer, *inner])
        holders = [
            code_holders(
                layer,
                arch.pe_array,
                "W",
                (0, 1) if outer is None else outer.at(first),
                inner.at(first),
                fmt.block_size,
            )
            for first in firsts.tolist()
        ]
        codes = np.array(holders, np.int64)[which] * (filters if outer is None else 1)
        if not fmt.spans_taps:  # of a tap as of an element: where its lane is
            codes = codes * tiles.taps
        for own in lanes(layer, arch.pe_array) if fmt.spans_taps else ():
            if own.dim[0] in "RS":
                codes = codes * in_use(own, length)
    mantissas = filters * length["C"] * tiles.taps * fmt.mantissa_bits
    return many * mantissas, many * codes * fmt.exponent_bits
