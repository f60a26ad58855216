import re
from fractions import Fraction

import pint
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.arch.units import (
    BANDWIDTH,
    BURST,
    CAPACITY,
    CLOCK,
    ENERGY,
    LATENCY,
    MAC_ENERGY,
    POWER,
    WIDTH,
    Quantity,
    magnitude,
)

ALL = (CAPACITY, BURST, WIDTH, BANDWIDTH, CLOCK, LATENCY, ENERGY, MAC_ENERGY, POWER)


@pytest.mark.parametrize(
    ("quantity", "text", "number"),
    [
        (CAPACITY, "64 KiB", 524288),
        (CAPACITY, "64 kB", 512000),
        (CAPACITY, "64KiB", 524288),
        (CAPACITY, " +0.5 B ", 4),
        (CAPACITY, "1.5 GiB", 12884901888),
        (CAPACITY, "2 Mbit", 2000000),
        (BURST, "32 B", 256),
        (BURST, "1 bit", 1),
        (WIDTH, "16 B", 128),
        (BANDWIDTH, "6.4 GB/s", Fraction(51_200_000_000)),
        (BANDWIDTH, "6.4 B / ns", Fraction(51_200_000_000)),
        (BANDWIDTH, "1 GiB/s", Fraction(8 * 2**30)),
        (BANDWIDTH, "0.1 bit/s", Fraction(1, 10)),
        (CLOCK, "500 MHz", Fraction(500_000_000)),
        (CLOCK, "5e8 Hz", Fraction(500_000_000)),
        (LATENCY, "100 ns", Fraction(1, 10_000_000)),
        (LATENCY, "0 s", Fraction(0)),
        (LATENCY, "-0 ns", Fraction(0)),
        (LATENCY, "1.5 us", Fraction(3, 2_000_000)),
        (ENERGY, "0.16 pJ/bit", 0.16),
        (ENERGY, "20 pJ/bit", 20.0),
        (ENERGY, "0.1 nJ/B", 12.5),
        (ENERGY, "160 fJ/bit", 0.16),
        (ENERGY, "0 pJ/bit", 0.0),
        (MAC_ENERGY, "0.2 pJ", Fraction(1, 5)),
        (MAC_ENERGY, "30 fJ", Fraction(3, 100)),
        (MAC_ENERGY, "1 nJ", Fraction(1000)),
        (POWER, "0.5 mW", Fraction(1, 2000)),
        (POWER, "20 uW", Fraction(1, 50_000)),
        (POWER, "0 W", Fraction(0)),
    ],
)
def test_text_becomes_the_exact_number(quantity: Quantity, text: str, number: object) -> None:
    parsed = quantity.parse(text)
    assert parsed == number
    assert type(parsed) is type(number)


@pytest.fixture(scope="module")
def registry() -> pint.UnitRegistry:
    return pint.UnitRegistry(non_int_type=Fraction)


@pytest.mark.parametrize("quantity", ALL, ids=lambda quantity: quantity.noun)
def test_every_unit_is_what_pint_takes_it_for(
    quantity: Quantity, registry: pint.UnitRegistry
) -> None:
    for above in quantity.units:
        for below in quantity.per or ("",):
            unit = f"{above}/{below}" if below else above
            theirs = Fraction(registry.Quantity(Fraction(10**12), unit).to(quantity.unit).magnitude)
            for sign in "+-":
                base = magnitude(f"{sign}1e12 {unit}")
                assert base == int(f"{sign}1") * theirs * magnitude(f"1 {quantity.unit}")
            if 0 < theirs <= 10**18:
                assert quantity.parse(f"1e12 {unit}") == quantity.number(theirs)


@pytest.mark.parametrize("text", ["", "12", "12 KB", "12 KiB/x", "KiB", "1 2 B", "9" * 200 + " B"])
def test_what_is_no_quantity_has_no_magnitude(text: str) -> None:
    assert magnitude(text) is None


