"""What an architecture prices: reads and writes apart, power, multiplications by width."""

import re
from fractions import Fraction

import pytest

from bfpsim.arch import Arch, ArchError, Sram, dump_arch, load_arch, parse_arch, replace

EDGE = load_arch("ideal-64k")
APART = {"read": "0.1 pJ/bit", "write": "0.3 pJ/bit"}


def test_without_a_word_only_what_moves_is_priced_both_ways_alike() -> None:
    assert (EDGE.dram.read_pj, EDGE.dram.write_pj, EDGE.dram.background) == (20.0, 20.0, None)
    sram = EDGE.buffer("I")
    assert (sram.read_pj, sram.write_pj, sram.leakage_w) == (0.16, 0.16, 0)
    assert EDGE.pe_array.mac_pj(8) == 0
    assert not EDGE.prices_more
    for absent in ("leakage", "background", "mac_energy"):
        assert absent not in dump_arch(EDGE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dram.background", "20 mW"),
        ("dram.background", "0 W"),
        ("sram.leakage", "1 uW"),
        ("sram.leakage", "cacti-45nm"),
        ("pe_array.mac_energy", "0.2 pJ"),
        ("pe_array.mac_energy", {8: "0.2 pJ"}),
    ],
)
def test_more_is_priced_where_a_file_says_so(path: str, value: object) -> None:
    assert replace(EDGE, path, value).prices_more


def test_reads_and_writes_have_prices_of_their_own() -> None:
    arch = replace(EDGE, "sram.energy", APART)
    arch = replace(arch, "dram.energy", {"read": "4 pJ/bit", "write": "5 pJ/bit"})
    dram, sram = arch.levels
    assert (dram.read_pj["O"], dram.write_pj["O"]) == (4.0, 5.0)
    assert (sram.read_pj["I"], sram.write_pj["I"]) == (0.1, 0.3)
    assert replace(arch, "dram.energy.write", "6 pJ/bit").dram.write_pj == 6.0
    assert replace(arch, "sram.energy", "0.16 pJ/bit").buffer("I").write_pj == 0.16


def test_every_memory_is_listed_once_by_name() -> None:
    acc = {"name": "acc", "tensors": ["O"], "capacity": "4 KiB"}
    assert [*EDGE.memories] == ["SRAM"]
    split = replace(load_arch("ideal-64k-split"), "levels", [acc])
    assert [*split.memories] == ["SRAM I", "SRAM W", "SRAM O", "acc"]
    assert split.memories["SRAM W"].capacity == 16 * 1024 * 8


def test_powers_are_exact() -> None:
    arch = replace(replace(EDGE, "dram.background", "12.5 mW"), "sram.leakage", "3 nW")
    assert arch.dram.background == Fraction(1, 80)
    assert arch.buffer("I").leakage_w == Fraction(3, 10**9)


