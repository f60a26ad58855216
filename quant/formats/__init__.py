"""Number formats: which there are, how tensors are stored in them, and exact sums of them."""

from bfpsim.quant.formats.blocks import activation_block, weight_block
from bfpsim.quant.formats.elements import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, Element
from bfpsim.quant.formats.format import (
    BFP,
    INDUSTRY,
    MSFP,
    TENSORS,
    BFloat16,
    Format,
    FormatSource,
    LayerFormats,
    PartialSums,
    Plain,
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
from bfpsim.quant.formats.rounding import FormatError, Rounding
from bfpsim.quant.formats.scaled import MX, NVFP4, ScaleRounding

__all__ = [
    "BFP",
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "INDUSTRY",
    "INT8",
    "MSFP",
    "MX",
    "NVFP4",
    "TENSORS",
    "ActivationLayout",
    "BFloat16",
    "Element",
    "Format",
    "FormatError",
    "FormatSource",
    "LayerFormats",
    "PartialSums",
    "Plain",
    "Quantized",
    "Rounding",
    "ScaleRounding",
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
