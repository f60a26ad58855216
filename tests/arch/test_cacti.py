"""Energy by capacity: the table met at its points, sensible between, refused beyond."""

import csv
import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.arch import (
    ArchError,
    Sram,
    cacti,
    dump_arch,
    json_schema,
    load_arch,
    parse_arch,
    replace,
)
from bfpsim.arch.cacti import NAMES, pj_per_bit

KIB = 8 * 1024
EDGE = load_arch("ideal-64k")
FILE = Path(cacti.__file__).with_name("cacti.csv")
LINES = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
POINTS = [
    (f"cacti-{r['node_nm']}nm", int(r["capacity_kib"]), int(r["word_bits"]), r["read_pj_per_bit"])
    for r in csv.DictReader(LINES)
]
names, widths = st.sampled_from(NAMES), st.sampled_from([64, 128])
tabulated_range = st.integers(16 * KIB, 2048 * KIB)


def test_every_tabulated_point_is_met_exactly() -> None:
    assert len(POINTS) == 3 * 8 * 2
    assert {point[0] for point in POINTS} == set(NAMES)
    for name, kib, width, text in POINTS:
        sram = Sram(capacity=f"{kib} KiB", width=f"{width} bit", energy=name)
        assert sram.pj_per_bit == float(text)


def test_the_file_holds_the_figures_of_the_source() -> None:
    """A few by eye, and each column's sum."""
    assert pj_per_bit("cacti-22nm", 16 * KIB, 64) == 0.041
    assert pj_per_bit("cacti-45nm", 64 * KIB, 128) == 0.307
    assert pj_per_bit("cacti-65nm", 2048 * KIB, 64) == 3.75
    sums: dict[tuple[str, int], Fraction] = {}
    for name, _, width, text in POINTS:
        sums[name, width] = sums.get((name, width), Fraction(0)) + Fraction(text)
    assert {column: float(total) for column, total in sums.items()} == {
        ("cacti-22nm", 64): 1.590, ("cacti-22nm", 128): 1.252,
        ("cacti-45nm", 64): 6.575, ("cacti-45nm", 128): 5.121,
        ("cacti-65nm", 64): 12.480, ("cacti-65nm", 128): 9.596,
    }  # fmt: skip


def test_a_large_buffer_costs_eleven_to_twenty_times_a_small_one() -> None:
    for name, width in itertools.product(NAMES, (64, 128)):
        growth = pj_per_bit(name, 2048 * KIB, width) / pj_per_bit(name, 16 * KIB, width)
        assert 10.9 < growth < 20


@settings(deadline=None)
@given(names, widths, tabulated_range, tabulated_range)
def test_a_larger_buffer_costs_more(name: str, width: int, one: int, other: int) -> None:
    smaller, larger = sorted((one, other))
    assert pj_per_bit(name, smaller, width) <= pj_per_bit(name, larger, width)
    if larger > 1.001 * smaller:
        assert pj_per_bit(name, smaller, width) < pj_per_bit(name, larger, width)


def test_halfway_in_log_capacity_is_the_geometric_mean() -> None:
    """sqrt(2) x 64 KiB to the nearest bit, between 64 and 128 KiB."""
    middle = pj_per_bit("cacti-45nm", round(math.sqrt(2) * 64 * KIB), 128)
    assert middle == pytest.approx(math.sqrt(0.307 * 0.393), rel=1e-6)


@settings(deadline=None)
@given(names, widths, tabulated_range)
def test_between_points_energy_is_a_power_of_capacity(name: str, width: int, capacity: int) -> None:
    """Independently: bisection in rationals for the exponent, from the file's own text."""
    column = {kib * KIB: Fraction(text) for n, kib, w, text in POINTS if (n, w) == (name, width)}
    low = max(size for size in column if size <= capacity)
    high = 2 * low
    if high not in column:
        assert capacity == low
        return
    ratio, share, place = Fraction(capacity, low), Fraction(0), Fraction(1)
    for _ in range(40):  # binary digits of log2(capacity / low), by squaring
        ratio, place = Fraction(float(ratio * ratio)), place / 2
        if ratio >= 2:
            ratio, share = ratio / 2, share + place
    expected = float(column[low]) ** float(1 - share) * float(column[high]) ** float(share)
    assert pj_per_bit(name, capacity, width) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "sram.capacity",
            "131071 bit",
            "ideal-64k: sram: capacity 131071 bit with energy 'cacti-45nm'; "
            "allowed: 16 KiB to 2 MiB, or an energy in pJ/bit",
        ),
        (
            "sram.capacity",
            "4 MiB",
            "ideal-64k: sram: capacity 4 MiB with energy 'cacti-45nm'; "
            "allowed: 16 KiB to 2 MiB, or an energy in pJ/bit",
        ),
        (
            "sram.width",
            "256 bit",
            "ideal-64k: sram: width 256 bit with energy 'cacti-45nm'; allowed: 64 bit or 128 bit, "
            "or an energy in pJ/bit",
        ),
        (
            "sram.energy",
            "cacti-32nm",
            "ideal-64k: sram.energy: 'cacti-32nm' is not one number and one unit; write an energy "
            "such as '20 pJ/bit' or '0.16 pJ/bit', or a table: cacti-22nm, cacti-45nm, cacti-65nm",
        ),
        (
            "dram.energy",
            "cacti-45nm",
            "ideal-64k: dram.energy: 'cacti-45nm' is not one number and one unit; write an energy "
            "such as '20 pJ/bit' or '0.16 pJ/bit'",
        ),
    ],
)
def test_what_a_table_does_not_reach_is_refused(path: str, value: str, message: str) -> None:
    tabled = replace(EDGE, "sram.energy", "cacti-45nm")
    with pytest.raises(ArchError) as caught:
        replace(tabled, path, value)
    assert str(caught.value) == message


def test_a_resized_buffer_has_the_energy_of_its_size() -> None:
    tabled = replace(EDGE, "sram.energy", "cacti-22nm")
    assert tabled.buffer("I").pj_per_bit == 0.07
    assert replace(tabled, "sram.capacity", "1 MiB").buffer("I").pj_per_bit == 0.284
    assert replace(tabled, "sram.width", "64 bit").buffer("I").pj_per_bit == 0.089
    assert replace(tabled, "sram.energy", "0.16 pJ/bit") == EDGE


def test_a_file_keeps_the_name_of_its_table() -> None:
    tabled = replace(EDGE, "sram.energy", "cacti-65nm")
    assert "energy: cacti-65nm}" in dump_arch(tabled)
    assert parse_arch(dump_arch(tabled), "dumped") == tabled


def test_the_schema_allows_both_spellings() -> None:
    constant, table = json_schema()["$defs"]["Sram"]["properties"]["energy"]["anyOf"]
    assert "pattern" in constant
    assert table["enum"] == list(NAMES)
