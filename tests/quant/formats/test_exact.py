"""Exact arrays equal fractions, whatever the width."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import Plain, Rounding, dequantize, quantize
from bfpsim.quant.formats.exact import ExactArray, from_float, matmul
from tests.quant.oracle import floor_log2, rounded

narrow = st.integers(-127, 127).map(lambda n: n / 8)
wide = st.builds(math.ldexp, st.integers(-127, 127), st.integers(-64, 63))
single = st.floats(width=32, allow_nan=False, allow_infinity=False)
double = st.floats(2.0**-300, 2.0**300) | st.floats(-(2.0**300), -(2.0**-300))
KINDS = {"narrow": narrow, "wide": wide, "float32": single, "float64": double}


def fractions(a: ExactArray) -> list[Fraction]:
    return [int(d) * Fraction(2) ** a.exponent for d in a.digits.ravel()]


def nearest(x: Fraction, digits: int, lowest: int) -> Fraction:
    """x rounded to `digits` bits, ties to even, in steps of at least 2^lowest."""
    if not x:
        return x
    unit = Fraction(2) ** max(floor_log2(abs(x)) - (digits - 1), lowest)
    return rounded(x / unit, Rounding.NEAREST_EVEN) * unit


def odd(x: Fraction) -> Fraction:
    """x if 53 bits hold it, else that one of its two 53-bit neighbours whose last bit is 1."""
    if not x:
        return x
    unit = Fraction(2) ** (floor_log2(abs(x)) - 52)
    whole, rest = divmod(abs(x) / unit, 1)
    if rest and whole % 2 == 0:
        whole += 1
    return whole * unit * (1 if x > 0 else -1)


def check_floats(a: ExactArray) -> None:
    """Rounded to odd, and from there once more to any narrower float as if only once."""
    floats, values = a.to_float(), fractions(a)
    assert floats.shape == a.shape
    assert [Fraction(f) for f in floats.ravel().tolist()] == [odd(x) for x in values]
    largest = Fraction(float(np.finfo(np.float32).max))
    if all(abs(x) <= largest for x in values):
        singles = floats.astype(np.float32).astype(np.float64)
        assert [Fraction(f) for f in singles.ravel().tolist()] == [
            nearest(x, 24, -149) for x in values
        ]


def data(draw, kind: str, *shape: int) -> np.ndarray:
    count = math.prod(shape)
    palette = draw(st.lists(KINDS[kind] | st.just(0.0), min_size=count, max_size=count))
    return np.array(palette, np.float64).reshape(shape)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(draws=st.data())
def test_floats_become_the_coarsest_integers(kind: str, draws: st.DataObject) -> None:
    values = data(draws.draw, kind, 2, 3)
    a = from_float(values)
    assert fractions(a) == [Fraction(v) for v in values.ravel().tolist()]
    assert a.shape == values.shape
    assert not values.any() or any(int(d) % 2 for d in a.digits.ravel())
    assert a.to_float().tolist() == values.tolist()


@pytest.mark.parametrize("left", KINDS)
@pytest.mark.parametrize("right", KINDS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(draws=st.data())
def test_sums_and_products_equal_fractions(left: str, right: str, draws: st.DataObject) -> None:
    n, k, m = (draws.draw(st.integers(1, top)) for top in (3, 6, 2))
    x, y, z = (
        data(draws.draw, kind, *shape)
        for kind, shape in ((left, (n, k)), (right, (k, m)), (left, (n, m)))
    )
    product = matmul(from_float(x), from_float(y))
    expected = [
        sum((Fraction(x[i, j]) * Fraction(y[j, o]) for j in range(k)), Fraction(0))
        for i in range(n)
        for o in range(m)
    ]
    assert fractions(product) == expected
    check_floats(product)
    total = product + from_float(z)
    assert fractions(total) == [e + Fraction(v) for e, v in zip(expected, z.flat, strict=True)]
    check_floats(total)


def test_matmul_broadcasts_like_numpy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(-9, 9, (2, 1, 3, 4)), rng.integers(-9, 9, (5, 4, 2))
    product = matmul(ExactArray(a, -3), ExactArray(b, 5))
    assert np.array_equal(product.digits, np.matmul(a, b))
    assert product.exponent == 2
    assert product.digits.reshape(10, 6).tolist() == np.matmul(a, b).reshape(10, 6).tolist()


# --- where a machine word ends --------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 24, 52, 53, 54, 55, 61, 62, 63, 64, 65, 128])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_width_of_a_word(width: int, sign: int) -> None:
    """`width` bits, sign included: digits up to 2^(width-1) - 1."""
    largest = sign * (2 ** (width - 1) - 1)
    kind = np.int64 if width <= 64 else object
    a = ExactArray(np.array([largest, 0, sign], kind), 4)
    assert a.width == width
    check_floats(a)
    for b in (a, a + a, ExactArray(a.digits, -1), ExactArray(a.digits, 3), from_float(np.ones(3))):
        total = a + b
        assert fractions(total) == [x + y for x, y in zip(fractions(a), fractions(b), strict=True)]
        check_floats(total)


@pytest.mark.parametrize("spread", [52, 53, 54, 60, 61, 62, 63, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_spread_over_the_width_of_a_word(spread: int, sign: int) -> None:
    values = sign * np.array([2.0**spread, 1.0, math.nextafter(2.0**spread, 0), 0.0])
    for scale in (0, -149, 100):
        a = from_float(np.ldexp(values, scale))
        assert fractions(a) == [Fraction(v) * Fraction(2) ** scale for v in values.tolist()]
        assert a.to_float().tolist() == np.ldexp(values, scale).tolist()


@pytest.mark.parametrize("widths", [(25, 26), (26, 26), (26, 27), (27, 26), (53, 53), (62, 5)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8, 9, 33])
def test_products_at_the_width_of_a_double(widths: tuple[int, int], depth: int) -> None:
    """Operands of all ones: the largest sums that their widths allow, all low bits odd."""
    x, y = (2**width - 1 for width in widths)
    signs = np.array([[1] * depth, [(-1) ** j for j in range(depth)]])
    product = matmul(ExactArray(signs * x, 0), ExactArray(np.full((depth, 1), y), 0))
    assert [int(d) for d in product.digits.ravel()] == [x * y * depth, x * y * (depth % 2)]
    doubled = product + product
    assert [int(d) for d in doubled.digits.ravel()] == [
        2 * x * y * depth, 2 * x * y * (depth % 2)
    ]  # fmt: skip
    check_floats(product)


# --- rounding twice -------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("terms", "single"),
    [
        ((1.0, 2.0**-24, 2.0**-80), 1 + 2.0**-23),  # nearest double is the tie: 1
        ((1.0, 2.0**-24), 1.0),
        ((1.0, 2.0**-24, -(2.0**-80)), 1.0),
        ((1 + 2.0**-23, 2.0**-24, -(2.0**-80)), 1 + 2.0**-23),  # nearest double: the tie, up
        ((1 + 2.0**-23, 2.0**-24), 1 + 2.0**-22),
        ((2.0, -(2.0**-80)), 2.0),
    ],
)
def test_a_sum_just_beside_a_tie_is_not_taken_for_it(terms, single: float, sign: int) -> None:
    total = from_float(np.zeros(1))
    for term in terms:
        total = total + from_float(sign * np.array([term]))
    q = quantize(total.to_float(), Plain(32), (1,))
    assert dequantize(q).tolist() == [sign * single]


def test_just_below_a_power_of_two_keeps_the_lower_exponent() -> None:
    total = from_float(np.array([2.0])) + from_float(np.array([-(2.0**-80)]))
    assert total.to_float().tolist() == [math.nextafter(2.0, 0)]


def test_a_thousand_bits_are_no_infinity() -> None:
    values = np.array([1e-300, 1.0, -1e-308, 1e300])
    assert from_float(values).to_float().tolist() == values.tolist()
    total = from_float(np.array([2.0**-1000])) + from_float(np.array([2.0**10]))
    assert total.to_float().tolist() == [math.nextafter(2.0**10, math.inf)]


def test_empty_and_zero_arrays() -> None:
    empty, zeros = from_float(np.zeros((0, 3))), from_float(np.zeros((2, 3)))
    assert (empty.width, empty.shape, empty.to_float().shape) == (1, (0, 3), (0, 3))
    wide = from_float(np.full((2, 3), 2.0**100)) + from_float(np.full((2, 3), 1.0))
    assert fractions(zeros + wide) == [Fraction(2**100 + 1)] * 6
    assert fractions(wide + zeros) == [Fraction(2**100 + 1)] * 6
    product = matmul(from_float(np.zeros((2, 0))), from_float(np.zeros((0, 3))))
    assert product.digits.tolist() == [[0] * 3] * 2
