"""Number formats: which there are, how tensors are stored in them, and exact sums of them."""

from bfpsim.quant.formats.blocks import activation_block, weight_block
from bfpsim.quant.formats.format import (
    BFP,
    TENSORS,
    Format,
    FormatError,
    FormatSource,
    LayerFormats,
    PartialSums,
    Plain,
    Rounding,
    TensorName,
    candidates,
    layer_formats,
    parse_format,
)
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout
from bfpsim.quant.formats.packing import pack, unpack
from bfpsim.quant.formats.quantize import (
    Quantized,
    dequantize,
    quantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
)

__all__ = [
    "BFP",
    "TENSORS",
    "ActivationLayout",
    "Format",
    "FormatError",
    "FormatSource",
    "LayerFormats",
    "PartialSums",
    "Plain",
    "Quantized",
    "Rounding",
    "TensorName",
    "WeightLayout",
    "activation_block",
    "candidates",
    "dequantize",
    "layer_formats",
    "pack",
    "parse_format",
    "quantize",
    "quantize_activation",
    "quantize_weight",
    "top_exponent",
    "unpack",
    "weight_block",
]
