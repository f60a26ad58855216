"""Compiled loops: float32 in boxes under a power-of-two scale each.

They give what `by_operators` of `quant.torch.boxes` gives, bit for bit.
"""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import math

import numpy as np
from numba import njit

from bfpsim.compiled import compiled

_MAGNITUDE = np.int32(0x7FFFFFFF)

_SHORT = 16
"""Elements side by side under one scale, from which on they are a run of their own."""

ROUND = 1.5 * 2.0**52
"""Added and taken away, it leaves the nearest whole number, ties to even, of |x| <= 2^51."""


@compiled(nogil=True)
def scale_boxes(
    source, bits, target, box, shift, scale_min, scale_max, carry, fraction_bits, least, binades,
    largest
):  # fmt: skip
    """Fill `target` with what `quant.torch.boxes.by_operators` gives; False if not finite.

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
                    exponent = _exponent(most)
                    if carry < 2.0:
                        magnitude = np.float64(np.int32(most).view(np.float32))
                        exponent += math.ldexp(magnitude, -exponent) >= carry
                    exponent = min(max(exponent - shift, scale_min), scale_max) + least
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
