"""Which elements of a tensor share an exponent, in any axis order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bfpsim.quant.formats import FormatError


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which elements share an exponent.

    axis: BS consecutive indices of this axis, at one index of every other
    taps: for weights (filters, C, R, S), (filters, C, R) or (filters, C): a block is BS input
        channels with all their taps; where C is 1 (depthwise), BS filters with all theirs
    """

    axis: int
    taps: bool = False

    def __post_init__(self) -> None:
        if self.taps and self.axis != 1:
            raise FormatError(f"Blocks: axis={self.axis} with taps; allowed: 1, the input channels")

    def extents(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """A tensor of `shape` as (outer, channels, inner): blocks run along the middle axis.

        With taps, all of `inner` belongs to the block.
        """
        if self.taps:
            inner = math.prod(shape[2:])
            return (1, shape[0], inner) if shape[1] == 1 else (shape[0], shape[1], inner)
        axis = self.axis % len(shape)
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


CHANNELS = Blocks(axis=1)
"""Activations (N, channels, ...), channels first or last in memory."""
LAST = Blocks(axis=-1)
"""Tokens (..., channels)."""
WEIGHT = Blocks(axis=1, taps=True)
