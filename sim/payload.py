"""What a transfer or a computation carries: sizes only, or the data itself.

Both carriers have the same methods, so one model of time runs either; each transfer returns the
bits that it moved, computed from boxes or counted from what was copied.
"""

from typing import Protocol

from mapping.boxes import Volume
from mapping.movement import InputFetch, OutputVisit, WeightFetch
from mapping.pe_array import Tile
from quant.formats import LayerFormats


class Payload(Protocol):
    """The carrier that DMA engines and the PE array call as they act."""

    def fetch_input(self, fetch: InputFetch) -> Volume:
        """Copy the new part of an I tile from DRAM to SRAM."""

    def fetch_weight(self, fetch: WeightFetch) -> Volume:
        """Copy a W tile from DRAM to SRAM."""

    def restore(self, visit: OutputVisit) -> int:
        """Copy an O tile's partial sums from DRAM to SRAM; bits moved, 0 if there are none."""

    def compute(self, step: int, tile: Tile) -> None:
        """Multiply the resident tiles of a step and accumulate."""

    def spill(self, visit: OutputVisit) -> int:
        """Copy an O tile's partial sums from SRAM to DRAM; bits moved."""

    def store(self, visit: OutputVisit) -> Volume:
        """Copy a finished O tile from SRAM to DRAM in its format."""


class Sizes:
    """A payload without data: the bits of every box."""

    def __init__(self, formats: LayerFormats, accumulator_bits: int) -> None:
        self._formats = formats
        self._accumulator_bits = accumulator_bits

    def fetch_input(self, fetch: InputFetch) -> Volume:
        """Bits of the new part."""
        return fetch.new.volume(self._formats.I)

    def fetch_weight(self, fetch: WeightFetch) -> Volume:
        """Bits of the tile."""
        return fetch.box.volume(self._formats.W)

    def restore(self, visit: OutputVisit) -> int:
        """Bits of the tile's sums."""
        return self.spill(visit) if visit.resumed else 0

    def compute(self, step: int, tile: Tile) -> None:
        """Nothing to multiply."""

    def spill(self, visit: OutputVisit) -> int:
        """Bits of the tile's sums."""
        channels = sum(high - low for low, high in visit.box.channels)
        return visit.box.pixels * channels * self._accumulator_bits

    def store(self, visit: OutputVisit) -> Volume:
        """Bits of the tile's results."""
        return visit.box.volume(self._formats.O)
