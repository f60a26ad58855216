"""Compiled loops: float32 in boxes under a scale each, and BSFP's search for subwords.

They give what `by_operators` of `quant.baselines.boxes` and of `quant.baselines.subwords` give, bit
for bit.
"""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bfpsim.compiled import compiled
from bfpsim.quant.baselines.subwords import SHORTLIST, STEPS, VECTOR, Pair
from bfpsim.quant.torch.kernels import split

_MAGNITUDE = np.int32(0x7FFFFFFF)

_SHORT = 16
"""Elements side by side under one scale, from which on they are a run of their own."""

_ALONE = 64
"""Vectors of subwords: fewer are not worth a second thread."""

ROUND = 1.5 * 2.0**52
"""Added and taken away, it leaves the nearest whole number, ties to even, of |x| <= 2^51."""


# --- boxes under a scale -------------------------------------------------------------------------


@compiled(nogil=True)
def scale_boxes(
    source, bits, target, box, shift, scale_min, scale_max, fraction_bits, least, binades, largest
):
    """Fill `target` with what `quant.baselines.boxes.by_operators` gives; False if not finite.

    source, target: float32, four axes; bits: the source as int32; box: elements along each axis
    least: exponent of the smallest unit under scale 1
    fraction_bits: up to 2^(fraction_bits + 1) smallest units the unit is that one; then it doubles
        with every binade, of which there are `binades`
    largest: in smallest units

    Rows of boxes at a time, so that memory is read along its last axis. All in float64, where every
    step but the rounding is exact.
    """
    finite = True
    columns, length = source.shape[3], box[3]
    short = length < _SHORT  # then every column has factors of its own
    boxes = -(-columns // length)
    top = np.empty(columns if short else boxes, np.int32)
    unit, per_unit = np.empty(len(top), np.float64), np.empty(len(top), np.float64)
    row = np.empty(columns if short else min(length, columns), np.float64)
    for n in range(0, source.shape[0], box[0]):
        for c in range(0, source.shape[1], box[1]):
            for h in range(0, source.shape[2], box[2]):
                n_end = min(n + box[0], source.shape[0])
                c_end = min(c + box[1], source.shape[1])
                h_end = min(h + box[2], source.shape[2])
                top[:] = 0
                for i in range(n, n_end):
                    for j in range(c, c_end):
                        for k in range(h, h_end):
                            _raise_tops(bits[i, j, k], length, short, top)
                for b in range(boxes):
                    own = slice(b * length, min((b + 1) * length, columns))
                    most = top[own].max() if short else top[b]
                    finite &= most < 0x7F800000
                    exponent = min(max(_exponent(most) - shift, scale_min), scale_max) + least
                    columns_of = own if short else slice(b, b + 1)
                    unit[columns_of] = math.ldexp(1.0, exponent)
                    per_unit[columns_of] = math.ldexp(1.0, -exponent)
                for i in range(n, n_end):
                    for j in range(c, c_end):
                        for k in range(h, h_end):
                            values, out = source[i, j, k], target[i, j, k]
                            if short:
                                for m in range(columns):
                                    row[m] = min(max(values[m] * per_unit[m], -largest), largest)
                                _round(row, fraction_bits, binades)
                                for m in range(columns):
                                    out[m] = row[m] * unit[m] + 0.0  # no -0
                            else:
                                for b in range(boxes):
                                    own = slice(b * length, min((b + 1) * length, columns))
                                    _run(values[own], out[own], row, unit[b], per_unit[b],
                                         fraction_bits, binades, largest)  # fmt: skip
    return finite


@njit(inline="always")
def _raise_tops(bits, length, short, top):
    """The largest magnitudes of each column or box, these elements among them."""
    if short:
        for m in range(len(bits)):
            top[m] = max(top[m], bits[m] & _MAGNITUDE)
    else:
        for b in range(len(top)):
            own, most = bits[b * length : (b + 1) * length], top[b]
            for m in range(len(own)):
                most = max(most, own[m] & _MAGNITUDE)
            top[b] = most


@njit(inline="always")
def _run(values, out, row, unit, per_unit, fraction_bits, binades, largest):
    """Elements side by side under one scale."""
    if binades == 0:
        for m in range(len(values)):
            value = min(max(values[m] * per_unit, -largest), largest)
            out[m] = ((value + ROUND) - ROUND) * unit + 0.0
    else:
        part = row[: len(values)]
        for m in range(len(values)):
            part[m] = min(max(values[m] * per_unit, -largest), largest)
        _round(part, fraction_bits, binades)
        for m in range(len(values)):
            out[m] = part[m] * unit + 0.0


@njit(inline="always")
def _round(row, fraction_bits, binades):
    """Round to whole numbers, ties to even, in wider units from 2^(fraction_bits + 1) on."""
    if binades == 0:
        for m in range(len(row)):
            row[m] = (row[m] + ROUND) - ROUND
    else:
        fields = row.view(np.int64)
        for m in range(len(row)):
            exponent = ((fields[m] >> 52) & 0x7FF) - 1023
            above = min(max(exponent - fraction_bits, 0), binades)
            # 1.5 * 2^(52 + above): the last bit that it leaves is of that unit.
            rounder = ROUND * (1 << above)
            row[m] = (row[m] + rounder) - rounder


@njit(inline="always")
def _exponent(magnitude):
    """floor(log2(x)) of a float32's bits without its sign; -1 of zero, as `torch.frexp` has it."""
    field = magnitude >> 23
    if field == 0:
        if magnitude == 0:
            return -1
        while magnitude < 1 << 23:  # subnormal
            magnitude <<= 1
            field -= 1
        field += 1
    return field - 127


# --- BSFP's two vectors of subwords and their scales ---------------------------------------------


def superpose(
    vectors: NDArray[np.float64],
    result: NDArray[np.float64],
    bits: Pair,
    tops: Pair,
    mantissas: int,
    binades: int,
    threads: int = 1,
) -> None:
    """Fill `result` with what `quant.baselines.subwords.by_operators` gives.

    vectors, result: (n, VECTOR)
    bits, tops: of the coarse and the fine subwords: width, and exponent of their largest scale
    mantissas, binades: how many a scale has
    threads: over which vectors are split; no result depends on it
    """

    def part(first: int, end: int) -> None:
        _superpose(vectors[first:end], result[first:end], bits, tops, mantissas, binades)

    split(part, len(vectors), threads if len(vectors) >= _ALONE else 1)


@compiled(nogil=True, error_model="numpy")
def _superpose(vectors, result, bits, tops, mantissas, binades):
    """A scale and its negative share their quotients: they differ in where subwords saturate."""
    for n in range(len(vectors)):
        values, best = vectors[n], result[n]
        scales = np.empty(len(STEPS) * mantissas)
        errors = np.empty(2 * len(scales))
        coarse, below, above = np.empty(VECTOR), np.empty(VECTOR), np.empty(VECTOR)
        work = np.empty((5, VECTOR))
        _fill_scales(values, bits[0], tops[0], mantissas, binades, scales)
        for c in range(len(scales)):
            for sign in range(2):
                _nearest(values, scales[c], bits[0], sign, coarse)
                errors[2 * c + sign] = _error(values, coarse, work[0])
        best[:] = 0.0
        least = np.inf
        for _ in range(SHORTLIST):
            nearest = int(np.argmin(errors))
            errors[nearest] = np.inf
            scale, sign = scales[nearest >> 1], nearest & 1
            _nearest(values, scale, bits[0], sign, coarse)
            _sides(values, scale, bits[0], sign, below, above)
            least = _add_fine(values, coarse, below, above, bits[1], tops[1], mantissas, binades,
                              least, best, work)  # fmt: skip


@njit(inline="always")
def _fill_scales(values, bits, top, mantissas, binades, scales):
    """Positive scales, in the order in which they are tried."""
    most = 0.0
    for i in range(VECTOR):
        most = max(most, abs(values[i]))
    reach = math.frexp(most)[1] - 1 - (bits - 1)
    for s in range(len(STEPS)):
        exponent = min(max(reach + STEPS[s], top - binades + 1), top)
        for m in range(mantissas):
            scales[s * mantissas + m] = math.ldexp(1 + m / mantissas, exponent)


@njit(inline="always")
def _range(bits, sign):
    """The range of two's-complement subwords; times -1 under a negative scale."""
    half = float(1 << (bits - 1))
    return -half + sign, half - 1 + sign


@njit(inline="always")
def _nearest(values, scale, bits, sign, out):
    """The nearest subwords, times their scale."""
    low, high = _range(bits, sign)
    for i in range(VECTOR):
        quotient = (values[i] / scale + ROUND) - ROUND
        out[i] = min(max(quotient, low), high) * scale


@njit(inline="always")
def _sides(values, scale, bits, sign, below, above):
    """The subwords below and above, times their scale; a negative scale swaps them."""
    low, high = _range(bits, sign)
    direction = 1.0 - 2.0 * sign
    for i in range(VECTOR):
        down = direction * np.floor(direction * values[i] / scale)
        below[i] = min(max(down, low), high) * scale
        above[i] = min(max(down + direction, low), high) * scale


@njit(inline="always")
def _add_fine(values, coarse, below, above, bits, top, mantissas, binades, least, best, work):
    """Take the best fine scale into `best` if it has less than the least error; that error."""
    fold, rest, lows, highs, trial = work[0], work[1], work[2], work[3], work[4]
    for i in range(VECTOR):
        rest[i] = values[i] - coarse[i]
    scales = np.empty(len(STEPS) * mantissas)
    _fill_scales(rest, bits, top, mantissas, binades, scales)
    for c in range(len(scales)):
        scale = scales[c]
        for i in range(VECTOR):
            lows[i] = ((values[i] - below[i]) / scale + ROUND) - ROUND
            highs[i] = ((values[i] - above[i]) / scale + ROUND) - ROUND
        for sign in range(2):
            low, high = _range(bits, sign)
            for i in range(VECTOR):
                one = below[i] + min(max(lows[i], low), high) * scale
                other = above[i] + min(max(highs[i], low), high) * scale
                nearer = abs(one - values[i]) <= abs(other - values[i])
                trial[i] = one if nearer else other
            error = _error(values, trial, fold)
            if error < least:
                least = error
                for i in range(VECTOR):
                    best[i] = trial[i] + 0.0  # no -0
    return least


@njit(inline="always")
def _error(values, result, fold):
    """The sum of squared differences, halves added to halves."""
    for i in range(8):
        first, second = values[i] - result[i], values[i + 8] - result[i + 8]
        fold[i] = first * first + second * second
    for i in range(4):
        fold[i] += fold[i + 4]
    return (fold[0] + fold[2]) + (fold[1] + fold[3])
