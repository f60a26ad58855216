"""How long a transfer takes the DRAM channel."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bfpsim.arch import Arch


def channel_cycles(arch: Arch, payload: int, padding: int) -> int:
    """Cycles that a transfer takes of the channel; its latency trails them.

    DRAM moves whole bursts at its bandwidth, the DMA engine the payload at `dma.width`: the slower
    of the two sets the pace.

    payload, padding: bits without burst padding, and the padding
    """
    rate, width = arch.dram_bits_per_cycle, arch.dma.width
    cycles = -(-(payload + padding) * rate.denominator // rate.numerator)
    return cycles if width is None else max(cycles, -(-payload // width))


def least_channel_cycles(
    arch: Arch, payload: NDArray[np.int64], padding: NDArray[np.int64] | int = 0
) -> NDArray[np.int64]:
    """What transfers of so many bits take at least, however they are cut."""
    cycles = _ceiled(payload + padding, arch.dram_bits_per_cycle)
    width = arch.dma.width
    return cycles if width is None else np.maximum(cycles, _ceiled(payload, Fraction(width)))


def _ceiled(bits: Any, rate: Fraction) -> NDArray[np.int64]:
    """Bits / rate rounded up; a little less where that takes numbers of more than 63 bits."""
    bits = np.asarray(bits)
    if int(bits.max()) * rate.denominator >= 1 << 63:
        rounded: NDArray[np.int64] = np.floor(bits * float(1 / rate) * (1 - 1e-12)).astype(np.int64)
        return rounded
    cycles: NDArray[np.int64] = -(-bits * rate.denominator // rate.numerator)
    return cycles
