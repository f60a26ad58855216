"""A layer computed with integers and fractions alone, from the definition of the formats."""

from bisect import bisect_left
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import isfinite

import gfloat
import numpy as np
from gfloat import formats as gfloats

from bfpsim.quant.formats import BFP, Format, LayerFormats
from bfpsim.workloads import ConvLayer
from tests.storage import storage

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
    own = storage(fmt)
    if not own.code:
        return ()
    if tensor != "W":
        return (*index[:3], index[3] // own.block)
    filters, c, *taps = index
    place = tuple(taps) if own.by_tap else ()
    if layer.C == 1:
        return (filters // own.block, *place)
    return (filters, c // own.block, *place)


def quantised(
    values: Exact, tensor: str, layer: ConvLayer, fmt: Format, top: int | None
) -> tuple[Exact, int]:
    """The values that the format keeps, and E_top (calibrated if not given)."""
    largest = max((abs(x) for x in values.values()), default=Fraction(0))
    given = top is not None
    if top is None:
        top = max(-128, min(127, floor_log2(largest))) if largest else 0
    name = str(fmt)
    if name in ("plain32", "plain16"):
        kind = np.float32 if name == "plain32" else np.float16
        return {i: ieee(x, kind) for i, x in values.items()}, 0
    if name == "bf16":
        return {i: nearest_code(x, "bf16") for i, x in values.items()}, 0
    maxima: dict[Index, Fraction] = {}
    for i, x in values.items():
        block = block_of(i, tensor, layer, fmt)
        maxima[block] = max(maxima.get(block, Fraction(0)), abs(x))
    biggest = {i: maxima[block_of(i, tensor, layer, fmt)] for i in values}
    if name == "nvfp4":
        if given:  # the largest float32 of E_top's binade
            largest = (2 - Fraction(1, 2**23)) * Fraction(2) ** top
        return nvfp4(values, biggest, largest), top
    if name.startswith("mx"):
        return mx(values, biggest, *name.removeprefix("mx").partition("-")[::2]), top
    width = storage(fmt).element
    limit = 2 ** (width - 1) - 1
    out = {}
    for i, x in values.items():
        exponent = top
        if isinstance(fmt, BFP):
            largest_code = 2**fmt.exponent_bits - 1
            code = top - floor_log2(biggest[i]) if biggest[i] else largest_code
            exponent = top - max(0, min(largest_code, code))
        elif name.startswith("msfp"):
            exponent = max(-128, min(127, floor_log2(biggest[i]))) if biggest[i] else -128
        unit = Fraction(2) ** (exponent - (width - 2))
        out[i] = max(-limit, min(limit, nearest_even(x / unit))) * unit
    return out, top


# --- narrow floats: gfloat knows what every code stands for --------------------------------------

CODES = {
    "fp8e4m3": gfloats.format_info_ocp_e4m3, "fp8e5m2": gfloats.format_info_ocp_e5m2,
    "fp6e3m2": gfloats.format_info_ocp_e3m2, "fp6e2m3": gfloats.format_info_ocp_e2m3,
    "fp4": gfloats.format_info_ocp_e2m1, "bf16": gfloats.format_info_bfloat16,
}  # fmt: skip


@lru_cache
def magnitudes(name: str) -> list[Fraction]:
    """The finite magnitudes of an element type in the order of their codes: ascending."""
    if name == "int8":
        return [Fraction(n, 64) for n in range(128)]
    info = CODES[name]
    decoded = (gfloat.decode_float(info, code).fval for code in range(2 ** (info.k - 1)))
    return [Fraction(value) for value in decoded if isfinite(value)]


def nearest_code(x: Fraction, name: str) -> Fraction:
    """The nearest of them, a tie to the even code; beyond the largest, that."""
    all_of = magnitudes(name)
    at = bisect_left(all_of, abs(x))
    if at == len(all_of):
        return all_of[-1] * (1 if x > 0 else -1)
    beside = [code for code in (at - 1, at) if code >= 0]
    code = min(beside, key=lambda code: (abs(all_of[code] - abs(x)), code % 2))
    return all_of[code] * (1 if x > 0 else -1)


def mx(values: Exact, biggest: Exact, element: str, how: str) -> Exact:
    """OCP MX v1.0, section 6.3, and other scales in use (`ScaleRounding`)."""
    last = magnitudes(element)[-1]
    emax = floor_log2(last)
    out = {}
    for i, x in values.items():
        exponent = -127
        if largest := biggest[i]:
            if how == "rceil":
                exponent = -floor_log2(last / largest)
            elif how == "ceil":
                exponent = -floor_log2(1 / largest) - emax
            elif how == "even":
                unit = Fraction(2) ** floor_log2(largest) / FRACTION[element]
                exponent = floor_log2(nearest_even(largest / unit) * unit) - emax
            else:
                exponent = floor_log2(largest) - emax
        scale = Fraction(2) ** max(-127, min(127, exponent))
        out[i] = nearest_code(x / scale, element) * scale
    return out


FRACTION = {"int8": 64, "fp8e4m3": 8, "fp8e5m2": 4, "fp6e3m2": 4, "fp6e2m3": 8, "fp4": 2}
"""2 to the power of the bits behind the leading one."""


def nvfp4(values: Exact, biggest: Exact, largest: Fraction) -> Exact:
    """E2M1 under E4M3 under FP32, each the nearest."""
    if not largest:
        return values
    of_tensor = max(ieee(largest / (6 * 448), np.float32), Fraction(1, 2**149))
    out = {}
    for i, x in values.items():
        scale = nearest_code(biggest[i] / 6 / of_tensor, "fp8e4m3") * of_tensor
        out[i] = nearest_code(x / scale, "fp4") * scale if scale else Fraction(0)
    return out


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
    largest = max(map(abs, sums.values()))
    top = max(-128, min(127, floor_log2(largest))) if largest else 0
    return quantised(sums, "O", layer, formats.O, top)[0]
