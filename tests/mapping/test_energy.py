"""The parts of a run's energy, against sums by hand in fractions."""

import random
from fractions import Fraction

import pytest

from bfpsim.arch import load_arch, replace_all
from bfpsim.mapping.counts import Counts, Flow
from bfpsim.mapping.energy import Energy, Part, Work, energy_of, operand_bits
from bfpsim.quant.formats import BFP, LayerFormats, Plain

EDGE = load_arch("ideal-64k")
ACC = {"name": "acc", "tensors": ["O"], "capacity": "4 KiB", "energy": "0.01 pJ/bit"}
PRICED = replace_all(
    EDGE,
    {
        "clock": "250 MHz",  # 4 ns a cycle
        "dram.energy": {"read": "4 pJ/bit", "write": "5 pJ/bit"},
        "dram.background": "50 mW",
        "sram.energy": {"read": "0.25 pJ/bit", "write": "0.5 pJ/bit"},
        "sram.leakage": "20 uW",
        "levels": [ACC | {"leakage": "3 nW"}],
        "pe_array.mac_energy": {4: "0.0625 pJ", 8: "0.25 pJ"},
        "vector": {"lanes": 16, "energy": "0.125 pJ"},
    },
)
COUNTS = Counts(
    {
        Flow("DRAM", "I", "read", "mantissa"): 1000,
        Flow("DRAM", "I", "read", "burst"): 24,
        Flow("DRAM", "O", "write", "mantissa"): 500,
        Flow("SRAM", "I", "write", "mantissa"): 1000,
        Flow("SRAM", "I", "read", "mantissa"): 4000,
        Flow("DRAM", "V", "write", "burst"): 10,
        Flow("SRAM", "V", "read", "mantissa"): 40,
        Flow("acc", "O", "write", "psum"): 320,
        Flow("acc", "O", "read", "psum"): 320,
    }
)


def test_each_part_by_hand() -> None:
    work = Work(COUNTS, 10_000, operand_bits=5, cycles=1_000_000, vector_operations=80)
    energy = energy_of(PRICED, [work])
    # 10^6 cycles of 4 ns are 4 ms: 50 mW are 200 uJ, 20 uW 80 nJ, 3 nW 12 pJ.
    assert energy.parts == (
        Part("movement", "DRAM", "read", 1024 * 4.0),
        Part("movement", "DRAM", "write", 510 * 5.0),
        Part("movement", "SRAM", "read", 4040 * 0.25),
        Part("movement", "SRAM", "write", 1000 * 0.5),
        Part("movement", "acc", "read", 320 * 0.01),
        Part("movement", "acc", "write", 320 * 0.01),
        Part("macs", "PE array", "", 10_000 * 0.25),
        Part("vector", "vector unit", "", 10.0),
        Part("leakage", "SRAM", "", 80e3),
        Part("leakage", "acc", "", 12.0),
        Part("background", "DRAM", "", 200e6),
    )
    movement = 4096 + 2550 + 1010 + 500 + 2 * 3.2
    assert energy.movement_pj == movement
    assert energy.all_pj == movement + 2500 + 10 + 80e3 + 12 + 200e6


def test_layers_add_up_exactly() -> None:
    """Rounded once, whatever the number of layers: integers and fractions say the same."""
    rng = random.Random(1)
    layers = [
        Work(Counts(), rng.randrange(10**9), rng.choice([3, 4, 5, 24]), rng.randrange(10**7), i)
        for i in range(50)
    ]
    parts = {part.part + part.where: part.energy_pj for part in energy_of(PRICED, layers).parts}
    seconds = Fraction(sum(layer.cycles for layer in layers), 250_000_000)
    macs = sum(
        layer.products * (Fraction(1, 16) if layer.operand_bits <= 4 else Fraction(1, 4))
        for layer in layers
    )
    assert parts == {
        "macsPE array": float(macs),
        "vectorvector unit": 1225 / 8,
        "leakageSRAM": float(seconds * 20 * 10**6),
        "leakageacc": float(seconds * 3 * 10**3),
        "backgroundDRAM": float(seconds * 50 * 10**9),
    }


def test_what_is_not_priced_is_no_part() -> None:
    work = [Work(Counts({Flow("DRAM", "W", "read", "mantissa"): 7}), 100, 8, 100)]
    assert energy_of(EDGE, work) == Energy((Part("movement", "DRAM", "read", 140.0),), 140.0, 140.0)


def test_a_buffer_per_tensor_leaks_by_itself() -> None:
    arch = replace_all(
        load_arch("ideal-64k-split"),
        {"sram.input.leakage": "1 mW", "sram.output.leakage": "cacti-45nm"},
    )
    parts = energy_of(arch, [Work(Counts(), 0, 8, 500_000)]).parts  # a millisecond
    # 16 KiB of 128-bit words at 45 nm: 0.000498 mW in the table.
    assert parts == (Part("leakage", "SRAM I", "", 1e6), Part("leakage", "SRAM O", "", 498.0))


def test_the_table_ends_in_both_totals() -> None:
    frame = energy_of(PRICED, [Work(COUNTS, 1, 8, 1)]).to_frame()
    assert [*frame] == ["part", "where", "direction", "energy_pj"]
    assert frame["part"].tolist()[-2:] == ["movement (Eq. 8)", "all"]
    moved = frame.loc[frame["part"] == "movement", "energy_pj"].sum()
    assert frame["energy_pj"].iloc[-2] == pytest.approx(moved)
    assert frame["energy_pj"].iloc[-1] == pytest.approx(frame["energy_pj"].iloc[:-2].sum())


def test_the_wider_operand_counts() -> None:
    narrow, wide = BFP(8, 5, 16), Plain(32)
    assert operand_bits(LayerFormats(narrow, BFP(8, 3, 16), wide)) == 5
    assert operand_bits(LayerFormats(narrow, narrow, wide)) == 3
    assert operand_bits(LayerFormats(narrow, wide, narrow)) == 24  # binary32's significand
