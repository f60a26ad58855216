"""A format is what its name says; a format that cannot exist is refused with what is allowed."""

from itertools import product

import pytest

from bfpsim.quant.formats import BFP, FormatError, LayerFormats, Plain, Rounding, parse_format

PAPER = [(16, se) for se in range(2, 8)] + [(8, se) for se in range(2, 7)]
BLOCKS = (1, 2, 4, 8, 16, 24, 32, 48)


def test_every_name_reads_back_as_its_format() -> None:
    widths = [(q, se) for q, se in product(range(3, 33), range(1, 9)) if q - se >= 2]
    formats = [
        BFP(q, se, block, rounding)
        for (q, se), block, rounding in product(widths, (*BLOCKS, 65536), Rounding)
    ] + [Plain(bits) for bits in range(2, 33)]
    assert [parse_format(str(f)) for f in formats] == formats
    assert len({str(f) for f in formats}) == len(formats)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("bfp8", BFP(8, 3, 16)),
        ("bfp16", BFP(16, 5, 16)),
        (" BFP8E3B16\n", BFP(8, 3, 16)),
        ("bfp16e7b48-stochastic", BFP(16, 7, 48, Rounding.STOCHASTIC)),
        ("bfp8e2b1-nearest-even", BFP(8, 2, 1)),
        ("bfp8e2b1-nearest-away", BFP(8, 2, 1, Rounding.NEAREST_AWAY)),
        ("bfp8e2b1-truncate", BFP(8, 2, 1, Rounding.TRUNCATE)),
        ("plain32", Plain(32)),
    ],
)
def test_names_that_users_type(text: str, meant: object) -> None:
    assert parse_format(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "bfp", "bfp8e3", "bfp8b16", "bfp8e3b16x", "xbfp8e3b16", "bfp8e3b16-", "bfp-8e3b16",
     "bfp8e3b1 6", "bfp8.0e3b16", "bfp8e3b1234567", "int8", "plain", "plain-8", "plain8.5", "fp32",
     "bfp٨e3b16", "plain３２"],
)  # fmt: skip
def test_garbage_is_quoted_beside_what_is_allowed(text: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_format(text)
    assert repr(text) in str(error.value)
    assert "bfp<bits>e<exponent bits>b<block size>" in str(error.value)
    assert "plain<bits>" in str(error.value)


def test_an_unknown_rounding_is_quoted_beside_all_known_ones() -> None:
    with pytest.raises(FormatError) as error:
        parse_format("bfp8e3b16-up")
    for part in ("'up'", "nearest-even", "nearest-away", "truncate", "stochastic"):
        assert part in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 33, True, 8.0, "8", None])
@pytest.mark.parametrize(
    ("make", "field", "allowed"),
    [
        (lambda v: BFP(v, 2, 16), "bits", "3..32"),
        (lambda v: BFP(16, v, 16), "exponent_bits", "1..8"),
        (lambda v: Plain(v), "bits", "2..32"),
    ],
)
def test_a_width_is_a_whole_number_in_range(make, field: str, allowed: str, value: object) -> None:
    with pytest.raises(FormatError) as error:
        make(value)
    assert f" {field}={value!r};" in str(error.value)
    assert f"allowed: a whole number {allowed}" in str(error.value)


@pytest.mark.parametrize("value", [0, -16, 65537, True, 16.0, "16", None])
def test_a_block_size_is_a_whole_number_in_range(value: object) -> None:
    with pytest.raises(FormatError) as error:
        BFP(8, 3, value)  # type: ignore[arg-type]
    assert f"block_size={value!r}; allowed: a whole number 1..65536" in str(error.value)


@pytest.mark.parametrize("rounding", ["truncate", "nearest-even", None, 0])
def test_a_rounding_is_a_member_of_the_enum(rounding: object) -> None:
    with pytest.raises(FormatError, match=r"rounding=.*; allowed: Rounding\.NEAREST_EVEN"):
        BFP(8, 3, 16, rounding)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "exponent"), [(3, 2), (8, 7), (9, 8), (8, 8), (5, 8)])
def test_a_mantissa_below_two_bits_is_refused(bits: int, exponent: int) -> None:
    with pytest.raises(FormatError) as error:
        BFP(bits, exponent, 16)
    assert f"bits={bits}, exponent_bits={exponent}" in str(error.value)
    assert f"mantissa of {bits - exponent} bit" in str(error.value)
    assert f"exponent_bits up to {bits - 2}" in str(error.value)
    assert BFP(bits, bits - 2, 16).mantissa_bits == 2  # as promised


@pytest.mark.parametrize(("bits", "exponent"), PAPER)
def test_all_candidates_of_the_paper_exist(bits: int, exponent: int) -> None:
    for block in BLOCKS:
        fmt = BFP(bits, exponent, block)
        assert (fmt.mantissa_bits, fmt.significand_bits) == (bits - exponent, bits - exponent)


def test_multipliers_see_the_hidden_bit_of_floats() -> None:
    seen = {bits: Plain(bits).significand_bits for bits in (2, 8, 15, 16, 17, 31, 32)}
    assert seen == {2: 2, 8: 8, 15: 15, 16: 11, 17: 17, 31: 31, 32: 24}
    assert [bits for bits in range(2, 33) if Plain(bits).is_float] == [16, 32]


def test_a_layer_has_a_format_per_tensor() -> None:
    formats = LayerFormats(BFP(8, 3, 16), Plain(8), Plain(32))
    assert [formats.of(tensor) for tensor in ("I", "W", "O")] == [formats.I, formats.W, formats.O]
    assert str(formats) == "I=bfp8e3b16 W=plain8 O=plain32"
    assert str(LayerFormats.uniform(Plain(16))) == "plain16"
