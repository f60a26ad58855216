"""A layer computed with integers and fractions alone, from the definition of the formats."""

from fractions import Fraction
from itertools import product

import numpy as np

from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.workloads import ConvLayer

Index = tuple[int, ...]
Exact = dict[Index, Fraction]


def floor_log2(x: Fraction) -> int:
    """floor(log2(x)) of positive x, by comparing with powers of two."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def nearest_even(x: Fraction) -> int:
    """The nearest integer, ties to even (Python's own rounding of fractions)."""
    return round(x)


def block_of(index: Index, tensor: str, layer: ConvLayer, fmt: Format) -> Index:
    """Which block an element belongs to."""
    if not isinstance(fmt, BFP):
        return ()
    if tensor != "W":
        return (*index[:3], index[3] // fmt.block_size)
    filters, c, _, _ = index
    if layer.C == 1:
        return (filters // fmt.block_size,)
    return (filters, c // fmt.block_size)


def quantised(
    values: Exact, tensor: str, layer: ConvLayer, fmt: Format, top: int | None
) -> tuple[Exact, int]:
    """The values that the format keeps, and E_top (calibrated if not given)."""
    largest = max((abs(x) for x in values.values()), default=Fraction(0))
    if top is None:
        top = max(-128, min(127, floor_log2(largest))) if largest else 0
    if not isinstance(fmt, BFP) and fmt.bits in (16, 32):
        kind = np.float32 if fmt.bits == 32 else np.float16
        return {i: ieee(x, kind) for i, x in values.items()}, 0
    limit = 2 ** (fmt.mantissa_bits - 1) - 1
    maxima: dict[Index, Fraction] = {}
    for i, x in values.items():
        block = block_of(i, tensor, layer, fmt)
        maxima[block] = max(maxima.get(block, Fraction(0)), abs(x))
    out = {}
    for i, x in values.items():
        exponent = top
        if isinstance(fmt, BFP):
            largest_code = 2**fmt.exponent_bits - 1
            biggest = maxima[block_of(i, tensor, layer, fmt)]
            code = top - floor_log2(biggest) if biggest else largest_code
            exponent = top - max(0, min(largest_code, code))
        unit = Fraction(2) ** (exponent - (fmt.mantissa_bits - 2))
        out[i] = max(-limit, min(limit, nearest_even(x / unit))) * unit
    return out, top


def ieee(x: Fraction, kind: type) -> Fraction:
    """The IEEE number nearest to x (ties to even), the largest finite one if x is beyond."""
    info = np.finfo(kind)
    if not x:
        return Fraction(0)
    digits = info.nmant + 1
    exponent = max(floor_log2(abs(x)), int(info.minexp))
    unit = Fraction(2) ** (exponent - (digits - 1))
    largest = Fraction(float(info.max))
    return max(-largest, min(largest, nearest_even(x / unit) * unit))


def exact(array: np.ndarray) -> Exact:
    """An array's values by index."""
    return {i: Fraction(float(array[i])) for i in np.ndindex(array.shape)}


def convolution(layer: ConvLayer, inputs: Exact, weights: Exact) -> Exact:
    """Sums of products, straight from the definition of a convolution."""
    (sr, sc), (dr, dc), (top, _, left, _) = layer.strides, layer.dilations, layer.paddings
    out: Exact = {}
    for n, p, q, g, k in product(*map(range, (layer.N, layer.P, layer.Q, layer.G, layer.K))):
        total = Fraction(0)
        for r, s, c in product(range(layer.R), range(layer.S), range(layer.C)):
            pixel = (n, p * sr + r * dr - top, q * sc + s * dc - left, g * layer.C + c)
            if pixel in inputs:  # else padding
                total += inputs[pixel] * weights[g * layer.K + k, c, r, s]
        out[n, p, q, g * layer.K + k] = total
    return out


def layer_output(
    layer: ConvLayer, formats: LayerFormats, inputs: np.ndarray, weights: np.ndarray
) -> Exact:
    """The layer's output values in the format of O, every E_top calibrated."""
    kept_inputs, _ = quantised(exact(inputs), "I", layer, formats.I, None)
    kept_weights, _ = quantised(exact(weights), "W", layer, formats.W, None)
    sums = convolution(layer, kept_inputs, kept_weights)
    return quantised(sums, "O", layer, formats.O, None)[0]
