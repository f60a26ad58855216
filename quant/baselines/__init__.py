"""Formats to compare with, as fake quantisation on torch tensors (docs/baselines.md)."""

from collections.abc import Mapping
from types import MappingProxyType

from bfpsim.quant.baselines.block_floats import DBPS, FAST, HBFP, MSFP, FlexBlock
from bfpsim.quant.baselines.bsfp import BSFP
from bfpsim.quant.baselines.mx import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX, Element
from bfpsim.quant.torch.operand import Quantizer

__all__ = [
    "BASELINES",
    "BSFP",
    "DBPS",
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "FAST",
    "HBFP",
    "INT8",
    "MSFP",
    "MX",
    "Element",
    "FlexBlock",
]

_ALL: tuple[Quantizer, ...] = (
    *(MX(element) for element in (INT8, E4M3, E5M2, E3M2, E2M3, E2M1)),
    *(MSFP(bits) for bits in (12, 16)),
    *(HBFP(bits) for bits in (8, 12)),
    *(FlexBlock(mode) for mode in (4, 8, 16)),
    *(DBPS(width) for width in (8, 16)),
    FAST(),
    *(BSFP(bits, bits) for bits in (2, 4)),
)
BASELINES: Mapping[str, Quantizer] = MappingProxyType({str(fmt): fmt for fmt in _ALL})
"""The formats by name, which is `str()` of each."""
