"""What can be built as RTL, and how wide it is."""

import re
from itertools import product

import pytest
from amaranth.back import rtlil

from bfpsim.arch import Arch, ArchError, load_arch, replace
from bfpsim.quant.formats import BFP, Format, FormatError, LayerFormats, Plain, Rounding
from bfpsim.sim.rtl.design import design_of
from bfpsim.sim.rtl.grid import Grid
from tests.generate import make_arch

FORMATS = LayerFormats.uniform(BFP(8, 3, 4))


def changed(**parts: object) -> Arch:
    array = make_arch(fill="overlapped").pe_array.model_dump() | parts
    return Arch.model_validate(make_arch().model_dump() | {"pe_array": array})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"fill": "none"}, "fill 'none'.*allowed in RTL: each_fold, overlapped"),
        ({"accumulator": "fp32"}, "accumulator 'fp32'; allowed in RTL: exact"),
        ({"rows": {"dim": "G", "size": 4}}, "axes G x K, weight stationary; allowed in RTL: CRS"),
        ({"stationary": "output"}, "axes C x K, output stationary; allowed in RTL: NPQ or some"),
        ({"rows": {"dim": "C", "size": 4, "over": "P"}}, "C over P x K; allowed in RTL: rows and"),
        ({"rows": {"dim": "C", "size": 1024}}, "1024 x 16; allowed in RTL: up to 4096 PEs"),
    ],
)
def test_what_cannot_be_built(parts: dict[str, object], message: str) -> None:
    with pytest.raises(ArchError, match=message) as error:
        design_of(changed(**parts), FORMATS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ((Plain(32), BFP(8, 3, 4), BFP(8, 3, 4)), "I format plain32; allowed in RTL"),
        ((BFP(8, 3, 4), BFP(8, 3, 4), Plain(16)), "O format plain16; allowed in RTL"),
        ((BFP(8, 3, 4), BFP(8, 3, 4), BFP(8, 3, 4, Rounding.STOCHASTIC)), "rounds stochastically"),
    ],
)
def test_formats_that_it_cannot_take(formats: tuple[Format, ...], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        design_of(changed(), LayerFormats(*formats))


@pytest.mark.parametrize(("name", "value"), [("stages", 3), ("entries", 0), ("entries", 2 << 20)])
def test_parameters_that_it_cannot_take(name: str, value: int) -> None:
    with pytest.raises(ArchError, match=f"{name}={value}; allowed"):
        design_of(changed(), FORMATS, **{name: value})


def test_banks_have_room_for_what_their_level_holds() -> None:
    assert design_of(load_arch("edge-64k"), FORMATS).entries == 16 * 8192 // 32 // 16
    double = replace(load_arch("edge-64k"), "levels.acc.double_buffered", True)
    assert design_of(double, FORMATS).entries == 128
    assert design_of(changed(), FORMATS).entries == 256
    assert design_of(changed(), FORMATS, entries=7).entries == 7


def test_terms_that_always_fit_do_and_no_more_than_four_times_as_many() -> None:
    for m, exponent, bits in product((3, 4, 6), (1, 2, 3), (12, 20, 33)):
        formats = LayerFormats.uniform(BFP(m + exponent, exponent, 4))
        design = design_of(changed(accumulator_bits=bits), formats)
        largest = ((1 << (m - 1)) - 1) ** 2 << 2 * ((1 << exponent) - 1)
        limit = (1 << (bits - 1)) - 1
        assert design.exact_terms * largest <= limit
        assert (4 * design.exact_terms + 4) * largest > limit


@pytest.mark.parametrize(
    ("stages", "fill"), [(0, "each_fold"), (1, "overlapped"), (2, "each_fold")]
)
@pytest.mark.parametrize(
    ("stationary", "rows", "formats"),
    [
        ("weight", "C", LayerFormats(BFP(11, 3, 4), BFP(7, 2, 4), BFP(8, 3, 4))),
        ("input", "PQ", LayerFormats(BFP(6, 2, 4), Plain(5), BFP(8, 3, 4))),
        ("output", "Q", LayerFormats(BFP(8, 3, 4), BFP(14, 3, 4), Plain(4))),
        ("output", "P", LayerFormats(Plain(3), Plain(3), Plain(4))),
    ],
)
def test_registers_are_those_of_the_circuit(stationary, rows, formats, stages, fill) -> None:
    """Counted in the netlist that Amaranth makes."""
    cols = "C" if stationary == "input" else "K"
    arch = make_arch(rows=(rows, 3), cols=(cols, 2), stationary=stationary, fill=fill, mac_bits=8)
    design = design_of(arch, formats, stages=stages)
    modules = rtlil.convert(Grid(design), name="top", emit_src=False).split("\nmodule ")
    widths = [
        int(width)
        for module in modules
        if ".pe_" in module.partition("\n")[0]
        for width in re.findall(r"cell \$\w*dff\w* .*\n(?:.*parameter.*\n)*?.*WIDTH (\d+)", module)
    ]
    assert sum(widths) == design.register_bits
