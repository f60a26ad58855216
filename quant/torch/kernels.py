"""Compiled fake quantisation of float32: one pass over memory, block by block.

`fake_quantize_runs` is for blocks that are contiguous in memory (channels last, tokens, weights),
`fake_quantize_lanes` for blocks across rows (channels first): there, neighbouring pixels are done
side by side. A kernel is compiled at the first use of its rounding and block size, and kept on
disk. It releases the GIL: a tensor is split over threads, and no result depends on how.

A tile whose blocks all have a normal unit is done in float32, where multiplying by a power of two
is exact; any other (values near the ends of the exponent range, mantissas wider than float32's) in
float64, where it always is.
"""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numpy.typing import NDArray

from bfpsim.compiled import compiled
from bfpsim.quant.formats import Rounding

Result = TypeVar("Result")

INFINITY = 0x7F800000
"""Bits of float32 infinity: magnitudes from here on are not finite."""

_MAGNITUDE = 0x7FFFFFFF
_TILE = 1024
"""Elements whose exponents are worked out before any is quantised; they stay in cache."""
_VECTOR = 16
"""Elements at a time in the search for a block's maximum; fewer if short blocks need it."""
_ALONE = 1 << 16
"""Tensors of fewer elements are not worth a second thread."""

_NEAREST_EVEN, _NEAREST_AWAY, _TRUNCATE, _STOCHASTIC = range(4)
_ROUNDINGS = {
    Rounding.NEAREST_EVEN: _NEAREST_EVEN,
    Rounding.NEAREST_AWAY: _NEAREST_AWAY,
    Rounding.TRUNCATE: _TRUNCATE,
    Rounding.STOCHASTIC: _STOCHASTIC,
}


class Rule(NamedTuple):
    """The range of exponents, and how mantissas are rounded.

    lowest, highest: the exponents that a code can name
    mantissa_bits: m, sign included [bit]
    rounding: of mantissas
    seed: of stochastic rounding, 0..2^63-1
    """

    lowest: int
    highest: int
    mantissa_bits: int
    rounding: Rounding
    seed: int = 0


def fake_quantize_runs(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    saturated: NDArray[np.bool_] | None,
    rule: Rule,
    row: int,
    block: int,
    pixels: int = 1,
    threads: int = 1,
) -> int:
    """Quantise rows of `row` elements in blocks of `block` contiguous ones, the last one short.

    source, target: flat, of the same length; target may be source
    saturated: where to mark clipped elements, or None
    pixels: rows per image where the rows are pixels of channels-last images: the draws of
    stochastic rounding go by the logical position, channels first

    Returns the bits of the largest magnitude: below INFINITY, or the target means nothing.
    """
    width = math.gcd(block, _VECTOR) if block < 4 * _VECTOR else _VECTOR
    kernel = _runs_kernel(_ROUNDINGS[rule.rounding], saturated is not None, width)
    units = source.size // row * -(-row // block)
    return _parallel(kernel, source, target, saturated, units, (row, block, pixels), rule, threads)


def fake_quantize_lanes(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    saturated: NDArray[np.bool_] | None,
    rule: Rule,
    channels: int,
    lanes: int,
    block: int,
    threads: int = 1,
) -> int:
    """Quantise (..., channels, lanes): a block is `block` channels of one lane, the last one short.

    Otherwise as `fake_quantize_runs`.
    """
    kernel = _lanes_kernel(_ROUNDINGS[rule.rounding], saturated is not None)
    units = source.size // (channels * lanes) * -(-channels // block) * -(-lanes // _TILE)
    shape = (channels, lanes, block)
    return _parallel(kernel, source, target, saturated, units, shape, rule, threads)


def _parallel(
    kernel: Callable[..., int],
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    saturated: NDArray[np.bool_] | None,
    units: int,
    shape: tuple[int, int, int],
    rule: Rule,
    threads: int,
) -> int:
    arrays = (source, source.view(np.int32), target, _NO_MASK if saturated is None else saturated)

    def part(first: int, end: int) -> int:
        return kernel(*arrays, first, end, *shape, rule.lowest, rule.highest,
                      rule.mantissa_bits, rule.seed)  # fmt: skip

    return max(split(part, units, threads if source.size >= _ALONE else 1))


