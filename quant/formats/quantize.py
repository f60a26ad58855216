"""Floats to stored fields and codes, and back.

BFP, MSFP and plain integers are mantissas under a power of two; MX and NVFP4 elements of a narrow
type under a scale (`scaled`); the rest are floats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bfpsim.objects import brief
from bfpsim.quant.formats.blocks import Shape, activation_block, block_maxima, spread, weight_block
from bfpsim.quant.formats.elements import BFLOAT16, decode, encode, nearest
from bfpsim.quant.formats.format import MSFP, TOP_MAX, TOP_MIN, BFloat16, Format
from bfpsim.quant.formats.rounding import FormatError, Rounding
from bfpsim.quant.formats.scaled import (
    MX,
    NVFP4,
    Scaled,
    block_scales,
    of_binade,
    quotient,
    scale_codes,
    tensor_scale_of,
)


@brief
@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A tensor as its stored fields.

    fields: int64, the tensor's shape: mantissas (BFP, MSFP, MXINT8, plain integers), or bit
        patterns of floats
    codes: int64, one per block: distance of the exponent below `top`, or the scale's bit pattern
        (MX, NVFP4); none where a code has 0 bits
    top: E_top, the exponent that code 0 stands for; 0 where a format has none
    fmt, block: the format, and the elements per block along each axis
    scale: of NVFP4, the tensor's scale, an FP32 number; else 1
    """

    fields: NDArray[np.int64]
    codes: NDArray[np.int64]
    top: int
    fmt: Format
    block: Shape
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        return self.fields.shape


def exponents(magnitudes: NDArray[np.float64]) -> NDArray[np.int64]:
    """floor(log2(x)) of positive x, from the float's exponent field; of 0 it is meaningless."""
    return np.frexp(magnitudes)[1].astype(np.int64) - 1


def top_exponent(values: ArrayLike, name: str = "tensor") -> int:
    """E_top calibrated from data: floor(log2(max |x|)), held to 8 bits; 0 if all are zero."""
    largest = np.abs(_finite(values, name)).max(initial=0.0)
    if largest == 0:
        return 0
    return int(np.clip(exponents(np.asarray(largest)), TOP_MIN, TOP_MAX))


def quantize(
    values: ArrayLike,
    fmt: Format,
    block: Shape,
    top: int | None = None,
    name: str = "tensor",
    rng: np.random.Generator | None = None,
) -> Quantized:
    """Quantise floats.

    values: float32 or float64, any shape
    block: elements per block along each axis (`activation_block`, `weight_block`)
    top: E_top; None calibrates it from these values. NVFP4's scale is that of the largest of the
        values, or if E_top is given, of the largest number that it can stand for
    name: of the tensor, for error messages
    rng: source of stochastic rounding; needed there and only there

    Raises FormatError for NaN or infinity, naming the tensor.
    """
    x = _finite(values, name)
    if fmt.is_float:
        return Quantized(_float_bits(x, fmt), _NO_CODES, 0, fmt, block)
    whole = isinstance(top, int | np.integer) and not isinstance(top, bool)
    if top is not None and not (whole and TOP_MIN <= top <= TOP_MAX):
        raise FormatError(f"{name}: E_top={top!r}; allowed: a whole number {TOP_MIN}..{TOP_MAX}")
    if isinstance(fmt, MX | NVFP4):
        return _scaled(x, fmt, block, top)
    if isinstance(fmt, MSFP):
        top = TOP_MAX
    elif top is None:
        top = top_exponent(x)
    m = fmt.mantissa_bits
    codes, exponent = _NO_CODES, np.full((1,) * x.ndim, top, np.int64)
    if fmt.exponent_bits:
        largest_code = (1 << fmt.exponent_bits) - 1
        maxima = block_maxima(np.abs(x), block)
        codes = np.where(
            maxima > 0, np.clip(top - exponents(maxima), 0, largest_code), largest_code
        ).astype(np.int64)
        exponent = spread(top - codes, block, x.shape)
    with np.errstate(over="ignore", under="ignore"):
        units = np.ldexp(x, (m - 2) - exponent)
    limit = float((1 << (m - 1)) - 1)
    mantissas = np.clip(_round(units, fmt.rounding, rng), -limit, limit).astype(np.int64)
    return Quantized(mantissas, codes, top, fmt, block)


def dequantize(q: Quantized) -> NDArray[np.float64]:
    """The values that the fields stand for, exact in float64."""
    return unscaled(q) * q.scale


