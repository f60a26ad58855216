import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.arch import Arch, Axis, Dram, PEArray, SplitSram, Sram, load_arch, replace

EDGE = load_arch("ideal-64k")


def test_bandwidth_and_latency_in_cycles() -> None:
    # 6.4e9 B/s x 8 / 500e6 Hz = 102.4 bit; 100 ns x 500 MHz = 50 cycles
    assert EDGE.dram_bits_per_cycle == Fraction(512, 5)
    assert EDGE.dram_latency_cycles == 50


@pytest.mark.parametrize(
    ("latency", "cycles"),
    [("0 ns", 0), ("0.001 ns", 1), ("100 ns", 50), ("100.001 ns", 51), ("102 ns", 51)],
)
def test_a_started_cycle_counts(latency: str, cycles: int) -> None:
    assert replace(EDGE, "dram.latency", latency).dram_latency_cycles == cycles


def test_an_awkward_clock_stays_exact() -> None:
    third = replace(replace(EDGE, "clock", "300 MHz"), "dram.bandwidth", "100 Mbit/s")
    assert third.dram_bits_per_cycle == Fraction(1, 3)


def test_one_shared_buffer_serves_every_tensor() -> None:
    assert EDGE.shared
    assert EDGE.buffer("I") is EDGE.buffer("W") is EDGE.buffer("O")
    assert EDGE.usable_bits("W") == 64 * 1024 * 8


def test_a_split_buffer_gives_each_tensor_its_own() -> None:
    split = load_arch("ideal-64k-split")
    assert not split.shared
    assert [split.usable_bits(tensor) for tensor in "IWO"] == [262144, 131072, 131072]


def test_half_of_a_double_buffer_is_usable_rounded_down() -> None:
    assert load_arch("ideal-64k-double").usable_bits("O") == 32 * 1024 * 8
    assert Sram(capacity="9 bit", width="1 bit", double_buffered=True).usable_bits == 4


def test_only_the_three_tensors_have_buffers() -> None:
    with pytest.raises(ValueError, match=r"^tensor='X'; allowed: 'I', 'W', 'O'$"):
        EDGE.usable_bits("X")


def test_defaults() -> None:
    assert Dram(bandwidth="1 B/s", latency="0 s", burst="1 bit").energy == 20.0
    assert Sram(capacity="1 B", width="1 bit").energy == 0.16
    assert (EDGE.dma.halo, EDGE.dma.padding, EDGE.pe_array.accumulator) == (
        "sliding",
        "skip",
        "exact",
    )


@settings(deadline=None)
@given(st.text("NGKCPQRSHx", max_size=4))
def test_an_axis_unrolls_what_each_tensor_wholly_depends_on_or_not(dim: str) -> None:
    tensors = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}
    touched = [{tensor for tensor, dims in tensors.items() if letter in dims} for letter in dim]
    uniform = all(tensors_of == touched[0] and tensors_of for tensors_of in touched)
    legal = bool(dim) and uniform and len(set(dim)) == len(dim)
    try:
        assert Axis(size=1, dim=dim).dim == dim
    except ValueError:
        assert not legal
    else:
        assert legal


@pytest.mark.parametrize(("rows", "cols"), [("K", "K"), ("PQ", "NQ"), ("CRS", "R")])
def test_axes_share_no_dimension(rows: str, cols: str) -> None:
    with pytest.raises(ValueError, match=f"rows '{rows}' and cols '{cols}' both unroll"):
        PEArray(
            rows=Axis(size=1, dim=rows),
            cols=Axis(size=1, dim=cols),
            stationary="weight",
            mac_bits=8,
            accumulator_bits=32,
        )


def test_an_fp32_accumulator_has_32_bits() -> None:
    array = {**EDGE.pe_array.model_dump(), "accumulator": "fp32"}
    assert PEArray(**array).accumulator_bits == 32
    with pytest.raises(ValueError, match="accumulator_bits=24 with accumulator 'fp32'"):
        PEArray(**{**array, "accumulator_bits": 24})


def test_an_architecture_is_a_value() -> None:
    again = pickle.loads(pickle.dumps(EDGE))
    assert again == EDGE
    assert hash(again) == hash(EDGE)
    assert Arch.model_validate(EDGE.model_dump()) == EDGE
    assert Arch.model_validate_json(EDGE.model_dump_json()) == EDGE
    with pytest.raises(ValueError, match="frozen"):
        EDGE.name = "other"


def test_parts_can_be_put_together_in_python() -> None:
    part = Sram(capacity="1 KiB", width="8 bit")
    sram = SplitSram(input=part, weight=part, output=part)
    built = Arch(name="tiny", clock="1 MHz", dram=EDGE.dram, sram=sram, pe_array=EDGE.pe_array)
    assert built.buffer("O") == part
