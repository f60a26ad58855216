"""What holds for every format: names, shapes, errors, scaling; and for most: idempotence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.baselines import (
    BASELINES,
    BSFP,
    DBPS,
    FAST,
    HBFP,
    FlexBlock,
)
from bfpsim.quant.formats import INDUSTRY, MSFP, FormatError
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.torch.operand import Quantizer
from tests.quant.adapter import COMPARED

EVERY = pytest.mark.parametrize("fmt", COMPARED.values(), ids=COMPARED)
IDEMPOTENT = [
    fmt
    for name, fmt in COMPARED.items()
    if not isinstance(fmt, FAST | DBPS | BSFP) and name != "nvfp4"
]
"""The second choice of the others is made from other values."""


def test_the_names() -> None:
    assert set(BASELINES) == {
        "hbfp8", "hbfp12", "flexblock4", "flexblock8", "flexblock16", "dbps8", "dbps16", "fast",
        "bsfp4", "bsfp8",
    }  # fmt: skip
    assert [*INDUSTRY] == [
        "mxint8", "mxfp8e4m3", "mxfp8e5m2", "mxfp6e3m2", "mxfp6e2m3", "mxfp4", "nvfp4", "msfp12",
        "msfp16", "bf16",
    ]  # fmt: skip
    for name, fmt in COMPARED.items():
        assert str(fmt) == name


def test_names_tell_parameters_apart() -> None:
    formats = [
        *COMPARED.values(), MSFP(11), HBFP(4), FAST(0.25), DBPS(8, 0.5), BSFP(2, 3), BSFP(3, 2),
    ]  # fmt: skip
    assert len({str(fmt) for fmt in formats}) == len(formats)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MSFP(10), r"bits=10; allowed: a whole number 11..16"),
        (lambda: HBFP(1), r"mantissa_bits=1; allowed: a whole number 2..16"),
        (lambda: FlexBlock(6), r"mode=6; allowed: 4, 8, 16"),
        (lambda: DBPS(12), r"width=12; allowed: 8, 16"),
        (lambda: DBPS(8, 1.5), r"zero_limit=1.5; allowed: 0..1"),
        (lambda: FAST(math.nan), r"threshold=nan; allowed: 0 or more"),
        (lambda: BSFP(1, 4), r"coarse_bits=1; allowed: a whole number 2..6"),
        (lambda: BSFP(4, 7), r"fine_bits=7; allowed: a whole number 2..6"),
        (lambda: BSFP(5, 4), r"coarse_bits=5 \+ fine_bits=4; allowed: up to 8 in all"),
    ],
)
def test_formats_that_cannot_exist(make, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        make()


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(fmt: Quantizer, bad: float) -> None:
    x = torch.ones(3, 20, 2, 2)
    x[1, 4, 0, 1] = bad
    for blocks in (CHANNELS, WEIGHT):
        with pytest.raises(FormatError, match=r"conv1: 1 of 240 values .* \(1, 4, 0, 1\)"):
            fmt.quantize(x, blocks, "conv1")


@pytest.mark.parametrize("fmt", [fmt for fmt in COMPARED.values() if str(fmt) != "bf16"], ids=str)
def test_dtypes_and_axes_that_do_not_fit_are_refused(fmt: Quantizer) -> None:
    with pytest.raises(FormatError, match=r"conv1: torch.float16; allowed: torch.float32"):
        fmt.quantize(torch.ones(3, 20, dtype=torch.float16), LAST, "conv1")
    for blocks, needed in ((CHANNELS, "an axis 1"), (WEIGHT, "at least 2 axes")):
        with pytest.raises(FormatError, match=rf"conv1: shape \(3,\); allowed: {needed}"):
            fmt.quantize(torch.ones(3), blocks, "conv1")
        with pytest.raises(FormatError, match=rf"shape \(3,\); allowed: {needed}"):
            fmt.bits(torch.ones(3), blocks)


@EVERY
@pytest.mark.parametrize("blocks", [CHANNELS, LAST, WEIGHT, Blocks(0)])
def test_shape_dtype_and_memory_do_not_matter(fmt: Quantizer, blocks: Blocks) -> None:
    x = torch.randn(3, 37, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kept = fmt.quantize(x, blocks)
    assert (kept.shape, kept.dtype, kept.requires_grad) == (x.shape, x.dtype, False)
    assert bool(((kept != 0) | ~kept.signbit()).all())
    for same in (x.contiguous(memory_format=torch.channels_last), x.movedim(2, 3).movedim(3, 2)):
        assert torch.equal(fmt.quantize(same, blocks), kept)
    doubled = fmt.quantize(x.double(), blocks)
    assert doubled.dtype == torch.float64
    assert torch.equal(doubled.float(), kept)


@EVERY
def test_zeros_stay_and_empty_tensors_stay_empty(fmt: Quantizer) -> None:
    for blocks in (CHANNELS, LAST, WEIGHT):
        zeros = torch.zeros(2, 20, 3, 3)
        assert torch.equal(fmt.quantize(-zeros, blocks), zeros)
        for shape in ((0, 4, 2, 2), (2, 0, 3, 3), (2, 4, 0, 3)):
            assert fmt.quantize(torch.empty(shape), blocks).shape == shape


@pytest.mark.parametrize("fmt", IDEMPOTENT, ids=str)
@pytest.mark.parametrize("blocks", [CHANNELS, LAST, WEIGHT])
def test_quantising_twice_changes_nothing(fmt: Quantizer, blocks: Blocks) -> None:
    generator = torch.Generator().manual_seed(2)
    for shape in ((4, 40, 3, 3), (30, 1, 3, 3), (6, 70)):
        x = torch.randn(shape, generator=generator)
        once = fmt.quantize(x * torch.exp2(4 * torch.randn(shape, generator=generator)), blocks)
        assert torch.equal(fmt.quantize(once, blocks), once)


@EVERY
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), power=st.integers(-40, 40), weights=st.booleans())
def test_a_power_of_two_passes_through(
    fmt: Quantizer, seed: int, power: int, weights: bool
) -> None:
    """Scales are relative: 2^k x is stored as 2^k times what x is stored as, in as many bits."""
    x = torch.randn(2, 19, 2, 3, generator=torch.Generator().manual_seed(seed))
    blocks = WEIGHT if weights else CHANNELS
    assert torch.equal(fmt.quantize(x * 2.0**power, blocks), fmt.quantize(x, blocks) * 2.0**power)
    assert fmt.bits(x * 2.0**power, blocks) == fmt.bits(x, blocks)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [("mxint8", "mxfp4"), ("mxfp8e4m3", "mxfp6e3m2"), ("mxfp6e2m3", "mxfp4"),
     ("nvfp4", "mxfp4"), ("bf16", "mxint8"),
     ("msfp16", "msfp12"), ("hbfp12", "hbfp8"), ("flexblock16", "flexblock8"),
     ("flexblock8", "flexblock4"), ("bsfp8", "bsfp4")],
)  # fmt: skip
def test_a_wider_format_is_closer(wide: str, narrow: str) -> None:
    x = torch.randn(16, 64, 3, 3, generator=torch.Generator().manual_seed(4))
    errors = [(COMPARED[name].quantize(x, WEIGHT) - x).square().mean() for name in (wide, narrow)]
    assert errors[0] < errors[1]
