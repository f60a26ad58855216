"""Whether a mapping's tiles fit the buffers, and what would fit if they do not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bfpsim.arch import Arch
from bfpsim.mapping.closed.leaves import Leaves
from bfpsim.mapping.closed.levels import held_bits
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.room import claims, inner_claims
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
    is cut into tiles, or when the array's partial sums leave it between folds; with accumulators,
    when these let go of sums. Then it takes its format's bits, which may be more.
    """
    return Footprint(**held_bits(nest, 1, arch, formats))


def shortage(need: Footprint, arch: Arch) -> dict[str, int]:
    """Bits missing per buffer (the level if shared, else the tensor); empty if the tiles fit."""
    wanted = claims(arch, {"I": need.I, "W": need.W, "O": need.O})
    return {one.buffer: one.taken - one.usable for one in wanted if one.taken > one.usable}


def check_output_blocks(nest: Nest, formats: LayerFormats) -> None:
    """Raise MappingError if an O tile cuts a block: its exponent needs all of its channels."""
    block, layer = formats.O.block_size, nest.layer
    cuts = [
        (low, high)
        for low, high in _channel_ranges(nest)
        if low % block or (high % block and high != layer.G * layer.K)
    ]
    if not cuts:
        return
    low, high = cuts[0]
    cut = (nest.trips["K"] > 1 and "K") or "G"
    raise MappingError(
        f"{layer.name}: tile {cut}={nest.tile[cut]} makes an O tile of channels "
        f"{low}..{high - 1}, which cuts a block of {block} ({formats.O}); allowed: "
        f"tiles that end on multiples of {block} channels"
    )


def _channel_ranges(nest: Nest) -> list[tuple[int, int]]:
    """The ranges of channels that the tiles of O are made of, in loop order of G and K."""
    per_group = nest.layer.K
    groups, filters = (Leaves.nested(nest.extents[dim], nest.cuts(dim)) for dim in "GK")
    if nest.tile["K"] == per_group:
        return [(a * per_group, b * per_group) for a, b in groups.ranges()]
    return [
        (g * per_group + low, g * per_group + high)
        for first, end in groups.ranges()
        for low, high in filters.ranges()
        for g in range(first, end)
    ]


def stored(layer: ConvLayer, arch: Arch) -> ConvLayer:
    """The layer as stored off chip: with `padding: fetch`, padding is part of the tensor."""
    if arch.dma.padding == "skip" or not any(layer.paddings):
        return layer
    top, bottom, left, right = layer.paddings
    return replace(layer, padding=0, H=layer.height + top + bottom, W=layer.width + left + right)


def check(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Nest:
    """The nest of a legal mapping.

    Raises MappingError if the mapping does not suit the layer, an O tile cuts a block, or the
    resident tiles do not fit at some level: the message says what is short, and what would fit.
    """
    nest = make_nest(layer, mapping, arch.inside)
    check_all_blocks(nest, arch, formats)
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
    _check_inner_levels(nest, arch, formats)
    return nest


def check_inside(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Nest:
    """The nest of a mapping that is legal but for SRAM's room, of which tiles may have a part.

    Raises MappingError as `check`.
    """
    nest = make_nest(layer, mapping, arch.inside)
    check_all_blocks(nest, arch, formats)
    _check_inner_levels(nest, arch, formats)
    return nest


def check_all_blocks(nest: Nest, arch: Arch, formats: LayerFormats) -> None:
    """Raise MappingError if an O tile cuts a block at some level, or the array's does."""
    check_output_blocks(nest, formats)
    for level, own in zip(arch.levels[2:], nest.inner, strict=True):
        if level.holds("O"):
            check_output_blocks(own, formats)
    if arch.accumulators is None:  # the array makes results of its own tiles
        check_output_blocks(nest.innermost, formats)


def _check_inner_levels(nest: Nest, arch: Arch, formats: LayerFormats) -> None:
    """Raise MappingError if a level inside SRAM is short, or an axis lacks what it takes whole."""
    name = nest.layer.name
    for axis in arch.pe_array.axes:
        for dim in axis.dim if axis.over is not None else "":
            if nest.innermost.tile[dim] != nest.extents[dim]:
                raise MappingError(
                    f"{name}: inner tile {dim}={nest.innermost.tile[dim]}; allowed: "
                    f"{nest.extents[dim]}, because an axis of {arch.name} takes {dim} whole"
                )
    for place, level in enumerate(arch.levels[2:], start=2):
        room = held_bits(nest, place, arch, formats)
        for claim in inner_claims(level, room):
            if claim.taken > claim.usable:
                tile = nest.inner[place - 2].tile
                sizes = " ".join(f"{dim}{size}" for dim, size in tile.items())
                held = {t: bits for t, bits in room.items() if level.memories[t] == claim.buffer}
                taken = " + ".join(f"{tensor} {bits}" for tensor, bits in held.items())
                where = "tiles"
                if level is arch.registers:
                    where = "shares of a PE in tiles"
                raise MappingError(
                    f"{name}: {where} at {level.name} ({sizes}) take {taken} bit; allowed: "
                    f"{claim.usable} bit in {arch.name}, so cut them with inner "
                    f"{level.name!r}"
                )


def _what_fits(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> str:
    """The largest tile of each single dimension that would fit, the others unchanged."""
    options = []
    tile = layer.dims | mapping.tile
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
    cut = {  # what is cut smaller outside is no larger inside
        level: replace(own, tile=own.tile | {dim: min(size, own.tile.get(dim, size))})
        for level, own in mapping.inner.items()
    }
    smaller = Mapping(order, mapping.tile | {dim: size}, cut)
    try:
        nest = make_nest(layer, smaller, arch.inside)
        check_all_blocks(nest, arch, formats)
        _check_inner_levels(nest, arch, formats)
    except MappingError:
        return False
    return not shortage(footprint(nest, arch, formats), arch)
