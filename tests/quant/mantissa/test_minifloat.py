"""FP(e, m) against torch's casts, gfloat, numpy's halves and a search through all code points."""

import math
from fractions import Fraction

import gfloat
import numpy as np
import pytest
import torch
from gfloat.types import Domain
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.quant.formats import FormatError, Rounding
from bfpsim.quant.formats.blocks import LAST
from bfpsim.quant.mantissa.minifloat import (
    BF16,
    FP16,
    FP32,
    TF32,
    MiniFloat,
    Overflow,
    parse_minifloat,
)

NEAREST, TRUNCATE = Rounding.NEAREST_EVEN, Rounding.TRUNCATE
ALL = [(e, m) for e in range(2, 9) for m in range(24)]


def floats(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def assert_same_bits(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.dtype == other.dtype == torch.float32
    assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def all_kinds(seed: int = 0) -> torch.Tensor:
    """Every sign, exponent and upper mantissa bit of a float32, with telling lower bits; no NaN."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    at_random = np.random.default_rng(seed).integers(1 << 32, size=100_000, dtype=np.uint32)
    x = floats(np.concatenate([(upper | lower).ravel(), at_random]))
    return x[~x.isnan()]


def test_the_named_points_are_torchs_casts_bit_for_bit() -> None:
    x = all_kinds()
    assert x.isinf().any()
    assert ((x != 0) & (x.abs() < 2.0**-126)).any()
    assert_same_bits(FP32.rounded(x), x)
    assert_same_bits(BF16.rounded(x), x.bfloat16().float())
    assert_same_bits(FP16.rounded(x), x.half().float())


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("rounding", [NEAREST, TRUNCATE])
def test_compiled_loops_give_the_operators_bits(rounding: Rounding, overflow: Overflow) -> None:
    """Every sign, exponent and telling fraction, NaNs and infinities, in every FP(e, m)."""
    x = torch.cat([all_kinds(), torch.tensor([math.nan, -math.nan, math.inf, -math.inf])])
    for e, m in ALL[::19]:
        fmt = MiniFloat(e, m, rounding, overflow)
        assert_same_bits(fmt.rounded(x), fmt.by_operators(x))


def test_fp16_beside_every_tie() -> None:
    """Each half, the middle to the next one, and the floats beside both; subnormals too."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    steps = np.append(halves, 65536.0)
    middles = ((steps[:-1] + steps[1:]) / 2).astype(np.float32)
    x = np.concatenate([halves.astype(np.float32), middles])
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(np.inf))])
    x = torch.from_numpy(np.concatenate([x, -x]))
    assert_same_bits(FP16.rounded(x), x.half().float())


def test_truncated_bf16_is_the_upper_half_of_a_float() -> None:
    x = all_kinds(1)
    upper = floats(x.numpy().view(np.uint32) & np.uint32(0xFFFF0000))
    assert_same_bits(parse_minifloat("bf16", TRUNCATE).rounded(x), upper)


def test_truncated_fp16_is_the_half_towards_zero() -> None:
    x = all_kinds(2)
    with np.errstate(over="ignore"):
        half = x.numpy().astype(np.float16)
    finite, too_far = np.isfinite(x.numpy()), np.abs(half.astype(np.float32)) > np.abs(x.numpy())
    half = np.where(finite & too_far, np.nextafter(half, np.float16(0)), half)
    back = torch.from_numpy(half.astype(np.float32))
    # Stepping from the least half to zero, numpy loses the sign.
    back = torch.where(back == 0, torch.copysign(back, x), back)
    assert_same_bits(parse_minifloat("fp16", TRUNCATE).rounded(x), back)


def test_tf32_has_fp16s_mantissa_at_every_exponent() -> None:
    """Scaled into FP16's normal numbers, rounded by torch, and scaled back."""
    x = all_kinds(3)
    x = x[x.isfinite() & (x.abs() >= 2.0**-126)].double()
    mantissa, exponent = torch.frexp(x)
    expected = torch.ldexp(mantissa.float().half().double(), exponent).float()
    assert_same_bits(TF32.rounded(x.float()), expected)


def info(e: int, m: int) -> gfloat.FormatInfo:
    return gfloat.FormatInfo(
        f"e{e}m{m}", 1 + e + m, m + 1, bias=2 ** (e - 1) - 1, is_signed=True,
        domain=Domain.Extended, has_nz=True, num_high_nans=2**m - 1, has_subnormals=True,
        is_twos_complement=False,
    )  # fmt: skip


def some(e: int, m: int, count: int = 40) -> torch.Tensor:
    """Values about and beyond the format's range, and ties between its numbers."""
    rng = np.random.default_rng(100 * e + m)
    bias = 2 ** (e - 1) - 1
    low, high = max(-149, -bias - m - 3), min(127, bias + 2)
    anywhere = rng.uniform(1, 2, count) * np.exp2(rng.integers(low, high + 1, count))
    steps = np.exp2(np.maximum(rng.integers(low, high + 1, count) - m, 1.0 - bias - m))
    ties = (rng.integers(0, 2 ** (m + 1), count) + 0.5) * steps
    x = np.concatenate([anywhere, ties]) * rng.choice([-1, 1], 2 * count)
    x = np.clip(x, -np.finfo(np.float32).max, np.finfo(np.float32).max)
    return torch.from_numpy(np.concatenate([x, [0.0, -0.0]]).astype(np.float32))