@pytest.mark.parametrize(
    ("quantity", "value", "wrong"),
    [
        (CAPACITY, "64", "'64' has no unit; write a capacity such as '64 KiB' or '524288 bit'"),
        (CAPACITY, 64, "64 has no unit"),
        (CAPACITY, 64.0, "64.0 has no unit"),
        (CAPACITY, float("nan"), "nan has no unit"),
        (CAPACITY, True, "True is no capacity"),
        (CAPACITY, None, "None is no capacity"),
        (CAPACITY, ["64 KiB"], "['64 KiB'] is no capacity"),
        (CAPACITY, "", "'' is not one number and one unit"),
        (CAPACITY, "KiB", "'KiB' is not one number and one unit"),
        (CAPACITY, "nan KiB", "'nan KiB' is not one number and one unit"),
        (CAPACITY, "inf KiB", "'inf KiB' is not one number and one unit"),
        (CAPACITY, "2*3 KiB", "'2*3 KiB' is not one number and one unit"),
        (CAPACITY, "1e999999999 B", "'1e999999999 B' is not one number and one unit"),
        (CAPACITY, "٣ KiB", "'٣ KiB' is not one number and one unit"),
        (CAPACITY, "0 KiB", "'0 KiB' is zero"),
        (CAPACITY, "-64 KiB", "'-64 KiB' is negative"),
        (CAPACITY, "0.1 bit", "'0.1 bit' is no whole number of bits"),
        (CAPACITY, "1e99 B", "'1e99 B' is too large"),
        (CAPACITY, "64 KB", "'64 KB' has the unknown unit 'KB'"),
        (CAPACITY, "64 mB", "'64 mB' has the unknown unit 'mB'"),
        (CAPACITY, "64 KiB/s", "'64 KiB/s' is no capacity"),
        (BURST, "0 B", "'0 B' is zero; write a burst"),
        (WIDTH, "0 bit", "'0 bit' is zero; write a width"),
        (BANDWIDTH, "6.4 GB", "'6.4 GB' is no bandwidth; write a bandwidth such as '6.4 GB/s'"),
        (BANDWIDTH, "500 MHz", "'500 MHz' is no bandwidth"),
        (BANDWIDTH, "0 B/s", "'0 B/s' is zero"),
        (CLOCK, "500", "'500' has no unit; write a clock such as '500 MHz'"),
        (CLOCK, "0 Hz", "'0 Hz' is zero"),
        (CLOCK, "10 ns", "'10 ns' is no clock"),
        (LATENCY, "0", "'0' has no unit; write a latency such as '100 ns'"),
        (LATENCY, "-1 ns", "'-1 ns' is negative"),
        (LATENCY, "100 B", "'100 B' is no latency"),
        (ENERGY, "20 pJ", "'20 pJ' is no energy; write an energy such as '20 pJ/bit'"),
        (ENERGY, "-0.1 pJ/bit", "'-0.1 pJ/bit' is negative"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    quantity: Quantity, value: object, wrong: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(wrong)) as caught:
        quantity.parse(value)
    assert len(str(caught.value).splitlines()) == 1
    assert all(f"'{example}'" in str(caught.value) for example in quantity.examples)


@pytest.mark.parametrize(
    ("quantity", "number", "text"),
    [
        (CAPACITY, 524288, "64 KiB"),
        (CAPACITY, 512000, "64 kB"),
        (CAPACITY, 1, "1 bit"),
        (CAPACITY, 7, "7 bit"),
        (WIDTH, 128, "128 bit"),
        (BANDWIDTH, Fraction(51_200_000_000), "6.4 GB/s"),
        (BANDWIDTH, Fraction(1, 10), "0.1 bit/s"),
        (CLOCK, Fraction(500_000_000), "500 MHz"),
        (CLOCK, Fraction(1_200_000_000), "1.2 GHz"),
        (LATENCY, Fraction(1, 10_000_000), "100 ns"),
        (LATENCY, Fraction(0), "0 ns"),
        (ENERGY, 0.16, "0.16 pJ/bit"),
        (ENERGY, 20.0, "20 pJ/bit"),
        (MAC_ENERGY, Fraction(1, 5), "200 fJ"),
        (MAC_ENERGY, Fraction(3, 2), "1.5 pJ"),
        (POWER, Fraction(1, 2000), "500 uW"),
        (POWER, Fraction(0), "0 nW"),
        (POWER, Fraction(59, 10**9), "59 nW"),
    ],
)
def test_numbers_are_written_as_people_write_them(
    quantity: Quantity, number: object, text: str
) -> None:
    assert quantity.text(number) == text


@pytest.mark.parametrize("quantity", ALL, ids=lambda quantity: quantity.noun)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_spelling_survives_the_round_trip(quantity: Quantity, data: st.DataObject) -> None:
    digits = data.draw(st.integers(1, 10**5))  # 10**5 TB is still in range
    unit = data.draw(st.sampled_from(quantity.units))
    if quantity.per:
        unit += "/s" if "s" in quantity.per else "/bit"
    point = 0 if quantity.number is int else data.draw(st.integers(0, 12))
    spelling = f"{digits}e-{point} {unit}"
    number = quantity.parse(spelling)
    canonical = quantity.text(number)
    assert quantity.parse(canonical) == number
    assert re.search(quantity.json_schema()["pattern"], canonical)
    assert re.search(quantity.json_schema()["pattern"], spelling)


@settings(deadline=None)
@given(st.floats(1e-30, 1e15))
def test_energies_are_exact_to_the_last_bit(energy: float) -> None:
    assert ENERGY.parse(ENERGY.text(energy)).hex() == energy.hex()


@pytest.mark.parametrize("value", ["64", "64 GHz", "64 KB", "-64 KiB", "2*3 KiB", "64 KiB/s"])
def test_the_schema_pattern_refuses_what_it_can_see(value: str) -> None:
    assert not re.search(CAPACITY.json_schema()["pattern"], value)
