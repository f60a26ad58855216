"""Formats to compare with, as fake quantisation on torch tensors (docs/baselines.md)."""

from collections.abc import Mapping
from types import MappingProxyType

from bfpsim.quant.baselines.block_floats import DBPS, FAST, HBFP, FlexBlock
from bfpsim.quant.baselines.bsfp import BSFP
from bfpsim.quant.torch.operand import Quantizer

__all__ = [
    "BASELINES",
    "BSFP",
    "DBPS",
    "FAST",
    "HBFP",
    "FlexBlock",
]

_ALL: tuple[Quantizer, ...] = (
    *(HBFP(bits) for bits in (8, 12)),
    *(FlexBlock(mode) for mode in (4, 8, 16)),
    *(DBPS(width) for width in (8, 16)),
    FAST(),
    *(BSFP(bits, bits) for bits in (2, 4)),
)
BASELINES: Mapping[str, Quantizer] = MappingProxyType({str(fmt): fmt for fmt in _ALL})
"""The formats by name, which is `str()` of each."""