@pytest.mark.parametrize("rounding", [NEAREST, TRUNCATE], ids=str)
@pytest.mark.parametrize("overflow", Overflow, ids=str)
def test_every_format_is_gfloats(rounding: Rounding, overflow: Overflow) -> None:
    mode = {
        NEAREST: gfloat.RoundMode.TiesToEven,
        TRUNCATE: gfloat.RoundMode.TowardZero,
    }[rounding]
    for e, m in ALL:
        x = some(e, m)
        fmt, theirs = MiniFloat(e, m, rounding, overflow), info(e, m)
        expected = [
            gfloat.round_float(theirs, v, mode, sat=overflow is Overflow.SATURATE)
            for v in x.tolist()
        ]
        assert_same_bits(fmt.rounded(x), torch.tensor(expected))
        least = theirs.smallest_subnormal if m else theirs.smallest_normal
        ends = torch.tensor([theirs.max, least])
        assert ends.tolist() == [theirs.max, least]
        assert_same_bits(fmt.rounded(ends), ends)


def numbers(e: int, m: int) -> list[Fraction]:
    """All finite magnitudes in code order, by IEEE 754's words."""
    bias = 2 ** (e - 1) - 1
    found = []
    for code in range(2**e - 1):
        for fraction in range(2**m):
            whole = Fraction(fraction, 2**m) + (1 if code else 0)
            found.append(whole * Fraction(2) ** (max(code, 1) - bias))
    return found


@given(
    st.sampled_from([(e, m) for e in range(2, 6) for m in range(5)]),
    st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-8, 8, width=32),
)
def test_the_nearest_number_is_found_by_looking_at_all(widths: tuple[int, int], x: float) -> None:
    e, m = widths
    points = numbers(e, m)
    exact = abs(Fraction(x))
    nearest = min(range(len(points)), key=lambda c: (abs(points[c] - exact), c % 2))
    towards_zero = max(c for c in range(len(points)) if points[c] <= exact)
    tensor = torch.tensor([x])
    for rounding, code in ((NEAREST, nearest), (TRUNCATE, towards_zero)):
        found = MiniFloat(e, m, rounding).rounded(tensor).item()
        assert Fraction(found) == points[code] * (1 if x > 0 else -1)
        assert math.copysign(1, found) == math.copysign(1, x)
    # Beyond half a step over the largest number lies infinity.
    limit = points[-1] + (Fraction(2) ** (2 ** (e - 1) - 1 - m)) / 2
    found = MiniFloat(e, m, overflow=Overflow.INFINITY).rounded(tensor).item()
    # Without mantissa bits the largest number's code is even, and a tie stays with it.
    assert math.isinf(found) == (exact > limit if m == 0 else exact >= limit)


def test_doubles_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000) * np.exp2(rng.integers(-152, 130, 20_000))
    x = torch.from_numpy(np.concatenate([x, [0.0, -0.0, np.inf, 2.0**-150, 1e-320]]))
    assert torch.equal(FP32.rounded(x), x.float().double())
    # Just above a tie of FP16, where going by way of FP32 would lose what is above.
    tie = torch.tensor([1 + 2.0**-11 + 2.0**-40], dtype=torch.float64)
    assert FP16.rounded(tie).item() == 1 + 2.0**-10


def test_infinity_and_nan_stay_in_a_conversion() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan])
    for fmt in (FP16, MiniFloat(2, 0, TRUNCATE), MiniFloat(4, 3)):
        assert fmt.rounded(x)[:2].tolist() == [math.inf, -math.inf]
        assert bool(fmt.rounded(x)[2].isnan())


def test_quantize_keeps_the_contract_of_quantizers() -> None:
    fmt = MiniFloat(4, 3)
    x = torch.tensor([[1.1, -1e-9], [1e9, 0.3]])
    kept = fmt.quantize(x.T, LAST)  # not contiguous
    assert kept.tolist() == [[1.125, 240.0], [0.0, 0.3125]]
    assert not kept.signbit().any()
    assert fmt.bits(x, LAST) == 4 * 8
    with pytest.raises(FormatError, match="w: 1 of 2 values are NaN or infinite"):
        fmt.quantize(torch.tensor([1.0, math.nan]), LAST, "w")
    with pytest.raises(FormatError, match=r"torch\.float16; allowed"):
        fmt.quantize(x.half(), LAST)


def test_names() -> None:
    assert parse_minifloat(" E4M3 ") == MiniFloat(4, 3)
    assert parse_minifloat("tf32") == TF32
    assert (parse_minifloat("bf16").exponent_bits, BF16.element_bits) == (8, 16)
    assert parse_minifloat("e5m2", TRUNCATE).rounding is TRUNCATE
    every = [MiniFloat(e, m, r, o) for e, m in ALL for r in (NEAREST, TRUNCATE) for o in Overflow]
    assert len({str(fmt) for fmt in every}) == len(every)  # equal names are equal formats
    for text in ("fp8", "e4", "e4m3x", ""):
        with pytest.raises(FormatError, match="allowed: fp32, tf32, bf16, fp16, or such as e5m2"):
            parse_minifloat(text)
    for wrong in ((1, 3), (9, 3), (4, 24), (4, -1), (True, 3), (4.0, 3)):
        with pytest.raises(FormatError, match="allowed: a whole number"):
            MiniFloat(*wrong)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="rounding='stochastic'; allowed: nearest-even, truncate"):
        MiniFloat(4, 3, Rounding.STOCHASTIC)
