"""Every mantissa and every exponent code equals what fractions give from the design."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import (
    BFP,
    FormatError,
    Plain,
    Rounding,
    activation_block,
    dequantize,
    quantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
    weight_block,
)
from tests.quant.oracle import by_index, clamped, quantised, storage_bits

DETERMINISTIC = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TRUNCATE)
CANDIDATES = [(16, se) for se in range(2, 8)] + [(8, se) for se in range(2, 7)]
BLOCKS = (1, 2, 4, 8, 16, 24, 32, 48)
MAX32 = float(np.finfo(np.float32).max)
TINY32 = 2.0**-149  # the least float32 subnormal


def check(values: np.ndarray, fmt: BFP, block: tuple[int, ...], top: int | None = None) -> None:
    """Fields, codes and E_top equal the reference's, and dequantise to what they stand for."""
    q = quantize(values, fmt, block, top)
    expected = quantised(values, fmt, block, top)
    assert q.top == expected.top
    assert by_index(q.codes) == expected.codes
    assert by_index(q.fields) == expected.mantissas
    assert storage_bits(q) == (
        values.size * (fmt.bits - fmt.exponent_bits) + len(expected.codes) * fmt.exponent_bits + 8
    )
    kept = dequantize(q)
    assert {i: Fraction(float(kept[i])) for i in np.ndindex(kept.shape)} == expected.kept
    again = quantize(kept, fmt, block, q.top)  # what a format holds, it keeps
    assert np.array_equal(again.fields, q.fields)
    assert np.array_equal(again.codes, q.codes)


# --- adversarial tensors ------------------------------------------------------------------------


def pixels(values: list[float]) -> np.ndarray:
    """An activation of two pixels: the values, then their negatives in reverse."""
    return np.array([[[values, [-v for v in reversed(values)]]]], np.float64)


def just_below_powers() -> list[float]:
    doubles = [math.nextafter(2.0**k, 0) for k in range(-8, 9)]
    singles = [float(np.nextafter(np.float32(2.0**k), np.float32(0))) for k in range(-8, 9)]
    return doubles + singles + [2.0**k for k in range(-8, 9)]


def ties() -> list[float]:
    """Halves between mantissas of up to 14 bits, and their neighbours on both sides."""
    halves = [(2 * n + 1) / 2**k for k in range(2, 15) for n in (0, 1, 2, 2 ** (k - 2))]
    return [math.nextafter(h, side) for h in halves for side in (0, h, 9)]


ADVERSARIES = {
    "just below powers of two": pixels(just_below_powers()),
    "ties": pixels([1.0, *ties()]),
    "subnormals": pixels([TINY32 * n for n in (1, 2, 3, 5, 7, 2**22, 2**23 - 1)] * 8),
    "doubles' subnormals": pixels([5e-324 * n for n in (1, 2, 3, 0)] * 13),
    "all zero": pixels([0.0] * 50),
    "zero blocks between": pixels(([0.0] * 48 + [1.75, 0.0, -3.0]) * 2),
    "negative zero": pixels([-0.0, 0.0] * 25),
    "largest floats": pixels([MAX32, 1.0, -MAX32, MAX32 / 3] * 13),
    "largest doubles": pixels([1.7e308, MAX32, 2.0**127, 2.0**128] * 13),
    "whole range": pixels([1.9 * 2.0**k for k in range(-149, 128, 5)]),
    "a short tail": pixels([1.0] * 48 + [2.0**-5 * 1.3]),
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_adversarial_tensors_in_candidate_formats(name: str, rounding: Rounding) -> None:
    values = ADVERSARIES[name]
    for turn, (bits, exponent_bits) in enumerate(CANDIDATES):
        for block_size in BLOCKS[turn % 4 :: 4]:  # each format two sizes, all sizes many formats
            fmt = BFP(bits, exponent_bits, block_size, rounding)
            check(values, fmt, activation_block(fmt, values.shape))


@pytest.mark.parametrize("block_size", BLOCKS)
@pytest.mark.parametrize(("bits", "exponent_bits"), CANDIDATES)
def test_every_candidate_format(bits: int, exponent_bits: int, block_size: int) -> None:
    values = just_below_powers()[::2] + [0.0] * 50 + ties()[::9] + [TINY32, MAX32, -1.0]
    check(np.array([values]), BFP(bits, exponent_bits, block_size), (1, block_size))


@pytest.mark.parametrize("top", [-128, -127, -5, 0, 3, 127])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversarial_tensors_below_and_above_a_given_top(name: str, top: int) -> None:
    for (bits, exponent_bits), rounding in zip(CANDIDATES, DETERMINISTIC * 4, strict=False):
        check(ADVERSARIES[name], BFP(bits, exponent_bits, 16, rounding), (1, 1, 1, 16), top)


# --- random tensors -----------------------------------------------------------------------------

values_like_data = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-4, 4),
    st.builds(math.ldexp, st.integers(-(2**16), 2**16), st.integers(-20, 2)),  # many ties
    st.builds(lambda k, sign: sign * math.nextafter(2.0**k, 0), st.integers(-140, 128),
              st.sampled_from([-1, 1])),
    st.sampled_from([0.0, MAX32, -MAX32, TINY32, -TINY32]),
)  # fmt: skip
palettes = st.lists(values_like_data, min_size=1, max_size=10)
formats = st.builds(
    lambda widths, block, rounding: BFP(*widths, block, rounding),
    st.one_of(
        st.sampled_from(CANDIDATES),
        st.tuples(st.integers(3, 32), st.integers(1, 8)).filter(lambda w: w[0] - w[1] >= 2),
    ),
    st.one_of(st.sampled_from(BLOCKS), st.integers(1, 48)),
    st.sampled_from(DETERMINISTIC),
)
tops = st.none() | st.integers(-128, 127)


