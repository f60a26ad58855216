"""Whether a mapping's tiles fit the buffers, and what would fit if they do not."""

from collections.abc import Sequence
from dataclasses import dataclass

from bfpsim.arch import Arch
from bfpsim.mapping.boxes import Interval, channel_intervals, input_cols, input_rows
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.pe_array import reduction_folds
from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.quant.formats.blocks import touched
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
    layer = nest.layer
    channel_tiles = [
        channel_intervals(g, c, layer.C) for g in nest.spans("G") for c in nest.spans("C")
    ]
    filter_tiles = [
        channel_intervals(g, k, layer.K) for g in nest.spans("G") for k in nest.spans("K")
    ]
    rows = max(h1 - h0 for h0, h1 in (input_rows(layer, p) for p in nest.spans("P")))
    cols = max(w1 - w0 for w0, w1 in (input_cols(layer, q) for q in nest.spans("Q")))
    pixel = max(_row_bits(tile, formats.I, 1) for tile in channel_tiles)
    taps = layer.R * layer.S
    if layer.C == 1:
        weights = max(_row_bits(tile, formats.W, taps) for tile in filter_tiles)
    else:
        filters = nest.tile["G"] * nest.tile["K"]
        weights = filters * max(_row_bits([c], formats.W, taps) for c in nest.spans("C"))
    outputs = nest.tile["N"] * nest.tile["P"] * nest.tile["Q"]
    out_pixel = max(_row_bits(tile, formats.O, 1) for tile in filter_tiles)
    if partial_sums_in_buffer(nest, arch):  # sums first, then results: whichever is wider
        sums = nest.tile["G"] * nest.tile["K"] * arch.pe_array.accumulator_bits
        out_pixel = max(out_pixel, sums)
    return Footprint(nest.tile["N"] * rows * cols * pixel, weights, outputs * out_pixel)


def partial_sums_in_buffer(nest: Nest, arch: Arch) -> bool:
    """Whether unfinished sums ever lie in the O buffer."""
    sizes = nest.tile | {"R": nest.layer.R, "S": nest.layer.S}
    return nest.trips["C"] > 1 or reduction_folds(arch.pe_array, sizes) > 1


def shortage(need: Footprint, arch: Arch) -> dict[str, int]:
    """Bits missing per buffer ("SRAM" if shared, else the tensor); empty if the tiles fit."""
    if arch.shared:
        missing = {"SRAM": need.bits - arch.usable_bits("I")}
    else:
        missing = {
            "I": need.I - arch.usable_bits("I"),
            "W": need.W - arch.usable_bits("W"),
            "O": need.O - arch.usable_bits("O"),
        }
    return {buffer: bits for buffer, bits in missing.items() if bits > 0}


def check_output_blocks(nest: Nest, formats: LayerFormats) -> None:
    """Raise MappingError if an O tile cuts a block: its exponent needs all of its channels."""
    if not isinstance(formats.O, BFP):
        return
    block, layer = formats.O.block_size, nest.layer
    channels = layer.G * layer.K
    for g in nest.spans("G"):
        for k in nest.spans("K"):
            for low, high in channel_intervals(g, k, layer.K):
                if low % block or (high % block and high != channels):
                    cut = (nest.trips["K"] > 1 and "K") or "G"
                    raise MappingError(
                        f"{layer.name}: tile {cut}={nest.tile[cut]} makes an O tile of channels "
                        f"{low}..{high - 1}, which cuts a block of {block} ({formats.O}); allowed: "
                        f"tiles that end on multiples of {block} channels"
                    )


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
            f"{'shared SRAM' if b == 'SRAM' else b + ' buffer'} is short by {bits} bit"
            for b, bits in short.items()
        )
        usable = (
            f"{arch.usable_bits('I')} bit"
            if arch.shared
            else " ".join(f"{t} {arch.usable_bits(t)}" for t in ("I", "W", "O")) + " bit"
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
    try:
        nest = make_nest(layer, Mapping(order, mapping.tile | {dim: size}))
        check_output_blocks(nest, formats)
    except MappingError:
        return False
    return not shortage(footprint(nest, arch, formats), arch)


def _row_bits(intervals: Sequence[Interval], fmt: Format, positions: int) -> int:
    """Bits of cells of `positions` mantissas along an axis, codes of cut blocks included."""
    cells = sum(high - low for low, high in intervals)
    codes = touched(intervals, fmt.block_size) if isinstance(fmt, BFP) else 0
    return cells * positions * fmt.mantissa_bits + codes * fmt.exponent_bits
