"""Whether a mapping's tiles fit the buffers, and what would fit if they do not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.closed.exact import whole_blocks
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.room import claims
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, slots=True)
class Footprint:
    """The most that each tensor's resident tile takes in its buffer [bit]."""

    I: int  # noqa: E741 - the tensor's name in the field
    W: int
    O: int  # noqa: E741

    @property
    def bits(self) -> int:
        """All three together."""
        return self.I + self.W + self.O


def footprint(nest: Nest, arch: Arch, formats: LayerFormats) -> Footprint:
    """The largest resident tile of each tensor.

    O takes `accumulator_bits` per element while its reduction is unfinished in the buffer: when C
    is cut into tiles, or when the array's partial sums leave it between folds. Then it takes its
    format's bits, which may be more.
    """
    return Footprint(**Grid.of_nest(nest, arch, formats).room)


def shortage(need: Footprint, arch: Arch) -> dict[str, int]:
    """Bits missing per buffer (the level if shared, else the tensor); empty if the tiles fit."""
    wanted = claims(arch, {"I": need.I, "W": need.W, "O": need.O})
    return {one.buffer: one.taken - one.usable for one in wanted if one.taken > one.usable}


def check_output_blocks(nest: Nest, formats: LayerFormats) -> None:
    """Raise MappingError if an O tile cuts a block: its exponent needs all of its channels."""
    block, layer = formats.O.block_size, nest.layer
    g, k = (np.array([nest.tile[dim]]) for dim in "GK")
    if whole_blocks(layer, g, k, block).all():
        return
    low, high = next(
        (low, high)
        for low, high in _channel_ranges(nest)
        if low % block or (high % block and high != layer.G * layer.K)
    )
    cut = (nest.trips["K"] > 1 and "K") or "G"
    raise MappingError(
        f"{layer.name}: tile {cut}={nest.tile[cut]} makes an O tile of channels "
        f"{low}..{high - 1}, which cuts a block of {block} ({formats.O}); allowed: "
        f"tiles that end on multiples of {block} channels"
    )


def _channel_ranges(nest: Nest) -> list[tuple[int, int]]:
    """The ranges of channels that the tiles of O are made of, in loop order of G and K."""
    groups, per_group = nest.layer.G, nest.layer.K
    g_tile, k_tile = nest.tile["G"], nest.tile["K"]
    if k_tile == per_group:
        cuts = [*range(0, groups, g_tile), groups]
        return [(a * per_group, b * per_group) for a, b in pairwise(cuts)]
    return [
        (g * per_group + k, g * per_group + min(k + k_tile, per_group))
        for first in range(0, groups, g_tile)
        for k in range(0, per_group, k_tile)
        for g in range(first, min(first + g_tile, groups))
    ]


def check(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Nest:
    """The nest of a legal mapping.

    Raises MappingError if the mapping does not suit the layer, an O tile cuts a block, or the
    resident tiles do not fit: the message says what is short, and what would fit.
    """
    nest = make_nest(layer, mapping)
    check_output_blocks(nest, formats)
    need = footprint(nest, arch, formats)
    short = shortage(need, arch)
    if short:
        where = "; ".join(
            f"{b + ' buffer' if b in TENSORS else 'shared ' + b} is short by {bits} bit"
            for b, bits in short.items()
        )
        usable = (
            f"{arch.usable_bits('I')} bit"
            if arch.shared
            else " ".join(f"{t} {arch.usable_bits(t)}" for t in TENSORS) + " bit"
        )
        raise MappingError(
            f"{layer.name}: tiles of {mapping} take I {need.I} + W {need.W} + O {need.O} = "
            f"{need.bits} bit, usable in {arch.name}: {usable}; {where}; "
            f"{_what_fits(layer, arch, mapping, formats)}"
        )
    return nest


def _what_fits(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> str:
    """The largest tile of each single dimension that would fit, the others unchanged."""
    options = []
    tile = make_nest(layer, mapping).tile
    for dim in DIMS:
        fitting = [
            size for size in range(1, tile[dim]) if _fits(layer, arch, dim, size, mapping, formats)
        ]
        if fitting:
            order = "" if dim in mapping.order else f" (order {mapping.order + dim})"
            options.append(f"{dim}={max(fitting)}{order}")
    if options:
        return "allowed: with the other tiles as they are, " + " or ".join(options)
    return "allowed: no change of a single tile size fits, so cut several dimensions"


def _fits(
    layer: ConvLayer, arch: Arch, dim: str, size: int, mapping: Mapping, formats: LayerFormats
) -> bool:
    order = mapping.order if dim in mapping.order else mapping.order + dim
    nest = make_nest(layer, Mapping(order, mapping.tile | {dim: size}))
    return bool(Grid.of_nest(nest, arch, formats).legal())