def test_a_multiplication_costs_what_the_least_sufficient_width_does() -> None:
    arch = replace(EDGE, "pe_array.mac_energy", {8: "0.2 pJ", 2: "10 fJ", 4: "0.05 pJ"})
    array = arch.pe_array
    expected = {2: "0.01", 3: "0.05", 4: "0.05", 5: "0.2", 8: "0.2", 9: "0.2", 24: "0.2"}
    assert {bits: array.mac_pj(bits) for bits in expected} == {
        bits: Fraction(pj) for bits, pj in expected.items()
    }
    flat = replace(EDGE, "pe_array.mac_energy", "0.2 pJ").pe_array
    assert {flat.mac_pj(bits) for bits in range(1, 33)} == {Fraction(1, 5)}
    assert replace(arch, "pe_array.mac_energy.4", "60 fJ").pe_array.mac_pj(3) == Fraction(3, 50)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("sram.energy", APART, "energy: {read: 0.1 pJ/bit, write: 0.3 pJ/bit}"),
        ("dram.energy", APART, "energy: {read: 0.1 pJ/bit, write: 0.3 pJ/bit}"),
        ("dram.background", "0.0125 W", "background: 12.5 mW"),
        ("sram.leakage", "2 uW", "leakage: 2 uW"),
        ("pe_array.mac_energy", "200 fJ", "mac_energy: 200 fJ"),
        ("pe_array.mac_energy", {8: "2 pJ", 4: "1 pJ"}, "mac_energy: {4: 1 pJ, 8: 2 pJ}"),
    ],
)
def test_a_file_keeps_what_is_said(path: str, value: object, line: str) -> None:
    arch = replace(EDGE, path, value)
    dumped = dump_arch(arch)
    assert line in dumped
    assert parse_arch(dumped, "dumped") == arch
    assert hash(parse_arch(dumped, "dumped")) == hash(arch)
    assert Arch.model_validate(arch.model_dump()) == arch
    assert Arch.model_validate_json(arch.model_dump_json()) == arch
    assert replace(arch, "name", "other") == replace(replace(EDGE, "name", "other"), path, value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "sram.energy",
            {"read": "1 pJ/bit"},
            "sram.energy.write: missing; needed keys: read, write",
        ),
        (
            "sram.energy",
            {**APART, "rite": "1 pJ/bit"},
            "sram.energy: unknown key 'rite' (did you mean 'write'?); allowed keys: read, write",
        ),
        (
            "dram.energy",
            {**APART, "read": "cacti-22nm"},
            "dram.energy.read: 'cacti-22nm' is not one number and one unit; write an energy",
        ),
        ("dram.energy", [1], "dram.energy: [1] is no energy; write an energy such as"),
        (
            "dram.background",
            "20 mJ",
            "dram.background: '20 mJ' is no power; write a power such as '0.5 mW' or '20 uW' "
            "(units: W, mW, uW, nW)",
        ),
        ("dram.background", "-1 mW", "dram.background: '-1 mW' is negative; write a power"),
        ("sram.leakage", 3, "sram.leakage: 3 has no unit; write a power such as"),
        (
            "pe_array.mac_energy",
            "0.2 pJ/bit",
            "pe_array.mac_energy: '0.2 pJ/bit' is no energy; write an energy such as '0.2 pJ' or "
            "'30 fJ'",
        ),
        (
            "pe_array.mac_energy",
            {4: "0.1 pJ"},
            "pe_array: mac_energy up to 4 bit with mac_bits=8; allowed: a last width from 8",
        ),
        ("pe_array.mac_energy", {}, "pe_array.mac_energy: no width is listed; write some, such as"),
        (
            "pe_array.mac_energy",
            {"wide": "1 pJ"},
            "pe_array.mac_energy: 'wide' is no operand width; write whole numbers of bits from 1 "
            "to 128, each once, such as {4: 0.05 pJ, 8: 0.2 pJ}",
        ),
        ("pe_array.mac_energy", {8: "1 pJ", "8": "1 pJ"}, "pe_array.mac_energy: '8' is no operand"),
        ("pe_array.mac_energy", {True: "1 pJ"}, "pe_array.mac_energy: True is no operand width"),
        ("pe_array.mac_energy", {129: "1 pJ"}, "pe_array.mac_energy: 129 is no operand width"),
        (
            "pe_array.mac_energy",
            {8: "x"},
            "pe_array.mac_energy: 'x' is not one number and one unit",
        ),
        ("dram.energy.read", "1 pJ/bit", "'dram.energy.read': nothing is below '20 pJ/bit'"),
    ],
)
def test_wrong_prices_are_refused_in_one_line(path: str, value: object, message: str) -> None:
    with pytest.raises(ArchError, match="^" + re.escape(f"ideal-64k: {message}")) as caught:
        replace(EDGE, path, value)
    assert len(str(caught.value).splitlines()) == 1


def test_parts_are_made_in_python_as_in_a_file() -> None:
    sram = Sram(capacity="1 KiB", width="32 bit", energy=APART, leakage="1 mW")
    assert (sram.read_pj, sram.write_pj, sram.leakage_w) == (0.1, 0.3, Fraction(1, 1000))