def unscaled(q: Quantized) -> NDArray[np.float64]:
    """The values but for the tensor's own scale, which a product takes at its end."""
    if isinstance(q.fmt, BFloat16):
        return decode(BFLOAT16, q.fields)
    if isinstance(q.fmt, MX | NVFP4):
        scales = block_scales(q.fmt, spread(q.codes, q.block, q.shape))
        return decode(q.fmt.element, q.fields) * scales
    if q.fmt.is_float:
        if q.fmt.mantissa_bits == 32:
            return q.fields.astype(np.uint32).view(np.float32).astype(np.float64)
        return q.fields.astype(np.uint16).view(np.float16).astype(np.float64)
    top = TOP_MAX if isinstance(q.fmt, MSFP) else q.top
    scale = top - (q.fmt.mantissa_bits - 2)
    if not q.fmt.exponent_bits:
        return np.ldexp(q.fields.astype(np.float64), scale)
    return np.ldexp(q.fields.astype(np.float64), scale - spread(q.codes, q.block, q.shape))


def quantize_activation(
    values: ArrayLike,
    fmt: Format,
    top: int | None = None,
    name: str = "activation",
    rng: np.random.Generator | None = None,
) -> Quantized:
    """Quantise an (N, H, W, channels) tensor in blocks of consecutive channels."""
    return quantize(values, fmt, activation_block(fmt, np.shape(values)), top, name, rng)


def quantize_weight(
    values: ArrayLike,
    fmt: Format,
    top: int | None = None,
    name: str = "weight",
    rng: np.random.Generator | None = None,
) -> Quantized:
    """Quantise (filters, C, R, S) weights in blocks of input channels (depthwise: filters)."""
    return quantize(values, fmt, weight_block(fmt, np.shape(values)), top, name, rng)


_NO_CODES = np.empty(0, np.int64)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    bad = x.size - np.count_nonzero(np.isfinite(x))
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise FormatError(
            f"{name}: {bad} of {x.size} values are NaN or infinite, the first at {first}; "
            "allowed: finite values"
        )
    return x


def scale_below(fmt: Format, top: int) -> float:
    """The tensor's own scale if E_top is all that is known of it: of NVFP4 FP32, else 1."""
    return tensor_scale_of(fmt, of_binade(top)) if isinstance(fmt, NVFP4) else 1.0


def _scaled(x: NDArray[np.float64], fmt: Scaled, block: Shape, top: int | None) -> Quantized:
    if top is None:
        tensor_scale = tensor_scale_of(fmt, float(np.abs(x).max(initial=0.0)))
    else:
        tensor_scale = scale_below(fmt, top)
    codes = scale_codes(fmt, block_maxima(np.abs(x), block), tensor_scale)
    scales = block_scales(fmt, spread(codes, block, x.shape)) * tensor_scale
    units = np.where(scales > 0, quotient(x, np.where(scales > 0, scales, 1.0)), 0.0)
    fields = encode(fmt.element, nearest(fmt.element, units))
    return Quantized(fields, codes, 0, fmt, block, tensor_scale)


def _float_bits(x: NDArray[np.float64], fmt: Format) -> NDArray[np.int64]:
    if isinstance(fmt, BFloat16):
        return encode(BFLOAT16, nearest(BFLOAT16, x))
    with np.errstate(over="ignore", under="ignore"):
        if fmt.mantissa_bits == 32:
            single = np.clip(x, np.finfo(np.float32).min, np.finfo(np.float32).max)
            return single.astype(np.float32).view(np.uint32).astype(np.int64)
        half = np.clip(x, np.finfo(np.float16).min, np.finfo(np.float16).max)
        return half.astype(np.float16).view(np.uint16).astype(np.int64)


def _round(
    x: NDArray[np.float64], rounding: Rounding, rng: np.random.Generator | None
) -> NDArray[np.float64]:
    if rounding is Rounding.NEAREST_EVEN:
        return np.rint(x)
    if rounding is Rounding.TRUNCATE:
        return np.trunc(x)
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    with np.errstate(invalid="ignore"):  # inf - inf, clamped by the caller
        fraction = magnitude - whole
    if rounding is Rounding.NEAREST_AWAY:
        up = fraction >= 0.5
    elif rng is None:
        raise FormatError(
            "stochastic rounding needs a generator: rng=numpy.random.default_rng(seed)"
        )
    else:
        up = rng.random(x.shape) < fraction
    signed: NDArray[np.float64] = np.copysign(whole + up, x)
    return signed
