"""How long a transfer holds the DRAM channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import DeviceDram
from bfpsim.mapping.counts import Direction

if TYPE_CHECKING:
    from bfpsim.arch import Arch


@dataclass(frozen=True)
class Timing:
    """How long transfers hold the channel, in cycles of the machine.

    DRAM moves whole bursts at its bandwidth, a device at the clocks that its banks and rows take,
    the DMA engine the payload at `dma.width`: the slowest sets the pace. Refresh stretches what
    the DRAM takes, and between two directions the channel rests.

    rate: of the DRAM [bit/cycle]; width: of a DMA engine, or None
    clock: of a device's clock; 0 if its rows do not count
    refresh: factor of time
    to_write, to_read: rest before a write that follows a read, and before a read that follows a
        write
    latency: trails each read, and holds up nothing behind it
    """

    rate: Fraction
    width: int | None
    latency: int
    clock: Fraction = Fraction(0)
    refresh: Fraction = Fraction(1)
    to_write: int = 0
    to_read: int = 0

    @classmethod
    def of(cls, arch: Arch) -> Timing:
        """That of a machine's DRAM."""
        dram = arch.dram
        own = cls(arch.dram_bits_per_cycle, arch.dma.width, arch.dram_latency_cycles)
        if not isinstance(dram, DeviceDram):
            return own
        clock = arch.clock / dram.own.clock
        to_write, to_read = (_ceil(clocks * clock) for clocks in dram.own.turnarounds)
        return cls(
            own.rate, own.width, own.latency, clock, dram.own.busy_refreshing, to_write, to_read
        )

    def cycles(self, payload: int, padding: int, clocks: int = 0) -> int:
        """For which a transfer holds the channel.

        payload, padding: bits without burst padding, and the padding
        clocks: of a device alone with it, without refresh
        """
        bits, times = self._factors
        cycles = -(-(payload + padding) * bits.numerator // bits.denominator)
        if clocks:
            cycles = max(cycles, -(-clocks * times.numerator // times.denominator))
        return cycles if self.width is None else max(cycles, -(-payload // self.width))

    @cached_property
    def _factors(self) -> tuple[Fraction, Fraction]:
        """Cycles of a bit and of a clock."""
        return self.refresh / self.rate, self.refresh * self.clock

    @property
    def ladder(self) -> dict[str, Timing]:
        """A device's timing rung by rung: at full bandwidth, and then with each thing more."""
        ideal = replace(self, clock=Fraction(0), refresh=Fraction(1), to_write=0, to_read=0)
        refreshed = replace(ideal, refresh=self.refresh)
        turned = replace(refreshed, to_write=self.to_write, to_read=self.to_read)
        return {"stall": ideal, "refresh": refreshed, "turnaround": turned, "rows": self}

    def rest(self, before: Direction | None, after: Direction) -> int:
        """Cycles between two transfers at least; none before the first."""
        if before is None or before == after:
            return 0
        return self.to_write if after == "write" else self.to_read


def least_channel_cycles(
    arch: Arch, payload: NDArray[np.int64], padding: NDArray[np.int64] | int = 0
) -> NDArray[np.int64]:
    """What transfers of so many bits take at least, however they are cut and wherever they lie."""
    timing = Timing.of(arch)
    cycles = _ceiled(payload + padding, timing.rate / timing.refresh)
    width = timing.width
    return cycles if width is None else np.maximum(cycles, _ceiled(payload, Fraction(width)))


def _ceil(number: Fraction) -> int:
    return -(-number.numerator // number.denominator)


def _ceiled(bits: Any, rate: Fraction) -> NDArray[np.int64]:
    """Bits / rate rounded up; a little less where that takes numbers of more than 63 bits."""
    bits = np.asarray(bits)
    if int(bits.max()) * rate.denominator >= 1 << 63:
        rounded: NDArray[np.int64] = np.floor(bits * float(1 / rate) * (1 - 1e-12)).astype(np.int64)
        return rounded
    cycles: NDArray[np.int64] = -(-bits * rate.denominator // rate.numerator)
    return cycles
