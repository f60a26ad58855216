"""O as memories hold it: parts on chip, which are sums or results; packed results in DRAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.steps.tiles import ActivationBox
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.quant.formats import Format
from bfpsim.quant.formats.blocks import activation_block
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.layout import ActivationLayout, indices
from bfpsim.quant.formats.packing import blank, unpack
from bfpsim.quant.formats.quantize import Quantized, quantize_activation, scale_below
from bfpsim.sim.copies import Fields, blocks, places, within, write_box


class Result(NamedTuple):
    """A box of O in its format: fields (n, p, q, channels), codes (n, p, q, blocks)."""

    fields: Fields
    codes: Fields


class Raw(NamedTuple):
    """A finished box of O before the vector unit had it: its sums' values (n, p, q, channels)."""

    values: NDArray[np.float64]


Piece: TypeAlias = "ExactArray | Result | Raw"

Part: TypeAlias = "Piece | dict[ActivationBox, Part]"
"""A box of O: sums, a result, or the parts that it is cut into further inside, by their boxes."""

Tile: TypeAlias = dict[ActivationBox, Part]
"""What a tile of O is made of."""


def pieces(box: ActivationBox, part: Part) -> Iterator[tuple[ActivationBox, Piece]]:
    """The sums and results that a part is made of, with their boxes."""
    if isinstance(part, dict):
        for inner, own in part.items():
            yield from pieces(inner, own)
    else:
        yield box, part


class Sink(Protocol):
    """Where tiles of O go, and unfinished sums come back from."""

    @property
    def level(self) -> str:
        """The name of the level that it lies at."""

    def give(self, box: ActivationBox) -> Part:
        """Hand the sums of a box back."""

    def take(self, box: ActivationBox, part: Part) -> None:
        """Take what comes from inside."""


class Forms(NamedTuple):
    """What O moves as: results in a format below E_top, and sums of so many bits."""

    fmt: Format
    top: int
    accumulator_bits: int

    def moved(self, box: ActivationBox, part: Part) -> Moved:
        """Bits of moving a part."""
        mantissa = exponent = psum = 0
        for inner, piece in pieces(box, part):
            if isinstance(piece, Result):
                mantissa += piece.fields.size * self.fmt.mantissa_bits
                exponent += piece.codes.size * self.fmt.exponent_bits
            elif isinstance(piece, Raw):
                mantissa += piece.values.size * self.fmt.mantissa_bits
                touched = blocks(inner.channels, self.fmt.block_size).size
                exponent += inner.pixels * touched * self.fmt.exponent_bits
            else:
                psum += piece.digits.size * self.accumulator_bits
        return Moved(mantissa, exponent, psum)

    def result(self, box: ActivationBox, part: Part) -> Result | Raw:
        """Sums as a result. The box ends on blocks; the sums' own boxes need not."""
        return self.quantized(values_of(box, part))

    def quantized(self, values: NDArray[np.float64]) -> Result:
        """Values in the format."""
        q = quantize_activation(values, self.fmt, self.top)
        return Result(q.fields, q.codes)


class RawForms(Forms):
    """What O moves as where a vector unit makes the results, as tiles leave SRAM."""

    def result(self, box: ActivationBox, part: Part) -> Raw:
        """Finished sums, as they are."""
        return Raw(values_of(box, part))


def values_of(box: ActivationBox, part: Part) -> NDArray[np.float64]:
    """The values of a part's sums in one array, shape (n, p, q, channels)."""
    if isinstance(part, ExactArray):
        return part.to_float()
    if isinstance(part, Raw):
        return part.values
    channels = indices(box.channels)
    pixels = (high - low for low, high in (box.n, box.h, box.w))
    whole = np.full((*pixels, len(channels)), np.nan)
    for inner, piece in pieces(box, part):
        if isinstance(piece, Result):
            raise RuntimeError(f"O tile {box} holds a result in {inner}; allowed: sums")
        values = piece.values if isinstance(piece, Raw) else piece.to_float()
        n, p, q = within(inner.n, box.n), within(inner.h, box.h), within(inner.w, box.w)
        whole[n, p, q, places(indices(inner.channels), channels)] = values
    return whole


class PackedOutput:
    """O in DRAM: results packed, and the sums of tiles whose reduction goes on later."""

    level = "DRAM"

    def __init__(self, layout: ActivationLayout, forms: Forms) -> None:
        self._layout, self._forms = layout, forms
        self._memory = blank(layout.bits)
        self._sums: Tile = {}

    def give(self, box: ActivationBox) -> Part:
        """Hand the sums of a box back."""
        return self._sums.pop(box)

    def take(self, box: ActivationBox, part: Part) -> None:
        """Keep sums, write results."""
        for inner, piece in pieces(box, part):
            if not isinstance(piece, Result):
                self._sums[box] = part  # which are unfinished
                return
            write_box(self._memory, self._layout, self._forms.fmt, inner, *piece)

    def read(self) -> Quantized:
        """All of it, unpacked."""
        layout, forms = self._layout, self._forms
        packed = self._memory[: -(-layout.bits // 8)].tobytes()
        block = activation_block(forms.fmt, layout.shape)
        scale = scale_below(forms.fmt, forms.top)
        return unpack(packed, layout, forms.top, block, scale)