_NO_MASK = np.empty(0, np.bool_)


# --- threads ------------------------------------------------------------------------------------
# numba's own parallel loops do not survive a fork, and do not ask torch how many threads to take.


def split(part: Callable[[int, int], Result], units: int, threads: int) -> list[Result]:
    """Run ``part(first, end)`` for pieces of ``range(units)``; the results in their order.

    part: releases Python's lock, as kernels compiled with ``nogil`` do
    """
    if threads == 1:
        return [part(0, units)]
    pieces = max(min(units, 4 * threads), 1)  # some to spare: threads seldom advance evenly
    edges = [units * i // pieces for i in range(pieces + 1)]
    return list(_pool(os.getpid(), threads).map(part, edges, edges[1:]))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One per process: the threads of a parent do not live on in its fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="quantize")


# --- one number ---------------------------------------------------------------------------------


@njit
def _draw(seed, index):
    """A uniform float32 in (0, 1) that depends on the seed and the element's index alone.

    SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014),
    its draw number `index`; then an odd multiple of 2^-24, so that P(draw < k / 2^23) = k / 2^23.
    """
    z = np.uint64(seed) + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float32(np.int32(z >> np.uint64(40)) | np.int32(1)) * np.float32(2.0**-24)


@njit
def _round(x, draw, rounding):
    """A whole number in x's type, never -0; infinity stays."""
    zero, one, half = type(x)(0), type(x)(1), type(x)(0.5)
    if rounding == _NEAREST_EVEN:
        return np.rint(x) + zero
    whole = np.trunc(x)
    if rounding == _TRUNCATE:
        return whole + zero
    rest = x - whole
    if rounding == _NEAREST_AWAY:
        return whole + (one if rest >= half else zero) - (one if rest <= -half else zero)
    return whole + (one if rest > draw else zero) - (one if rest < -draw else zero)


@njit
def _exponent(largest, lowest, highest):
    """E of a block from the bits of its largest magnitude.

    A subnormal is a whole number of 2^-149. An all-zero block is zero with any exponent.
    """
    normal = (largest >> np.int32(23)) - np.int32(127)
    subnormal = (np.float32(largest).view(np.int32) >> np.int32(23)) - np.int32(127 + 149)
    exponent = normal if normal > np.int32(-127) else subnormal
    exponent = min(max(exponent, np.int32(lowest)), np.int32(highest))
    return exponent if largest > np.int32(0) else np.int32(0)


@njit
def _is_wide(exponent, m):
    """True if float32 is too narrow for the unit 2^(E-m+2), its inverse or a mantissa."""
    return m > 25 or exponent < m - 128 or exponent > m + 124


# --- a tile: exponents known, draws made --------------------------------------------------------


@njit
def _narrow(source, target, saturated, exponents, draws, m, rounding, masked):
    limit = np.float32((1 << (m - 1)) - 1)
    below = np.int32(m - 2)
    for i in range(len(source)):
        unit = np.int32(exponents[i] - below)
        scale = np.int32(np.int32(127 - unit) << np.int32(23)).view(np.float32)
        draw = draws[i] if rounding == _STOCHASTIC else np.float32(0)
        mantissa = _round(source[i] * scale, draw, rounding)
        if masked:
            saturated[i] = abs(mantissa) > limit
        mantissa = min(max(mantissa, -limit), limit)
        target[i] = mantissa * np.int32(np.int32(127 + unit) << np.int32(23)).view(np.float32)


@njit
def _wide(source, target, saturated, exponents, draws, m, rounding, masked):
    limit = np.float64((1 << (m - 1)) - 1)
    for i in range(len(source)):
        unit = np.int64(exponents[i]) - (m - 2)
        scale = np.int64((1023 - unit) << 52).view(np.float64)
        draw = np.float64(draws[i]) if rounding == _STOCHASTIC else 0.0
        mantissa = _round(np.float64(source[i]) * scale, draw, rounding)
        if masked:
            saturated[i] = abs(mantissa) > limit
        mantissa = min(max(mantissa, -limit), limit)
        target[i] = np.float32(mantissa * np.int64((1023 + unit) << 52).view(np.float64))


