"""Plain words: IEEE patterns as `struct` writes them, integers as fractions give them."""

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import Plain, Rounding, dequantize, quantize
from tests.quant.oracle import clamped, floor_log2, rounded, storage_bits

CODE = {16: ("e", "H"), 32: ("f", "I")}
LARGEST = {16: (65504.0, 0x7BFF), 32: (float(np.finfo(np.float32).max), 0x7F7FFFFF)}


def pattern(value: float, bits: int) -> int:
    """The IEEE word of a value that does not overflow."""
    number, word = CODE[bits]
    return int(struct.unpack(f">{word}", struct.pack(f">{number}", value))[0])


def test_every_half_keeps_its_pattern() -> None:
    words = [w for w in range(2**16) if w & 0x7C00 != 0x7C00]  # all but infinities and NaNs
    values = struct.unpack(f">{len(words)}e", struct.pack(f">{len(words)}H", *words))
    q = quantize(values, Plain(16), (len(words),))
    assert q.fields.tolist() == words
    assert dequantize(q).tolist() == list(values)
    assert q.codes.size == 0
    assert storage_bits(q) == 16 * len(words)  # no E_top


@pytest.mark.parametrize("bits", [16, 32])
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_floats_are_rounded_once_to_nearest_even(bits: int, data: st.DataObject) -> None:
    largest = LARGEST[bits][0]
    value = data.draw(st.floats(-largest, largest) | st.floats(-1e-6, 1e-6))
    q = quantize([value], Plain(bits), (1,))
    assert q.fields.tolist() == [pattern(value, bits)]
    number = CODE[bits][0]
    assert dequantize(q).tolist() == list(struct.unpack(number, struct.pack(number, value)))


@pytest.mark.parametrize(
    ("bits", "value", "word"),
    [
        (16, 1 + 2**-11, 0x3C00),  # a tie, to even
        (16, 1 + 2**-11 + 2**-40, 0x3C01),  # through float32 it would look like a tie
        (16, 2**-25, 0x0000),  # half the least subnormal
        (16, 2**-25 * 1.5, 0x0001),
        (16, -0.0, 0x8000),
        (32, 1 + 2**-24, 0x3F800000),
        (32, 1 + 2**-24 + 2**-50, 0x3F800001),
        (32, 2**-149, 0x00000001),
        (32, 1e-310, 0x00000000),
    ],
)
def test_float_patterns_by_hand(bits: int, value: float, word: int) -> None:
    assert quantize([value], Plain(bits), (1,)).fields.tolist() == [word]


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("sign", [1, -1])
def test_float_overflow_saturates_to_the_largest_finite(bits: int, sign: int) -> None:
    largest, word = LARGEST[bits]
    step = Fraction(2) ** (floor_log2(Fraction(largest)) - (10 if bits == 16 else 23))
    beyond = [largest, float(Fraction(largest) + step / 2), float(Fraction(largest) + step), 1e308]
    q = quantize([sign * v for v in beyond], Plain(bits), (4,))
    assert q.fields.tolist() == [word | (sign < 0) << (bits - 1)] * 4
    assert dequantize(q).tolist() == [sign * largest] * 4


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(2, 31).filter(lambda bits: bits != 16),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-9, 9)
             | st.integers(-99, 99).map(lambda n: n / 8), min_size=1, max_size=20),
    st.none() | st.integers(-128, 127),
)  # fmt: skip
def test_integers_share_one_scale(bits: int, values: list[float], top: int | None) -> None:
    q = quantize(np.array([values]), Plain(bits), (1, len(values)), top)
    largest = max(abs(Fraction(v)) for v in values)
    calibrated = max(-128, min(127, floor_log2(largest))) if largest else 0
    assert q.top == (calibrated if top is None else top)
    unit = Fraction(2) ** (q.top - (bits - 2))
    expected = [clamped(rounded(Fraction(v) / unit, Rounding.NEAREST_EVEN), bits) for v in values]
    assert q.fields.tolist() == [expected]
    assert [Fraction(v) for v in dequantize(q)[0].tolist()] == [e * unit for e in expected]
    assert q.codes.size == 0
    assert storage_bits(q) == bits * len(values) + 8
