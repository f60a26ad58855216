"""Registers in the description of a machine."""

import pytest

from bfpsim.arch import Arch, ArchError, dump_arch, parse_arch, replace
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.energy import Work, energy_of

EYERISS = """
name: eyeriss
clock: 200 MHz
dram: {bandwidth: 1 GB/s, latency: 100 ns, burst: 8 B}
sram: {capacity: 108 KiB, width: 64 bit}
levels: [{name: buf, tensors: [I], capacity: 1 KiB}]
pe_array:
  rows: {size: 12, dim: R, over: K}
  cols: {size: 14, dim: P}
  stationary: weight
  mac_bits: 16
  accumulator_bits: 16
  registers:
    input: {capacity: 24 B, energy: 0.06 pJ/bit}
    weight: {capacity: 448 B}
    output: {capacity: 48 B}
"""


def eyeriss() -> Arch:
    return parse_arch(EYERISS, "eyeriss.yaml")


def test_they_are_the_innermost_level_and_stand_in_every_pe() -> None:
    arch = eyeriss()
    assert [level.name for level in arch.levels] == ["DRAM", "SRAM", "buf", "registers"]
    level = arch.registers
    assert level is arch.levels[-1] is arch.accumulators is arch.holder("I")
    assert level.memories == {"I": "registers I", "W": "registers W", "O": "registers O"}
    assert [own.copies for own in arch.levels] == [1, 1, 1, 168]
    assert {t: own.usable_bits for t, own in level.buffers.items()} == {
        "I": 192, "W": 3584, "O": 384
    }  # fmt: skip


def test_they_cost_nothing_unless_it_is_said() -> None:
    level = eyeriss().levels[-1]
    assert level.read_pj == level.write_pj == {"I": 0.06, "W": 0.0, "O": 0.0}


def test_without_them_there_is_no_such_level() -> None:
    arch = parse_arch(EYERISS[: EYERISS.index("  registers:")], "eyeriss.yaml")
    assert arch.registers is None
    assert [level.copies for level in arch.levels] == [1, 1, 1]


def test_each_pe_leaks_and_takes_its_area() -> None:
    arch = replace(eyeriss(), "pe_array.registers.weight.leakage", "1 uW")
    work = Work(Counts(), 0, 16, 200_000_000)  # a second
    (leakage,) = (part for part in energy_of(arch, [work]).parts if part.part == "leakage")
    assert (leakage.where, leakage.energy_pj) == ("registers W", 168 * 10**6)
    table = replace(eyeriss(), "pe_array.registers.weight",
                    {"capacity": "1 KiB", "width": "32 bit", "energy": "cacti-65nm"})  # fmt: skip
    each = table.levels[-1].buffers["W"].area_mm2
    assert each is not None
    assert table.area_mm2 == pytest.approx(168 * each)


def test_a_file_comes_back() -> None:
    arch = eyeriss()
    assert parse_arch(dump_arch(arch), "again.yaml") == arch
    larger = replace(arch, "pe_array.registers.weight.capacity", "1 KiB")
    assert larger.levels[-1].buffers["W"].usable_bits == 8192


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("capacity: 448 B", "capacity: 448 B, ports: {read: 8 bit}", "each PE has its own"),
        ("dim: P}", "dim: CS}", "C on an axis of its own"),
        ("name: buf", "name: registers", "a level is called 'registers'"),
        ("    output: {capacity: 48 B}\n", "", "output"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        parse_arch(EYERISS.replace(old, new), "eyeriss.yaml")