@njit
def _quantise(source, target, saturated, exponents, draws, wide, m, rounding, masked):
    if wide:
        _wide(source, target, saturated, exponents, draws, m, rounding, masked)
    else:
        _narrow(source, target, saturated, exponents, draws, m, rounding, masked)


# --- kernels ------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def _vector_largest(context, bits, count):
    """The largest magnitude of `count` (a constant) int32 words, in one vector."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    vector = ir.VectorType(ir.IntType(32), count.literal_value)

    def emit(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        words = builder.load(builder.bitcast(array.data, vector.as_pointer()), align=4)
        magnitudes = builder.and_(words, ir.Constant(vector, [_MAGNITUDE] * vector.count))
        name = f"llvm.vector.reduce.smax.v{vector.count}i32"
        reduce_type = ir.FunctionType(ir.IntType(32), [vector])
        return builder.call(get_or_insert_function(builder.module, reduce_type, name), [magnitudes])

    return types.int32(bits, count), emit


@cache
def _runs_kernel(rounding: int, masked: bool, width: int) -> Any:
    stochastic = rounding == _STOCHASTIC

    @compiled(nogil=True)
    def kernel(source, bits, target, saturated, first, end, row, block, pixels,
               lowest, highest, m, seed):  # fmt: skip
        per_row, tile = -(-row // block), max(1, _TILE // block)
        exponents = np.empty(tile * block, np.int32)
        draws = np.empty(tile * block if stochastic else 0, np.float32)
        largest = np.int32(0)
        channel = first % per_row * block
        at = first // per_row * row + channel
        for b in range(first, end, tile):
            start, wide = at, False
            for _ in range(min(tile, end - b)):
                length = min(block, row - channel)
                whole = length - length % width
                top = np.int32(0)
                for k in range(at, at + whole, width):
                    words = bits[k : k + width]
                    top = max(top, _vector_largest(words, width))  # type: ignore[call-arg]
                for k in range(at + whole, at + length):
                    top = max(top, bits[k] & np.int32(_MAGNITUDE))
                exponent = _exponent(top, lowest, highest)
                exponents[at - start : at - start + length] = exponent
                if stochastic:
                    pixel, image = at // row % pixels, at // (row * pixels)
                    index = image * row * pixels + channel * pixels + pixel
                    for k in range(length):
                        draws[at - start + k] = _draw(seed, index + k * pixels)
                largest = max(largest, top)
                wide |= _is_wide(exponent, m)
                at += length
                channel = channel + length if channel + length < row else 0
            _quantise(source[start:at], target[start:at], saturated[start:at],
                      exponents, draws, wide, m, rounding, masked)  # fmt: skip
        return largest

    return kernel


@cache
def _lanes_kernel(rounding: int, masked: bool) -> Any:
    stochastic = rounding == _STOCHASTIC

    @compiled(nogil=True)
    def kernel(source, bits, target, saturated, first, end, channels, lanes, block,
               lowest, highest, m, seed):  # fmt: skip
        blocks, tiles = -(-channels // block), -(-lanes // _TILE)
        exponents = np.empty(_TILE, np.int32)
        draws = np.empty(_TILE if stochastic else 0, np.float32)
        largest = np.int32(0)
        for unit in range(first, end):
            plane, b, tile = unit // (blocks * tiles), unit // tiles % blocks, unit % tiles
            rows, width = min(block, channels - b * block), min(_TILE, lanes - tile * _TILE)
            start = (plane * channels + b * block) * lanes + tile * _TILE
            end_row = start + rows * lanes
            tops = exponents[:width]
            tops[:] = 0
            for at in range(start, end_row, lanes):
                words = bits[at : at + width]
                for i in range(width):
                    tops[i] = max(tops[i], words[i] & np.int32(_MAGNITUDE))
            wide = False
            for i in range(width):
                largest = max(largest, tops[i])
                tops[i] = _exponent(tops[i], lowest, highest)
                wide |= _is_wide(tops[i], m)
            for at in range(start, end_row, lanes):
                if stochastic:
                    for i in range(width):
                        draws[i] = _draw(seed, at + i)
                _quantise(source[at : at + width], target[at : at + width],
                          saturated[at : at + width], exponents, draws,
                          wide, m, rounding, masked)  # fmt: skip
        return largest

    return kernel