def painted(shape: tuple[int, ...], palette: list[float], seed: int) -> np.ndarray:
    """A tensor of the palette's values in float32's range, with a run of zeros, as either float."""
    rng = np.random.default_rng(seed)
    values = np.clip(rng.choice(np.array(palette), shape), -MAX32, MAX32)
    start, length = rng.integers(0, (values.size, 60))
    values.flat[start : start + length] = 0
    return values.astype(np.float32) if rng.random() < 0.5 else values


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 70)),
    palettes, formats, tops, st.integers(0, 2**32),
)  # fmt: skip
def test_activations_equal_the_reference(shape, palette, fmt: BFP, top, seed: int) -> None:
    values = painted(shape, palette, seed)
    check(values, fmt, (1, 1, 1, fmt.block_size), top)
    whole = quantize_activation(values, fmt, top)
    assert by_index(whole.codes) == quantised(values, fmt, (1, 1, 1, fmt.block_size), top).codes


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
    palettes, formats, tops, st.integers(0, 2**32),
)  # fmt: skip
def test_weights_equal_the_reference(shape, palette, fmt: BFP, top, seed: int) -> None:
    if seed % 3 == 0:
        shape = (shape[1] * 2, 1, *shape[2:])  # depthwise
    values = painted(shape, palette, seed)
    sizes = (fmt.block_size, 1) if shape[1] == 1 else (1, fmt.block_size)
    check(values, fmt, (*sizes, *shape[2:]), top)
    q = quantize_weight(values, fmt, top)
    expected = quantised(values, fmt, (*sizes, *shape[2:]), top)
    assert by_index(q.codes) == expected.codes
    assert by_index(q.fields) == expected.mantissas


# --- exponent codes -----------------------------------------------------------------------------


@pytest.mark.parametrize("exponent_bits", range(1, 9))
def test_every_exponent_code(exponent_bits: int) -> None:
    """One block per binade, from three above E_top to three below the last code."""
    top, last, m = 20, 2**exponent_bits - 1, 6
    fmt = BFP(m + exponent_bits, exponent_bits, 1)
    distances = range(-3, last + 4)
    values = np.array([1.5 * 2.0 ** (top - d) for d in distances])
    q = quantize(values, fmt, (1,), top)
    assert q.codes.tolist() == [0, 0, 0, *range(last + 1), last, last, last]
    above, below = [31, 31, 31], [12, 6, 3]  # clipped at 2^(m-1)-1; 24 shifted out bit by bit
    assert q.fields.tolist() == above + [24] * (last + 1) + below
    assert dequantize(q)[3:].tolist() == values[3:].tolist()
    assert dequantize(q)[:3].tolist() == [31 / 16 * 2.0**top] * 3


@pytest.mark.parametrize("k", [-149, -127, -126, -1, 0, 1, 24, 127])
def test_the_exponent_just_below_a_power_of_two_is_the_lower_one(k: int) -> None:
    below = float(np.nextafter(np.float32(2.0**k), np.float32(0)))
    if below:
        assert top_exponent([below]) == max(k - 1, -128)
    assert top_exponent([math.nextafter(2.0**k, 0)]) == max(k - 1, -128)
    assert top_exponent([2.0**k]) == max(k, -128)


def test_top_is_calibrated_from_magnitudes_and_held_to_eight_bits() -> None:
    assert top_exponent([[0.1, -6.0], [3.9, 0.0]]) == 2
    assert top_exponent([MAX32]) == 127
    assert top_exponent([2.0**500]) == 127
    assert top_exponent([TINY32]) == -128
    assert top_exponent([0.0, -0.0]) == 0


def test_an_all_zero_block_has_the_largest_code() -> None:
    q = quantize(np.array([0.0, 0.0, 8.0, 0.0, -0.0]), BFP(8, 3, 2), (2,))
    assert q.codes.tolist() == [7, 0, 7]
    assert q.fields.tolist() == [0, 0, 8, 0, 0]


