"""Floats to mantissas and exponent codes, and back (DESIGN: BFP format)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bfpsim.objects import brief
from bfpsim.quant.formats.blocks import Shape, activation_block, block_maxima, spread, weight_block
from bfpsim.quant.formats.format import Format, FormatError, Rounding

TOP_MIN, TOP_MAX = -128, 127
"""E_top is an 8-bit two's-complement integer, one per tensor."""
TOP_BITS = 8


@brief
@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A tensor as its stored fields.

    fields: int64, the tensor's shape: mantissas (BFP, plain integers) or IEEE bit patterns
    codes: int64, one exponent code per block: distance below `top`; none where a code has 0 bits
    top: E_top, the exponent that code 0 stands for
    fmt, block: the format, and the elements per block along each axis
    """

    fields: NDArray[np.int64]
    codes: NDArray[np.int64]
    top: int
    fmt: Format
    block: Shape

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
    top: E_top; None calibrates it from these values
    name: of the tensor, for error messages
    rng: source of stochastic rounding; needed there and only there

    Raises FormatError for NaN or infinity, naming the tensor.
    """
    x = _finite(values, name)
    if fmt.is_float:
        return Quantized(_ieee_bits(x, fmt), _NO_CODES, 0, fmt, block)
    if top is None:
        top = top_exponent(x)
    whole = isinstance(top, int | np.integer) and not isinstance(top, bool)
    if not whole or not TOP_MIN <= top <= TOP_MAX:
        raise FormatError(f"{name}: E_top={top!r}; allowed: a whole number {TOP_MIN}..{TOP_MAX}")
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
    if q.fmt.is_float:
        if q.fmt.bits == 32:
            return q.fields.astype(np.uint32).view(np.float32).astype(np.float64)
        return q.fields.astype(np.uint16).view(np.float16).astype(np.float64)
    scale = q.top - (q.fmt.mantissa_bits - 2)
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


def _ieee_bits(x: NDArray[np.float64], fmt: Format) -> NDArray[np.int64]:
    with np.errstate(over="ignore", under="ignore"):
        if fmt.bits == 32:
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
