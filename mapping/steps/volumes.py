"""Bits of boxes in a format: mantissas of their elements, exponents of the blocks they touch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bfpsim.mapping.steps.tiles import Boxes, Channels, Vector, WeightTiles
from bfpsim.quant.formats import Format, PartialSums
from bfpsim.quant.formats.blocks import touched


class Moved(NamedTuple):
    """Bits of one transfer, by kind."""

    mantissa: int = 0
    exponent: int = 0
    psum: int = 0
    burst: int = 0

    @property
    def payload(self) -> int:
        """Bits without burst padding."""
        return self.mantissa + self.exponent + self.psum


NOTHING = Moved()


def box_bits(boxes: Boxes, fmt: Format | PartialSums) -> tuple[Vector, Vector]:
    """Mantissas and exponents of each box of an activation [bit]."""
    elements, codes = _cells(boxes.channels, fmt)
    which, pixels = boxes.channels.which, boxes.pixels
    return (
        pixels * (elements * fmt.mantissa_bits)[which],
        pixels * (codes * fmt.exponent_bits)[which],
    )


def weight_bits(tiles: WeightTiles, fmt: Format, depthwise: bool) -> tuple[Vector, Vector]:
    """Mantissas and exponents of each tile of W [bit].

    depthwise: whether blocks run along the filters, not along C
    """
    filters, codes = _cells(tiles.filters, fmt if depthwise else None)
    filters, codes = filters[tiles.filters.which], codes[tiles.filters.which]
    if not depthwise:
        blocks = (tiles.c.high - 1) // fmt.block_size - tiles.c.low // fmt.block_size + 1
        codes = filters * blocks
    if not fmt.spans_taps:
        codes = codes * tiles.taps
    mantissa = filters * tiles.c.lengths * tiles.taps * fmt.mantissa_bits
    return mantissa, codes * fmt.exponent_bits


def _cells(channels: Channels, fmt: Format | PartialSums | None) -> tuple[Vector, Vector]:
    """Channels of each distinct pair of ranges, and the blocks that they touch."""
    groups, inner = channels.groups, channels.inner
    elements = groups.lengths * inner.lengths
    if fmt is None or not fmt.exponent_bits:
        return elements, np.zeros_like(elements)
    low = groups.low * channels.per_group + inner.low
    high = (groups.high - 1) * channels.per_group + inner.high
    blocks = (high - 1) // fmt.block_size - low // fmt.block_size + 1
    for pair in np.flatnonzero((groups.lengths > 1) & (inner.lengths < channels.per_group)):
        blocks[pair] = touched(channels.intervals[pair], fmt.block_size)
    return elements, blocks