# --- rounding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("m", [2, 3, 5, 14])
def test_a_mantissa_that_rounds_up_to_the_next_power_saturates(rounding: Rounding, m: int) -> None:
    """The exponent stays: 1.99.. is 01.11..1, not 10.00..0."""
    almost = math.nextafter(2.0, 0)
    fmt = BFP(m + 2, 2, 2, rounding)
    q = quantize(np.array([almost, -almost]), fmt, (2,), rng=np.random.default_rng(1))
    assert q.codes.tolist() == [0]
    assert q.top == 0
    assert q.fields.tolist() == [2 ** (m - 1) - 1, 1 - 2 ** (m - 1)]


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (Rounding.NEAREST_EVEN, [0, 0, 1, 2, 2, 2, 3, 4]),
        (Rounding.NEAREST_AWAY, [0, 1, 1, 2, 2, 3, 3, 4]),
        (Rounding.TRUNCATE, [0, 0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_quarters_and_halves_by_hand(rounding: Rounding, expected: list[int]) -> None:
    steps = np.array([0.25, 0.5, 0.75, 1.5, 1.75, 2.5, 2.75, 3.5])
    for sign in (1, -1):  # m = 6, E = 4: a step is 1
        q = quantize(sign * np.append(steps, 16.0), BFP(8, 2, 9, rounding), (9,))
        assert q.fields.tolist() == [*(sign * v for v in expected), sign * 16]


@pytest.mark.parametrize("fraction", [0.0625, 0.25, 0.5, 0.75, 0.9375])
@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased(fraction: float, sign: int) -> None:
    """The mean of n draws is within 5 standard deviations of the value."""
    n, value = 40_000, 16 + fraction  # m = 6, E = 4: a step is 1
    fmt = BFP(8, 2, 1, Rounding.STOCHASTIC)
    q = quantize(np.full(n, sign * value), fmt, (1,), rng=np.random.default_rng(2024))
    assert set(q.fields.tolist()) == {sign * 16, sign * 17}
    assert abs(dequantize(q).mean() - sign * value) < 5 * math.sqrt(fraction * (1 - fraction) / n)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(palettes, formats, tops, st.integers(0, 2**32))
def test_stochastic_rounding_takes_one_of_the_two_neighbours(palette, fmt, top, seed) -> None:
    fmt = BFP(fmt.bits, fmt.exponent_bits, fmt.block_size, Rounding.STOCHASTIC)
    values = painted((3, 40), palette, seed)
    q = quantize(values, fmt, (1, fmt.block_size), top, rng=np.random.default_rng(seed))
    expected = quantised(values, fmt, (1, fmt.block_size), top)
    assert by_index(q.codes) == expected.codes
    for i, x in expected.scaled.items():
        neighbours = {clamped(math.floor(x), fmt.mantissa_bits),
                      clamped(math.ceil(x), fmt.mantissa_bits)}  # fmt: skip
        assert int(q.fields[i]) in neighbours


def test_stochastic_rounding_needs_a_generator_and_repeats_with_its_seed() -> None:
    fmt, values = BFP(8, 3, 4, Rounding.STOCHASTIC), np.linspace(-1, 1, 64).reshape(1, 2, 2, 16)
    with pytest.raises(FormatError, match=r"rng=numpy\.random\.default_rng"):
        quantize_activation(values, fmt)
    both = ((quantize_activation, activation_block), (quantize_weight, weight_block))
    for quantizer, block in both:
        draws = [quantizer(values, fmt, rng=np.random.default_rng(s)).fields for s in (1, 1, 2)]
        assert np.array_equal(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])
        direct = quantize(values, fmt, block(fmt, values.shape), rng=np.random.default_rng(1))
        assert np.array_equal(draws[0], direct.fields)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", [BFP(8, 3, 4), Plain(8), Plain(16), Plain(32)])
def test_a_value_that_is_not_finite_names_the_tensor(bad: float, fmt: BFP | Plain) -> None:
    values = np.ones((1, 2, 3, 4), np.float32)
    values[0, 1, 2, 3] = values[0, 1, 0, 1] = bad
    message = r"conv1 input: 2 of 24 values .* first at \(0, 1, 0, 1\); allowed: finite values"
    with pytest.raises(FormatError, match=message):
        quantize_activation(values, fmt, name="conv1 input")
    with pytest.raises(FormatError, match=r"^weight: 2 of 24"):
        quantize_weight(values, fmt)
    with pytest.raises(FormatError, match=r"^fc: 2 of 24"):
        top_exponent(values, "fc")


@pytest.mark.parametrize(
    ("fmt", "top"), list(product([BFP(8, 3, 4), Plain(8)], [-129, 128, 0.5, True]))
)
def test_a_top_beyond_eight_bits_is_refused(fmt: BFP | Plain, top: object) -> None:
    with pytest.raises(FormatError) as error:
        quantize(np.ones(4), fmt, (4,), top, name="fc")  # type: ignore[arg-type]
    assert f"fc: E_top={top!r}; allowed: a whole number -128..127" in str(error.value)
