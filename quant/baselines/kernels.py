"""Compiled loops of BSFP's search for subwords.

They give what `by_operators` of `quant.baselines.subwords` gives, bit for bit.
"""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bfpsim.compiled import compiled
from bfpsim.quant.baselines.subwords import SHORTLIST, STEPS, VECTOR, Pair
from bfpsim.quant.torch.box_kernels import ROUND
from bfpsim.quant.torch.kernels import split

_ALONE = 64
"""Vectors of subwords: fewer are not worth a second thread."""


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
