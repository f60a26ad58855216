"""The design's words on formats and layouts, taken literally with integers, fractions and strings.

Slow and plain on purpose: it takes formats as data and calls nothing of `quant/`.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np

from bfpsim.quant.formats import BFP, Format, Quantized, Rounding

Index = tuple[int, ...]
HALF = Fraction(1, 2)


def floor_log2(x: Fraction) -> int:
    """The power of two at or below positive x, found by comparing."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    while Fraction(2) ** e > x:
        e -= 1
    while Fraction(2) ** (e + 1) <= x:
        e += 1
    return e


def rounded(x: Fraction, how: Rounding) -> int:
    """x as an integer."""
    whole, rest = divmod(abs(x), 1)
    if how is Rounding.TRUNCATE:
        up = False
    elif how is Rounding.NEAREST_AWAY:
        up = rest >= HALF
    else:
        assert how is Rounding.NEAREST_EVEN
        up = rest > HALF or (rest == HALF and whole % 2 == 1)
    return (whole + up) * (1 if x > 0 else -1)


# --- quantisation -------------------------------------------------------------------------------


class Reference(NamedTuple):
    """Scaled values before rounding, mantissas and kept values by element; codes by block."""

    scaled: dict[Index, Fraction]
    mantissas: dict[Index, int]
    kept: dict[Index, Fraction]
    codes: dict[Index, int]
    top: int


def storage_bits(q: Quantized) -> int:
    """Mantissas, exponent codes, and E_top once where the fields are integers."""
    fmt = q.fmt
    width = fmt.bits - fmt.exponent_bits if isinstance(fmt, BFP) else fmt.bits
    codes = q.codes.size * fmt.exponent_bits if isinstance(fmt, BFP) else 0
    scaled = isinstance(fmt, BFP) or fmt.bits not in (16, 32)
    return q.fields.size * width + codes + 8 * scaled


def clamped(x: int, m: int) -> int:
    limit = 2 ** (m - 1) - 1
    return max(-limit, min(limit, x))


def quantised(values: np.ndarray, fmt: BFP, block: Index, top: int | None = None) -> Reference:
    """DESIGN section 3, one element and one block at a time.

    Stochastic rounding is not decided here: its mantissas are those of truncation.
    """
    exact = {i: Fraction(float(values[i])) for i in np.ndindex(values.shape)}
    largest = max(abs(x) for x in exact.values())
    if top is None:
        top = max(-128, min(127, floor_log2(largest))) if largest else 0
    members: dict[Index, list[Index]] = {}
    for i in exact:
        members.setdefault(tuple(a // b for a, b in zip(i, block, strict=True)), []).append(i)
    m, last = fmt.bits - fmt.exponent_bits, 2**fmt.exponent_bits - 1
    how = Rounding.TRUNCATE if fmt.rounding is Rounding.STOCHASTIC else fmt.rounding
    scaled, mantissas, kept, codes = {}, {}, {}, {}
    for b, indices in members.items():
        biggest = max(abs(exact[i]) for i in indices)
        codes[b] = max(0, min(last, top - floor_log2(biggest))) if biggest else last
        unit = Fraction(2) ** (top - codes[b] - (m - 2))
        for i in indices:
            scaled[i] = exact[i] / unit
            mantissas[i] = clamped(rounded(scaled[i], how), m)
            kept[i] = mantissas[i] * unit
    return Reference(scaled, mantissas, kept, codes, top)


def by_index(array: np.ndarray) -> dict[Index, int]:
    return {i: int(array[i]) for i in np.ndindex(array.shape)}


# --- packed streams -----------------------------------------------------------------------------


class Field(NamedTuple):
    """A code or an element, by its index in `Quantized.codes` or `Quantized.fields`."""

    is_code: bool
    index: Index


def activation_stream(shape: Index, fmt: Format) -> Iterator[Field]:
    """Pixel by pixel; a pixel is its blocks; a block is its code, then its mantissas."""
    *pixel, channels = shape
    length = fmt.block_size if isinstance(fmt, BFP) else channels
    for at in product(*map(range, pixel)):
        for low in range(0, channels, length):
            if isinstance(fmt, BFP):
                yield Field(True, (*at, low // length))
            for c in range(low, min(low + length, channels)):
                yield Field(False, (*at, c))


def weight_stream(shape: Index, fmt: Format) -> Iterator[Field]:
    """Filter by filter, a block's mantissas in the order R, S, channel; or blocks of filters."""
    filters, channels, height, width = shape
    taps = list(product(range(height), range(width)))
    if channels == 1:
        length = fmt.block_size if isinstance(fmt, BFP) else filters
        for low in range(0, filters, length):
            if isinstance(fmt, BFP):
                yield Field(True, (low // length, 0, 0, 0))
            for k in range(low, min(low + length, filters)):
                yield from (Field(False, (k, 0, *tap)) for tap in taps)
        return
    length = fmt.block_size if isinstance(fmt, BFP) else channels
    for k in range(filters):
        for low in range(0, channels, length):
            if isinstance(fmt, BFP):
                yield Field(True, (k, low // length, 0, 0))
            for r, s in taps:
                for c in range(low, min(low + length, channels)):
                    yield Field(False, (k, c, r, s))


def stream(shape: Index, fmt: Format, weights: bool) -> Iterator[Field]:
    return (weight_stream if weights else activation_stream)(shape, fmt)


def widths(fmt: Format) -> tuple[int, int]:
    """Bits of an element and of a code."""
    return (fmt.bits - fmt.exponent_bits, fmt.exponent_bits) if isinstance(fmt, BFP) else (
        fmt.bits, 0
    )  # fmt: skip


def positions(shape: Index, fmt: Format, weights: bool) -> dict[Field, range]:
    """Which bits of the packed tensor each field takes."""
    element, code = widths(fmt)
    at, out = 0, {}
    for field in stream(shape, fmt, weights):
        width = code if field.is_code else element
        out[field] = range(at, at + width)
        at += width
    return out


def twos_complement(value: int, width: int) -> str:
    return format(value % 2**width, f"0{width}b")


def bit_string(fields: np.ndarray, codes: np.ndarray, fmt: Format, weights: bool) -> str:
    """The packed tensor as '0' and '1'."""
    element, code = widths(fmt)
    return "".join(
        twos_complement(int(codes[i]), code)
        if is_code
        else twos_complement(int(fields[i]), element)
        for is_code, i in stream(fields.shape, fmt, weights)
    )


def ranges(bits: Iterable[int]) -> list[tuple[int, int]]:
    """A set of bits as maximal half-open ranges."""
    out: list[tuple[int, int]] = []
    for bit in sorted(set(bits)):
        if out and out[-1][1] == bit:
            out[-1] = (out[-1][0], bit + 1)
        else:
            out.append((bit, bit + 1))
    return out


def padding(runs: list[tuple[int, int]], burst: int) -> int:
    """Bits moved beyond the runs when each run moves every burst it touches, whole."""
    bursts = sum(len({bit // burst for bit in range(*run)}) for run in runs)
    return bursts * burst - sum(len(range(*run)) for run in runs)
