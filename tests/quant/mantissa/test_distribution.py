"""Kurtosis by fractions, exponents by comparing, spans by trying every window."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.quant.formats import FormatError
from bfpsim.quant.mantissa.weights import (
    Span,
    check_weights,
    exponent_histogram,
    exponent_span,
    histogram,
    layer_statistics,
    pearson_kurtosis,
    pooled,
)
from tests.quant.oracle import floor_log2

WEIGHTS = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40)


def exact_kurtosis(values: list[float]) -> Fraction:
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    second, fourth = (sum((v - mean) ** k for v in exact) / len(exact) for k in (2, 4))
    return fourth / second**2


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30), st.integers(-140, 100))
def test_kurtosis_by_fractions(values: list[int], exponent: int) -> None:
    """At any scale, also where fourth powers would leave the range of a float32."""
    scaled = np.array([v * 2.0**exponent for v in values], np.float32)
    if len(set(values)) == 1:
        assert math.isnan(pearson_kurtosis(scaled))
    else:
        assert pearson_kurtosis(scaled) == pytest.approx(float(exact_kurtosis(values)), rel=1e-9)


def test_kurtosis_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    assert pearson_kurtosis(np.array([1.0, -1.0])) == 1
    assert pearson_kurtosis(rng.standard_normal(200_000)) == pytest.approx(3, abs=0.05)
    assert pearson_kurtosis(rng.uniform(size=200_000)) == pytest.approx(9 / 5, abs=0.02)
    assert pearson_kurtosis(rng.laplace(size=200_000)) == pytest.approx(6, abs=0.3)


@given(WEIGHTS)
def test_exponents_by_comparing(values: list[float]) -> None:
    frame = exponent_histogram(np.array(values, np.float32))
    expected = Counter(floor_log2(abs(Fraction(v))) for v in values if v)
    assert {e: n for e, n in zip(frame["exponent"], frame["count"], strict=True) if n} == expected
    if expected:
        assert list(frame["exponent"]) == list(range(min(expected), max(expected) + 1))
    assert frame["share"].sum() * len(values) == pytest.approx(sum(expected.values()))


@given(WEIGHTS, st.sampled_from([0.5, 0.9, 0.999, 1.0]))
def test_the_span_is_the_shortest_window(values: list[float], share: float) -> None:
    exponents = [floor_log2(abs(Fraction(v))) for v in values if v]
    zeros = len(values) - len(exponents)
    found = exponent_span(np.array(values), share)
    if zeros >= Fraction(str(share)) * len(values):
        assert found is None
        return
    windows = [
        (high - low, -held, -high)
        for low in set(exponents)
        for high in set(exponents)
        if low <= high
        and zeros + (held := sum(low <= e <= high for e in exponents))
        >= Fraction(str(share)) * len(values)
    ]
    width, _, high = min(windows)
    assert found == Span(-high - width, -high)


def test_a_span_needs_as_many_codes_as_it_has_exponents() -> None:
    for width in range(1, 255):
        bits = Span(-width + 1, 0).exponent_bits
        assert 2**bits - 2 >= width > 2 ** (bits - 1) - 2


@given(WEIGHTS)
def test_each_value_is_in_the_bin_that_the_edges_say(values: list[float]) -> None:
    frame = histogram(np.array(values), 7)
    assert list(frame["low"][1:]) == list(frame["high"][:-1])
    reach = max(map(abs, values)) or 1.0
    assert (frame["low"].iloc[0], frame["high"].iloc[-1]) == (-reach, reach)
    for number, row in enumerate(frame.to_dict(orient="records")):
        last = number == 6
        inside = [v for v in values if row["low"] <= v < row["high"] or (last and v == row["high"])]
        assert row["count"] == len(inside)


def test_layers_one_by_one_and_pooled() -> None:
    weights = {
        "a": np.array([[1.0, -1.0], [0.0, 0.25]], np.float32),
        "b": np.array([2.0, 2.0], np.float32),
        "zero": np.zeros(3, np.float32),
    }
    assert pooled(weights).tolist() == [1.0, -1.0, 0.0, 0.25, 2.0, 2.0, 0.0, 0.0, 0.0]
    frame = layer_statistics(weights).set_index("layer")
    assert frame["weights"].tolist() == [4, 2, 3]
    assert frame["zeros"].tolist() == [1, 0, 3]
    assert frame["largest"].tolist() == [1.0, 2.0, 0.0]
    kurtosis = float(exact_kurtosis([1.0, -1.0, 0.0, 0.25]))
    assert frame.loc["a", "kurtosis_pearson"] == pytest.approx(kurtosis)
    assert frame.loc["a", "kurtosis_excess"] == pytest.approx(kurtosis - 3)
    assert frame["kurtosis_pearson"].isna().tolist() == [False, True, True]
    assert frame["span_low"].tolist()[:2] == [-2, 1]
    assert frame["span_high"].tolist()[:2] == [0, 1]
    assert frame["span_low"].isna().tolist() == [False, False, True]


def test_networks_without_weights_or_with_bad_ones() -> None:
    good = {"conv": np.ones((2, 2)), "fc": np.array([1.0, np.nan, -np.inf])}
    for empty in ({}, {"fc": np.ones((0, 3))}):
        with pytest.raises(FormatError, match="net: has no weights; allowed: a network"):
            check_weights("net", empty)
    with pytest.raises(FormatError, match="net: 2 of 3 weights of 'fc' are NaN or infinite"):
        check_weights("net", good)
    check_weights("net", {"conv": good["conv"]})
