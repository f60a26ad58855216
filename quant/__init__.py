"""BFP formats, quantisation and packing (no torch)."""

from quant.blocks import activation_block, weight_block
from quant.formats import (
    BFP,
    Format,
    FormatError,
    LayerFormats,
    Plain,
    Rounding,
    parse_format,
)
from quant.layout import ActivationLayout, WeightLayout
from quant.packing import pack, unpack
from quant.quantize import (
    Quantized,
    dequantize,
    quantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
)

__all__ = [
    "BFP",
    "ActivationLayout",
    "Format",
    "FormatError",
    "LayerFormats",
    "Plain",
    "Quantized",
    "Rounding",
    "WeightLayout",
    "activation_block",
    "dequantize",
    "pack",
    "parse_format",
    "quantize",
    "quantize_activation",
    "quantize_weight",
    "top_exponent",
    "unpack",
    "weight_block",
]
