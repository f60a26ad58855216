"""Counts add up, and the tidy table prices them by Eq. 8."""

from fractions import Fraction

import pytest

from bfpsim.mapping.counts import COLUMNS, Counts, Flow, to_frame
from tests.generate import make_arch


def filled() -> Counts:
    counts = Counts()
    counts.add("SRAM", "V", "read", "burst", 8)
    counts.add("SRAM", "O", "write", "psum", 7)
    counts.add("DRAM", "W", "read", "exponent", Fraction(5, 2))
    counts.add("DRAM", "I", "read", "mantissa", 40)
    counts.add("DRAM", "I", "read", "mantissa", 60)
    return counts


def test_bits_of_a_flow_add_up_and_nothing_is_no_flow() -> None:
    counts = filled()
    counts.add("DRAM", "O", "read", "psum", 0)
    assert counts == {
        Flow("DRAM", "I", "read", "mantissa"): 100,
        Flow("DRAM", "W", "read", "exponent"): Fraction(5, 2),
        Flow("SRAM", "O", "write", "psum"): 7,
        Flow("SRAM", "V", "read", "burst"): 8,
    }


@pytest.mark.parametrize(
    ("wanted", "bits"),
    [
        ({}, Fraction(235, 2)),
        ({"level": "DRAM"}, Fraction(205, 2)),
        ({"tensor": "O"}, 7),
        ({"direction": "write"}, 7),
        ({"kind": "exponent", "tensor": "W"}, Fraction(5, 2)),
        ({"kind": "burst"}, 8),
    ],
)
def test_totals_select_by_any_field(wanted: dict[str, str], bits: Fraction) -> None:
    assert filled().total(**wanted) == bits  # type: ignore[arg-type]


def test_counts_merge_and_scale() -> None:
    counts = filled()
    counts.merge(filled())
    assert counts == filled().scaled(2)
    assert counts.total(kind="psum") == 14


def test_the_table_is_tidy_sorted_and_priced() -> None:
    """20 pJ per DRAM bit; 0.5 pJ per bit of the O buffer, 0.25 of that of I and V."""
    part = {"capacity": "1 KiB", "width": "8 bit"}
    arch = make_arch(
        sram={
            "input": part | {"energy": "0.25 pJ/bit"},
            "weight": part,
            "output": part | {"energy": "0.5 pJ/bit"},
        }
    )
    frame = to_frame([("net", "b", filled()), ("net", "a", Counts())], arch)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame.itertuples(index=False, name=None)) == [
        ("net", "b", "DRAM", "I", "read", "mantissa", 100, 2000.0),
        ("net", "b", "DRAM", "W", "read", "exponent", 2.5, 50.0),
        ("net", "b", "SRAM", "O", "write", "psum", 7, 3.5),
        ("net", "b", "SRAM", "V", "read", "burst", 8, 2.0),
    ]


def test_exact_counts_stay_integers_in_the_table() -> None:
    counts = Counts()
    counts.add("DRAM", "I", "read", "mantissa", Fraction(2**60 + 2, 2))
    counts.add("DRAM", "W", "read", "mantissa", 3)
    frame = to_frame([("net", "layer", counts)], make_arch())
    assert list(frame["bits"]) == [2**59 + 1, 3]


def test_no_counts_make_a_table_with_columns() -> None:
    assert tuple(to_frame([], make_arch()).columns) == COLUMNS
