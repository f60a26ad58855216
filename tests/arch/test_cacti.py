"""An SRAM by capacity: the table met at its points, sensible between, refused beyond."""

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
    InnerLevel,
    Sram,
    cacti,
    dump_arch,
    json_schema,
    load_arch,
    parse_arch,
    replace,
)
from bfpsim.arch.cacti import NAMES, tabulated

KIB = 8 * 1024
EDGE = load_arch("ideal-64k")
FILE = Path(cacti.__file__).with_name("cacti.csv")
LINES = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
ROWS = list(csv.DictReader(LINES))
FIGURES = ("read_pj_per_bit", "write_pj_per_bit", "leakage_mw", "area_mm2")
WIDTHS = (32, 64, 128, 256)
CAPACITIES = [KIB // 2 * 2**i for i in range(16)]
names, widths, figures = (st.sampled_from(all_) for all_ in (NAMES, WIDTHS, FIGURES))
tabulated_range = st.integers(CAPACITIES[0], CAPACITIES[-1])


def column(name: str, width: int, figure: str) -> dict[int, Fraction]:
    """Capacity [bit] -> what the file says, by this test's own reading."""
    return {
        int(Fraction(row["capacity_kib"]) * KIB): Fraction(row[figure])
        for row in ROWS
        if (f"cacti-{row['node_nm']}nm", int(row["word_bits"])) == (name, width)
    }


def test_every_tabulated_point_is_met_exactly() -> None:
    assert len(ROWS) == 3 * 16 * 4
    for row in ROWS:
        name = f"cacti-{row['node_nm']}nm"
        sram = Sram(
            capacity=f"{row['capacity_kib']} KiB",
            width=f"{row['word_bits']} bit",
            energy=name,
            leakage=name,
        )
        assert sram.read_pj == float(row["read_pj_per_bit"])
        assert sram.write_pj == float(row["write_pj_per_bit"])
        assert sram.leakage_w == Fraction(row["leakage_mw"]) / 1000
        assert sram.area_mm2 == float(row["area_mm2"])


def test_the_file_holds_the_figures_of_the_source() -> None:
    """A few by eye, and each column's sum."""
    figures_of = {
        ("cacti-22nm", "0.5 KiB", "32 bit"): (0.00593, 0.0122, 0.000189, 0.0004511),
        ("cacti-45nm", "16 KiB", "128 bit"): (0.084, 0.181, 0.000498, 0.05065),
        ("cacti-45nm", "64 KiB", "128 bit"): (0.307, 0.282, 0.00165, 0.188),
        ("cacti-65nm", "2 MiB", "64 bit"): (3.75, 3.30, 0.315, 13.49),
    }
    for (name, capacity, width), (read, write, leakage, area) in figures_of.items():
        sram = Sram(capacity=capacity, width=width, energy=name, leakage=name)
        assert (sram.read_pj, sram.write_pj, sram.area_mm2) == (read, write, area)
        assert float(sram.leakage_w * 1000) == leakage
    sums = {figure: float(sum(Fraction(row[figure]) for row in ROWS)) for figure in FIGURES}
    assert sums == {
        "read_pj_per_bit": 232.35813, "write_pj_per_bit": 206.54897, "leakage_mw": 40.976149,
        "area_mm2": 1315.2524818,
    }  # fmt: skip


def test_reads_from_16_kib_to_2_mib_are_those_of_the_earlier_table() -> None:
    """Which was rounded to thousandths: each column's sum."""
    sums: dict[tuple[str, int], float] = {}
    for name, width in itertools.product(NAMES, (64, 128)):
        own = column(name, width, "read_pj_per_bit")
        sums[name, width] = float(
            sum(own[kib * KIB] for kib in (16, 32, 64, 128, 256, 512, 1024, 2048))
        )
    assert sums == pytest.approx(
        {
            ("cacti-22nm", 64): 1.590, ("cacti-22nm", 128): 1.252,
            ("cacti-45nm", 64): 6.575, ("cacti-45nm", 128): 5.121,
            ("cacti-65nm", 64): 12.480, ("cacti-65nm", 128): 9.596,
        }, abs=0.004,
    )  # fmt: skip


@settings(deadline=None)
@given(names, widths, figures, tabulated_range, tabulated_range)
def test_a_larger_buffer_costs_more(
    name: str, width: int, figure: str, one: int, other: int
) -> None:
    smaller, larger = sorted((one, other))
    costs = [tabulated(name, figure, size, width) for size in (smaller, larger)]
    assert costs[0] <= costs[1]
    if larger > 1.001 * smaller:
        assert costs[0] < costs[1]


def test_halfway_in_log_capacity_is_the_geometric_mean() -> None:
    """sqrt(2) x 64 KiB to the nearest bit, between 64 and 128 KiB."""
    middle = tabulated("cacti-45nm", "read_pj_per_bit", round(math.sqrt(2) * 64 * KIB), 128)
    assert float(middle) == pytest.approx(math.sqrt(0.307 * 0.393), rel=1e-6)


@settings(deadline=None)
@given(names, widths, figures, tabulated_range)
def test_between_points_a_figure_is_a_power_of_capacity(
    name: str, width: int, figure: str, capacity: int
) -> None:
    """Independently: bisection in rationals for the exponent, from the file's own text."""
    own = column(name, width, figure)
    low = max(size for size in own if size <= capacity)
    high = 2 * low
    if high not in own:
        assert capacity == low
        return
    ratio, share, place = Fraction(capacity, low), Fraction(0), Fraction(1)
    for _ in range(40):  # binary digits of log2(capacity / low), by squaring
        ratio, place = Fraction(float(ratio * ratio)), place / 2
        if ratio >= 2:
            ratio, share = ratio / 2, share + place
    expected = float(own[low]) ** float(1 - share) * float(own[high]) ** float(share)
    found = float(tabulated(name, figure, capacity, width))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("key", ["energy", "leakage"])
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "sram.capacity",
            "4095 bit",
            "ideal-64k: sram: capacity 4095 bit with the table 'cacti-45nm'; "
            "allowed: 512 B to 16 MiB, or no table",
        ),
        (
            "sram.capacity",
            "32 MiB",
            "ideal-64k: sram: capacity 32 MiB with the table 'cacti-45nm'; "
            "allowed: 512 B to 16 MiB, or no table",
        ),
        (
            "sram.width",
            "512 bit",
            "ideal-64k: sram: width 512 bit with the table 'cacti-45nm'; "
            "allowed: 32 bit, 64 bit, 128 bit, 256 bit, or no table",
        ),
    ],
)
def test_what_a_table_does_not_reach_is_refused(
    key: str, path: str, value: str, message: str
) -> None:
    tabled = replace(EDGE, f"sram.{key}", "cacti-45nm")
    with pytest.raises(ArchError) as caught:
        replace(tabled, path, value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "sram.energy",
            "ideal-64k: sram.energy: 'cacti-32nm' is not one number and one unit; write an energy "
            "such as '20 pJ/bit' or '0.16 pJ/bit', or a table: cacti-22nm, cacti-45nm, cacti-65nm",
        ),
        (
            "sram.leakage",
            "ideal-64k: sram.leakage: 'cacti-32nm' is not one number and one unit; write a power "
            "such as '0.5 mW' or '20 uW', or a table: cacti-22nm, cacti-45nm, cacti-65nm",
        ),
        (
            "dram.energy",
            "ideal-64k: dram.energy: 'cacti-32nm' is not one number and one unit; write an energy "
            "such as '20 pJ/bit' or '0.16 pJ/bit'",
        ),
    ],
)
def test_unknown_tables_are_refused(path: str, message: str) -> None:
    with pytest.raises(ArchError) as caught:
        replace(EDGE, path, "cacti-32nm")
    assert str(caught.value) == message


