"""Compiled: float32 in boxes of up to four axes, each under a scale of its own."""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def scale_boxes(
    source, bits, target, box, shift, scale_min, scale_max, exponent_min, units, largest
):
    """Fill `target` with what `quant.baselines.boxes.by_operators` gives; False if not finite.

    source, target: float32, four axes; bits: the source as int32; box: elements along each axis
    units: of the elements' exponents from `exponent_min` on. All is done in float64, like there
    """
    finite = True
    for n in range(0, source.shape[0], box[0]):
        for c in range(0, source.shape[1], box[1]):
            for h in range(0, source.shape[2], box[2]):
                for w in range(0, source.shape[3], box[3]):
                    n_end = min(n + box[0], source.shape[0])
                    c_end = min(c + box[1], source.shape[1])
                    h_end = min(h + box[2], source.shape[2])
                    w_end = min(w + box[3], source.shape[3])
                    top = 0
                    for i in range(n, n_end):
                        for j in range(c, c_end):
                            for k in range(h, h_end):
                                for m in range(w, w_end):
                                    top = max(top, bits[i, j, k, m] & 0x7FFFFFFF)
                    finite &= top < 0x7F800000
                    exponent = _exponent(top) - shift
                    exponent = min(max(exponent, scale_min), scale_max)
                    scale, inverse = math.ldexp(1.0, exponent), math.ldexp(1.0, -exponent)
                    for i in range(n, n_end):
                        for j in range(c, c_end):
                            for k in range(h, h_end):
                                for m in range(w, w_end):
                                    own = 0
                                    if len(units) > 1:
                                        own = _exponent(bits[i, j, k, m] & 0x7FFFFFFF) - exponent
                                        own = min(max(own - exponent_min, 0), len(units) - 1)
                                    value = float(source[i, j, k, m]) * inverse
                                    value = np.rint(value / units[own]) * units[own]
                                    value = min(max(value, -largest), largest)
                                    target[i, j, k, m] = value * scale + 0.0
    return finite


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
