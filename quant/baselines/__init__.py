"""Formats to compare with, as fake quantisation on torch tensors (docs/baselines.md)."""

from bfpsim.quant.baselines.bsfp import BSFP
from bfpsim.quant.baselines.catalog import BASELINES, parse_quantizer
from bfpsim.quant.baselines.dbps import DBPS
from bfpsim.quant.baselines.fast import FAST
from bfpsim.quant.baselines.flexblock import FlexBlock
from bfpsim.quant.baselines.hbfp import HBFP
from bfpsim.quant.baselines.msfp import MSFP
from bfpsim.quant.baselines.mx import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX, Element
from bfpsim.quant.baselines.quantizer import Quantizer

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
    "Quantizer",
    "parse_quantizer",
]
