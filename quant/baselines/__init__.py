"""Formats to compare with, as fake quantisation on torch tensors (docs/baselines.md)."""

from quant.baselines.bsfp import BSFP
from quant.baselines.catalog import BASELINES, parse_quantizer
from quant.baselines.dbps import DBPS
from quant.baselines.fast import FAST
from quant.baselines.flexblock import FlexBlock
from quant.baselines.hbfp import HBFP
from quant.baselines.msfp import MSFP
from quant.baselines.mx import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX, Element
from quant.baselines.quantizer import Quantizer

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