def test_a_level_without_a_width_has_no_table() -> None:
    level = {"name": "acc", "tensors": ["O"], "capacity": "4 KiB", "energy": "cacti-22nm"}
    with pytest.raises(ArchError) as caught:
        replace(EDGE, "levels", [level])
    assert str(caught.value) == (
        "ideal-64k: levels.acc: no width with the table 'cacti-22nm'; "
        "allowed: 32 bit, 64 bit, 128 bit, 256 bit, or no table"
    )
    own = InnerLevel(**level, width="128 bit")
    assert (own.read_pj, own.write_pj) == (
        float(column("cacti-22nm", 128, "read_pj_per_bit")[4 * KIB]),
        float(column("cacti-22nm", 128, "write_pj_per_bit")[4 * KIB]),
    )


def test_a_resized_buffer_has_the_figures_of_its_size() -> None:
    tabled = replace(EDGE, "sram.energy", "cacti-22nm")
    assert (tabled.buffer("I").read_pj, tabled.buffer("I").write_pj) == (0.07, 0.0594)
    assert replace(tabled, "sram.capacity", "1 MiB").buffer("I").read_pj == 0.284
    assert replace(tabled, "sram.width", "64 bit").buffer("I").write_pj == 0.0692
    assert replace(tabled, "sram.energy", "0.16 pJ/bit") == EDGE


def test_only_a_table_knows_an_area() -> None:
    assert EDGE.buffer("I").area_mm2 is None
    for key in ("energy", "leakage"):
        assert replace(EDGE, f"sram.{key}", "cacti-22nm").buffer("I").area_mm2 == 0.05428
    both = replace(replace(EDGE, "sram.energy", "cacti-45nm"), "sram.leakage", "cacti-22nm")
    assert (both.buffer("I").area_mm2, both.buffer("I").leakage_w) == (
        0.188,
        Fraction("0.00943") / 1000,
    )


def test_a_file_keeps_the_name_of_its_table() -> None:
    tabled = replace(replace(EDGE, "sram.energy", "cacti-65nm"), "sram.leakage", "cacti-65nm")
    assert "energy: cacti-65nm, leakage: cacti-65nm}" in dump_arch(tabled)
    assert parse_arch(dump_arch(tabled), "dumped") == tabled


def test_the_schema_allows_every_spelling() -> None:
    tabled, pair = json_schema()["$defs"]["Sram"]["properties"]["energy"]["oneOf"]
    constant, table = tabled["anyOf"]
    assert "pattern" in constant
    assert table["enum"] == list(NAMES)
    assert pair == {"$ref": "#/$defs/AccessEnergy"}
