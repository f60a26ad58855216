"""A compiled loop: float32 to a minifloat and back.

It gives what `MiniFloat.rounded`'s operators give, bit for bit.
"""

# numba's decorators and the compiled functions are untyped.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numpy as np
from numba import njit

FRACTION = 23  # bits of float32
BIAS = 127


@njit(cache=True, nogil=True)
def round_bits(source, target, mantissa_bits, bias, nearest, beyond):
    """Fill `target` with the patterns of rounded numbers.

    source, target: patterns of float32 as int32
    bias: of the minifloat's exponent
    nearest: to the nearest, ties to even; else towards zero
    beyond: pattern of what is larger than the largest number
    """
    hidden = np.int32(1 << FRACTION)
    fraction = np.int32(hidden - 1)
    special = np.int32(255 << FRACTION)
    ones = ((1 << mantissa_bits) - 1) << (FRACTION - mantissa_bits)
    largest = np.int32(((bias + BIAS) << FRACTION) | ones)
    least = np.int32(1 - bias + BIAS)  # field of the least normal exponent
    plain = np.int32(FRACTION - mantissa_bits)
    for at in range(len(source)):
        bits = source[at]
        magnitude = bits & np.int32(0x7FFFFFFF)
        code = magnitude >> FRACTION
        significand = magnitude & fraction
        if code > 0:
            significand |= hidden
        else:
            code = np.int32(1)
        dropped, odd = plain, magnitude
        if code < least:
            dropped, odd = min(np.int32(plain + least - code), np.int32(FRACTION + 2)), significand
        addend = np.int32(0)
        if nearest and dropped > 0:
            addend = (
                ((np.int32(1) << dropped) >> 1) - np.int32(1) + ((odd >> dropped) & np.int32(1))
            )
        whole = ((significand + addend) >> dropped) << dropped
        result = np.int32(0)
        if whole != 0:
            result = magnitude - significand + whole
        if result > largest:
            result = beyond
        if magnitude >= special:
            result = magnitude
        target[at] = result | (bits ^ magnitude)
