"""Fake quantisation equals quantise-and-dequantise in numpy, fractions and gfloat, bit for bit."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import gfloat
import numpy as np
import pytest
import torch
from gfloat.formats import format_info_ocp_e8m0
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import (
    BFP,
    Format,
    FormatError,
    Plain,
    Rounding,
    dequantize,
    quantize,
    top_exponent,
    weight_block,
)
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.torch.fake_quantize import Gradient, by_operators, calibrated_top, fake_quantize
from tests.long import often
from tests.quant.oracle import quantised

DETERMINISTIC = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TRUNCATE)
MAX32, TINY32 = float(np.finfo(np.float32).max), 2.0**-149


def numpy_rule(x: torch.Tensor, fmt: Format, block: tuple[int, ...], top: int | None, rng=None):
    kept = dequantize(quantize(x.detach().numpy(), fmt, block, top, rng=rng))
    with np.errstate(under="ignore"):
        return torch.from_numpy(kept).to(x.dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, and zeros of the same sign."""
    word = {torch.float32: torch.int32, torch.float64: torch.int64}[a.dtype]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(word), b.contiguous().view(word))


# --- every memory layout ------------------------------------------------------------------------


class Case(NamedTuple):
    """A layout: how to lay out values, its blocks, and the same blocks as numpy counts them."""

    shape: tuple[int, ...]
    blocks: Blocks
    block: Callable[[BFP], tuple[int, ...]]
    lay: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.contiguous


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def every_other(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, -x], -1)[..., 0]


def axis(at: int, dims: int) -> Callable[[BFP], tuple[int, ...]]:
    return lambda fmt: tuple(fmt.block_size if i == at else 1 for i in range(dims))


def of_weight(shape: tuple[int, ...]) -> Callable[[BFP], tuple[int, ...]]:
    return lambda fmt: weight_block(fmt, (*shape, 1, 1)[:4])[: len(shape)]


LAYOUTS = {
    "channels first": Case((2, 37, 5, 7), CHANNELS, axis(1, 4)),
    "channels first, many pixels": Case((1, 17, 11, 101), CHANNELS, axis(1, 4)),
    "channels last": Case((2, 37, 5, 7), CHANNELS, axis(1, 4), channels_last),
    "channels last, whole blocks": Case((2, 48, 9, 7), CHANNELS, axis(1, 4), channels_last),
    "channels last, volumes": Case((2, 19, 3, 2, 5), CHANNELS, axis(1, 5), channels_last),
    "sequence": Case((3, 35, 11), CHANNELS, axis(1, 3)),
    "features": Case((13, 35), CHANNELS, axis(1, 2)),
    "tokens": Case((3, 11, 35), LAST, axis(2, 3)),
    "one long axis": Case((3001,), LAST, axis(0, 1)),
    "last axis of channels last": Case((2, 5, 4, 37), LAST, axis(3, 4), channels_last),
    "another axis": Case((3, 4, 19, 6), Blocks(axis=-2), axis(2, 4)),
    "not dense": Case((2, 37, 5, 7), CHANNELS, axis(1, 4), every_other),
    "weights": Case((5, 35, 3, 3), WEIGHT, of_weight((5, 35, 3, 3))),
    "weights, channels last": Case((5, 35, 3, 3), WEIGHT, of_weight((5, 35, 3, 3)), channels_last),
    "weights, 1-D taps": Case((5, 35, 3), WEIGHT, of_weight((5, 35, 3))),
    "linear weights": Case((21, 35), WEIGHT, of_weight((21, 35))),
    "depthwise": Case((37, 1, 3, 3), WEIGHT, of_weight((37, 1, 3, 3))),
    "one pixel": Case((7, 35, 1, 1), CHANNELS, axis(1, 4)),
}
SCALARS = [0.0, -0.0, TINY32, -TINY32, MAX32, -MAX32, 2.0**-126, 1 - 2.0**-24, -(2 - 2.0**-23),
           1.5, -2.5, 0.53125, 15.5 / 8, 8 - 2.0**-21, 0.75 * 2.0**-130, 2.0**23 + 1]  # fmt: skip


def ordinary(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A few binades, zero blocks among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-6, 3, shape))
    flat = x.reshape(-1)
    flat[len(flat) // 3 : len(flat) // 2] = 0
    return torch.from_numpy(x.astype(np.float32))


def adversarial(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Ends of the range, ties, just below powers of two; in runs, so that blocks differ."""
    rng = np.random.default_rng(seed)
    n = math.prod(shape)
    kind = np.repeat(rng.integers(0, 4, n // 40 + 1), 40)[:n]
    below = np.nextafter(np.exp2(rng.integers(-148, 128, n)).astype(np.float32), np.float32(0))
    bits = rng.integers(0, 0x7F800000, n).astype(np.uint32).view(np.float32)
    ties = (2 * rng.integers(0, 64, n) + 1) * np.exp2(rng.integers(-12, -2, n))
    x = np.choose(kind, [rng.choice(SCALARS, n), below, bits, ties]) * rng.choice([-1, 1], n)
    return torch.from_numpy(x.astype(np.float32).reshape(shape))


FORMATS = [BFP(8, 3, 16), BFP(16, 7, 48), BFP(16, 2, 16), BFP(8, 6, 3), BFP(26, 1, 100)]
"""Mantissas of 5, 9, 14, 2 and 25 bits; the smallest exponent range and a wide one."""


@pytest.mark.parametrize("fill", [ordinary, adversarial])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_the_numpy_rule(layout: str, fill: Callable[..., torch.Tensor]) -> None:
    case = LAYOUTS[layout]
    x = case.lay(fill(case.shape, 1))
    for fmt in FORMATS:
        for top in (None, 1, -100, 127):
            y = fake_quantize(x, fmt, case.blocks, top)
            assert same_bits(y, numpy_rule(x, fmt, case.block(fmt), top)), (fmt, top)
            assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("layout", ["channels first", "channels last", "weights"])
@pytest.mark.parametrize("mantissa_bits", [2, 5, 15])
def test_every_rounding_equals_the_numpy_rule(
    layout: str, rounding: Rounding, mantissa_bits: int
) -> None:
    case = LAYOUTS[layout]
    fmt = BFP(mantissa_bits + 4, 4, 16, rounding)
    for fill in (ordinary, adversarial):
        x = case.lay(fill(case.shape, 2))
        for top in (None, 0):
            expected = numpy_rule(x, fmt, case.block(fmt), top)
            assert same_bits(fake_quantize(x, fmt, case.blocks, top), expected)


@pytest.mark.parametrize("layout", ["channels first", "channels last", "not dense", "weights"])
@pytest.mark.parametrize("bits", [2, 8, 16, 23, 24, 31, 32])
def test_plain_formats_equal_the_numpy_rule(layout: str, bits: int) -> None:
    case = LAYOUTS[layout]
    for fill in (ordinary, adversarial):
        x = case.lay(fill(case.shape, 3))
        for top in (None, 2, -128):
            y = fake_quantize(x, Plain(bits), case.blocks, top)
            assert same_bits(y, numpy_rule(x, Plain(bits), case.shape, top))


@pytest.mark.parametrize("layout", ["channels first", "channels last", "weights", "depthwise"])
@pytest.mark.parametrize("fmt", [*FORMATS, Plain(8), Plain(16), Plain(32)])
def test_doubles_equal_the_numpy_rule(layout: str, fmt: Format) -> None:
    case = LAYOUTS[layout]
    x = ordinary(case.shape, 4).double() * 1.1
    ends = [1.7e308, -5e-324, 2.0**-1022, -0.0, 2 - 2.0**-52, -1e300, 3, 0, 2.0**-300]
    x.view(-1)[:9] = torch.tensor(ends, dtype=torch.float64)
    x = case.lay(x)
    block = case.block(fmt) if isinstance(fmt, BFP) else case.shape
    for top in (None, 0):
        y = fake_quantize(x, fmt, case.blocks, top)
        assert same_bits(y, numpy_rule(x, fmt, block, top))


def test_large_tensors_are_split_among_threads_without_a_seam() -> None:
    """Pieces start in the middle of rows, of images and of blocks' rows."""
    x = ordinary((3, 45, 41, 37), 5)
    fmt = BFP(8, 3, 16)
    expected = numpy_rule(x, fmt, (1, 16, 1, 1), None)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert same_bits(fake_quantize(x, fmt, CHANNELS), expected)
            assert same_bits(fake_quantize(channels_last(x), fmt, CHANNELS), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (2, 0, 3, 3), (2, 4, 0, 3)])
@pytest.mark.parametrize("fmt", [BFP(8, 3, 16), Plain(8), Plain(16)])
def test_an_empty_tensor_stays_empty(shape: tuple[int, ...], fmt: Format) -> None:
    for blocks in (CHANNELS, LAST, WEIGHT):
        assert fake_quantize(torch.empty(shape), fmt, blocks).shape == shape
    assert calibrated_top(torch.empty(shape)) == 0


# --- fractions ----------------------------------------------------------------------------------

words = st.integers(0, 0x7F7FFFFF).map(lambda w: float(np.uint32(w).view(np.float32)))
values = st.one_of(
    st.sampled_from(SCALARS), words, st.floats(-4, 4, width=32),
    st.builds(lambda n, e: n * 2.0**e, st.integers(-255, 255), st.integers(-9, 0)),
)  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(values, min_size=1, max_size=60), st.integers(1, 4), st.sampled_from([1, 3, 16]),
    st.integers(2, 15), st.integers(1, 8), st.none() | st.integers(-128, 127),
    st.sampled_from(DETERMINISTIC), st.booleans(),
)  # fmt: skip
def test_any_small_tensor_equals_fractions(
    data, pixels, block_size, m, exponent_bits, top, rounding, last
) -> None:
    channels = -(-len(data) // pixels)
    padded = np.resize(np.array(data, np.float32), (1, channels, 1, pixels))
    x = torch.from_numpy(padded)
    fmt = BFP(m + exponent_bits, exponent_bits, block_size, rounding)
    y = fake_quantize(channels_last(x) if last else x, fmt, CHANNELS, top)
    kept = quantised(padded, fmt, (1, block_size, 1, 1), top).kept
    assert {i: Fraction(float(y[i])) for i in kept} == kept


@pytest.mark.parametrize("exponent_bits", range(1, 9))
@pytest.mark.parametrize("inner", [1, 3])
def test_every_exponent_code(exponent_bits: int, inner: int) -> None:
    """One block per binade: above E_top it clips, below the last code it loses bits one by one."""
    top, last, m = 120, 2**exponent_bits - 1, 6
    distances = range(-3, last + 9)
    x = torch.tensor([1.5 * 2.0 ** (top - d) for d in distances], dtype=torch.float64).float()
    y = fake_quantize(
        x.repeat(inner, 1).T[None], BFP(m + exponent_bits, exponent_bits, 1), CHANNELS, top
    )
    clipped, unit = [31 / 16 * 2.0**top] * 3, 2.0 ** (top - last - 4)
    kept = [1.5 * 2.0 ** (top - d) for d in range(last + 1)]
    lost = [n * unit for n in (12, 6, 3, 2, 1, 0, 0, 0)]  # 24 halved; 1.5 to 2, .75 to 1, .375 to 0
    for lane in range(inner):
        assert y[0, :, lane].tolist() == clipped + kept + lost


@pytest.mark.parametrize("m", [2, 3, 12, 22, 23, 24, 25, 26, 31])
@pytest.mark.parametrize("inner", [1, 3])
def test_every_binade_of_float32(m: int, inner: int) -> None:
    """Units from far below the least subnormal to above the largest power of two."""
    exponents = np.arange(-149, 128)
    x = np.stack([np.ldexp(f, exponents) for f in (1.0, 1.37, 2 - 2.0**-23)], 1)
    tensor = torch.from_numpy(x.astype(np.float32)).repeat_interleave(inner, 1)[:, None]
    for exponent_bits in (1, 8) if m <= 24 else (1,):
        fmt = BFP(m + exponent_bits, exponent_bits, 1)
        for top in range(-128, 128, 15):
            y = fake_quantize(tensor, fmt, CHANNELS, top)
            assert same_bits(y, numpy_rule(tensor, fmt, (1, 1, 1), top))


# --- gfloat -------------------------------------------------------------------------------------


def gfloat_integer(m: int, symmetric: bool) -> gfloat.FormatInfo:
    """m-bit fixed point with m-2 fraction bits, as OCP's MXINT8 elements with other widths."""
    return gfloat.FormatInfo(
        f"int{m}", k=m, precision=m, bias=0, is_signed=True, domain=gfloat.Domain.Finite,
        has_nz=symmetric, num_high_nans=0, has_subnormals=True, is_twos_complement=not symmetric,
    )  # fmt: skip


GFLOAT_MODES = {
    Rounding.NEAREST_EVEN: gfloat.RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: gfloat.RoundMode.TiesToAway,
    Rounding.TRUNCATE: gfloat.RoundMode.TowardZero,
}


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("m", range(4, 16))
def test_mantissas_equal_gfloats(m: int, rounding: Rounding) -> None:
    """Sign-magnitude fixed point has our symmetric range. Two's complement reaches one lower,
    where BFP stops at -(2^(m-1)-1); everywhere else the two are equal too.
    """
    top, x = -3, torch.cat([ordinary((4096,), m), adversarial((4096,), m)])
    x = x[x.abs() < 2.0 ** (top + 1)]
    x = torch.cat([torch.tensor([1, 2 - 2.0**-23, -(2 - 2.0**-23)]) * 2.0**top, x])
    y = fake_quantize(x, BFP(m + 1, 1, x.numel(), rounding), LAST, top)  # one block, E = E_top
    symmetric, twos_complement = (
        gfloat.round_ndarray(
            gfloat_integer(m, kind), x.double().numpy() / 2.0**top, GFLOAT_MODES[rounding], sat=True
        )
        * 2.0**top
        for kind in (True, False)
    )
    assert y.tolist() == symmetric.tolist()
    lowest = twos_complement == -(2.0 ** (top + 1))
    assert lowest.any() == (rounding is not Rounding.TRUNCATE)
    assert y.numpy()[~lowest].tolist() == twos_complement[~lowest].tolist()
    if rounding is Rounding.NEAREST_EVEN:
        assert same_bits(fake_quantize(x, Plain(m), LAST, top), y)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("m", range(4, 16))
def test_blocks_equal_gfloats_mx_blocks(m: int, rounding: Rounding) -> None:
    """An MX block: an E8M0 scale 2^floor(log2(max)), never below 2^-127, and m-bit integers.

    BFP with 8 exponent bits under E_top = 127 names the same exponents and -128; where gfloat
    keeps -2^(m-1), BFP has -(2^(m-1)-1).
    """
    rng = np.random.default_rng(m)
    x = np.concatenate([adversarial((48, 16), m).numpy(), ordinary((48, 16), m).numpy()])
    x[5], x[11] = 0, rng.choice([TINY32, -3 * TINY32], 16)
    x = x[(np.abs(x).max(1) >= 2.0**-127) | (np.abs(x).max(1) == 0)]
    info = gfloat.BlockFormatInfo(f"b{m}", gfloat_integer(m, True), 16, format_info_ocp_e8m0)
    y = fake_quantize(torch.from_numpy(x), BFP(m + 8, 8, 16, rounding), LAST, 127)
    for block, kept in zip(x.astype(np.float64), y.tolist(), strict=True):
        theirs = gfloat.quantize_block(
            info, block, gfloat.compute_scale_amax, GFLOAT_MODES[rounding]
        )
        assert np.float32(theirs).tolist() == kept


def drawn(seed: int, n: int) -> np.ndarray:
    """SplitMix64 in Python's whole numbers: the numerator of 2^-24 that each element draws."""
    out, mask = [], 2**64 - 1
    for i in range(1, n + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(((z ^ (z >> 31)) >> 40) | 1)
    return np.array(out, np.int64)


def test_stochastic_mantissas_equal_gfloats() -> None:
    """Rounding up where draw < fraction is gfloat's fast mode with complementary bits."""
    x, m, seed = ordinary((6000,), 8), 7, 12345
    x[0] = 1.0
    x = x.clamp(-1.9, 1.9)
    draws = drawn(seed, 6000)
    kept = gfloat.round_ndarray(
        gfloat_integer(m, True), x.double().numpy(), gfloat.RoundMode.StochasticFast, True,
        2**23 - 1 - (draws >> 1), 23,
    )  # fmt: skip
    y = fake_quantize(x, BFP(m + 1, 1, 6000, Rounding.STOCHASTIC), LAST, 0, seed=seed)
    scaled = np.abs(x.double().numpy()) * 2.0 ** (m - 2)
    decided = scaled % 1 != draws * 2.0**-24  # equality: gfloat up, here down; nearly never
    assert decided.mean() > 0.999
    assert y.double().numpy()[decided].tolist() == kept[decided].tolist()


# --- stochastic rounding ------------------------------------------------------------------------


class Drawn:
    """Draws by the elements' logical position, as a numpy generator."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return drawn(self.seed, math.prod(shape)).reshape(shape) * 2.0**-24


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_stochastic_rounding_equals_the_numpy_rule_with_the_same_draws(
    layout: str, seed: int
) -> None:
    case = LAYOUTS[layout]
    for fmt in (BFP(8, 3, 16, Rounding.STOCHASTIC), BFP(16, 7, 48, Rounding.STOCHASTIC)):
        for fill in (ordinary, adversarial):
            x = case.lay(fill(case.shape, 6))
            y = fake_quantize(x, fmt, case.blocks, seed=seed)
            assert same_bits(y, numpy_rule(x, fmt, case.block(fmt), None, Drawn(seed)))


@pytest.mark.parametrize("fraction", [2.0**-9, 0.25, 0.5, 0.9375])
@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased(fraction: float, sign: int) -> None:
    """The mean of n draws is within 5 standard deviations of the value."""
    n, value = 200_000, 16 + fraction  # m = 6, E = 4: a step is 1
    x = torch.full((n,), sign * value)
    y = fake_quantize(x, BFP(8, 2, 16, Rounding.STOCHASTIC), LAST, seed=99)
    assert set(y.tolist()) == {sign * 16, sign * 17}
    deviation = math.sqrt(fraction * (1 - fraction) / n)
    assert abs(y.double().mean().item() - sign * value) < 5 * deviation


# --- torch operators, as other devices use them -------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_equal_the_kernels(layout: str) -> None:
    case = LAYOUTS[layout]
    for fill in (ordinary, adversarial):
        x = case.lay(fill(case.shape, 7))
        for fmt in (*FORMATS, Plain(8), BFP(9, 4, 16, Rounding.STOCHASTIC)):
            seed = 5 if fmt == BFP(9, 4, 16, Rounding.STOCHASTIC) else None
            for top in (0, calibrated_top(x)):
                y = fake_quantize(x, fmt, case.blocks, top, seed=seed)
                kept, _ = by_operators(x, fmt, case.blocks, top, seed or 0)
                assert same_bits(y, kept)
                assert kept.shape == x.shape


# --- E_top --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(values, min_size=1, max_size=8), st.booleans())
def test_the_top_is_numpys(data: list[float], last: bool) -> None:
    x = torch.tensor(data)
    stacked = x.repeat(2, 3, 2, 1)
    assert calibrated_top(channels_last(stacked) if last else stacked) == top_exponent(data)
    assert calibrated_top(-x.double() / 3) == top_exponent((x.double() / 3).numpy())


# --- gradients ----------------------------------------------------------------------------------

GRADIENT_FORMATS = [
    *(BFP(9, 4, 8, r) for r in Rounding),
    BFP(5, 2, 16), BFP(26, 1, 16), BFP(27, 1, 16), Plain(5), Plain(16), Plain(32),
]  # fmt: skip


def clipped_by_fractions(x: torch.Tensor, fmt: Format, block: tuple[int, ...], top: int) -> list:
    """Which elements' rounded mantissas are beyond the largest, or beyond the largest float."""
    if isinstance(fmt, Plain) and fmt.is_float:
        return [fmt.bits == 16 and abs(v) >= 65520 for v in x.flatten().tolist()]
    if isinstance(fmt, Plain):
        unit = Fraction(2) ** (top - fmt.bits + 2)
        return [abs(round(Fraction(v) / unit)) >= 2 ** (fmt.bits - 1) for v in x.flatten().tolist()]
    scaled = quantised(x.numpy(), fmt, block, top).scaled
    clipped = []
    for draw, (_, v) in zip(drawn(3, x.numel()), sorted(scaled.items()), strict=True):
        whole, rest = divmod(abs(v), 1)
        up = {
            Rounding.NEAREST_EVEN: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2),
            Rounding.NEAREST_AWAY: rest >= Fraction(1, 2),
            Rounding.TRUNCATE: False,
            Rounding.STOCHASTIC: rest > Fraction(int(draw), 2**24),
        }[fmt.rounding]
        clipped.append(whole + bool(up) >= 2 ** (fmt.mantissa_bits - 1))
    return clipped


@pytest.mark.parametrize("fmt", GRADIENT_FORMATS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    often(
        3,
        [
            (torch.float32, "channels first"),
            (torch.float32, "weights, channels last"),
            (torch.float64, "channels last"),
            (torch.float32, "channels last"),
            (torch.float64, "channels first"),
            (torch.float64, "weights, channels last"),
        ],
    ),
)
def test_gradients(fmt: Format, dtype: torch.dtype, layout: str) -> None:
    case = LAYOUTS[layout]
    x = ordinary(case.shape, 9)
    x.view(-1)[:2] = torch.tensor([4.0, -4.0])  # 2^(m-1) exactly, one beyond the limit
    x = case.lay(x * (30000.0 if fmt == Plain(16) else 1)).to(dtype)
    x.requires_grad_()
    top = None if isinstance(fmt, Plain) and fmt.is_float else 1
    seed = 3 if getattr(fmt, "rounding", None) is Rounding.STOCHASTIC else None
    slope = torch.from_numpy(np.random.default_rng(0).standard_normal(case.shape)).to(dtype)
    for gradient in Gradient:
        y = fake_quantize(x, fmt, case.blocks, top, seed=seed, gradient=gradient)
        (found,) = torch.autograd.grad((y * slope).sum(), x)
        if gradient is Gradient.STRAIGHT_THROUGH:
            assert torch.equal(found, slope)
            continue
        block = case.block(fmt) if isinstance(fmt, BFP) else case.shape
        clipped = clipped_by_fractions(x.detach(), fmt, block, top or 0)
        expected = torch.where(torch.tensor(clipped).reshape(case.shape), 0.0, slope)
        assert torch.equal(found, expected.to(dtype))
        assert fmt == Plain(32) or 0 < sum(clipped) < x.numel()


def test_clipped_gradients_are_those_of_clamping() -> None:
    """Between the last half step and the clip lies no sample, so torch's clamp is the same map."""
    x = torch.linspace(-3, 3, 997, requires_grad=True)
    y = fake_quantize(x, BFP(16, 1, 1), LAST, 0, gradient=Gradient.CLIPPED)
    limit = 2 - 2.0**-13
    assert not ((x.abs() > limit) & (x.abs() < limit + 2.0**-14)).any()
    (found,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(x.clamp(-limit, limit).sum(), x)
    assert torch.equal(found, expected)


def test_gradients_flow_through_a_layer() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(3, 8)
    fmt = BFP(8, 3, 4)
    weight = fake_quantize(layer.weight, fmt, WEIGHT)
    torch.nn.functional.linear(fake_quantize(x, fmt, LAST), weight).sum().backward()
    expected = fake_quantize(x, fmt, LAST).sum(0).expand(4, 8)
    torch.testing.assert_close(layer.weight.grad, expected)


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fmt", [BFP(8, 3, 16), Plain(8), Plain(16), Plain(32)], ids=str)
def test_the_result_goes_where_out_says(layout: str, fmt: Format) -> None:
    case = LAYOUTS[layout]
    x = case.lay(ordinary(case.shape, 10))
    expected = fake_quantize(x, fmt, case.blocks)
    for lay in (torch.Tensor.contiguous, channels_last if x.dim() > 2 else every_other):
        out = lay(torch.full(case.shape, 7.0))
        assert fake_quantize(x, fmt, case.blocks, out=out) is out
        assert same_bits(out, expected)
    before = x.clone()
    fake_quantize(x, fmt, case.blocks)
    assert same_bits(x, before)
    fake_quantize(x, fmt, case.blocks, out=x)
    assert same_bits(x, expected)


@pytest.mark.parametrize(
    "layout", ["channels first", "channels last", "tokens", "weights", "depthwise", "features"]
)
def test_the_usual_layouts_are_not_copied(layout: str) -> None:
    from torch.profiler import ProfilerActivity, profile

    case = LAYOUTS[layout]
    x = case.lay(ordinary(case.shape, 11))
    out = torch.empty_like(x)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        fake_quantize(x, BFP(8, 3, 16), case.blocks, 1, out=out)
    copies = {"aten::copy_", "aten::clone", "aten::empty", "aten::empty_strided"}
    assert not copies & {event.name for event in record.events()}


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("fmt", [BFP(8, 3, 4), BFP(32, 2, 4), Plain(8), Plain(16), Plain(32)])
@pytest.mark.parametrize("top", [None, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_is_not_finite_names_the_tensor(bad, fmt, top, dtype) -> None:
    for last in (False, True):
        x = torch.ones(1, 4, 2, 3, dtype=dtype)
        x[0, 3, 1, 2] = x[0, 1, 0, 1] = bad
        message = r"conv1 input: 2 of 24 values .* first at \(0, 1, 0, 1\); allowed: finite values"
        with pytest.raises(FormatError, match=message):
            fake_quantize(channels_last(x) if last else x, fmt, CHANNELS, top, name="conv1 input")
    with pytest.raises(FormatError, match=r"^fc: 2 of 24 values"):
        calibrated_top(x, "fc")


def refused(message: str, *args: object, **more: object) -> None:
    with pytest.raises(FormatError) as error:
        fake_quantize(*args, name="fc", **more)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_what_is_not_allowed_is_refused() -> None:
    x, fmt = torch.ones(2, 8, 3, 3), BFP(8, 3, 4)
    stochastic = BFP(8, 3, 4, Rounding.STOCHASTIC)
    for top in (-129, 128, 0.5, True):
        refused(f"fc: E_top={top!r}; allowed: a whole number -128..127", x, fmt, CHANNELS, top)
    for dtype in (torch.float16, torch.int32):
        refused(f"fc: {dtype}; allowed: torch.float32, torch.float64", x.to(dtype), fmt, CHANNELS)
    for seed in (None, -1, 2**63):
        refused(f"seed={seed!r}; allowed: 0..2^63-1", x, stochastic, CHANNELS, seed=seed)
    refused("seed=1 with bfp8e3b4; allowed: with stochastic", x, fmt, CHANNELS, seed=1)
    refused("shape (8,); allowed: an axis 1", torch.ones(8), fmt, CHANNELS)
    refused("shape (); allowed: an axis -1", torch.ones(()), fmt, LAST)
    refused("shape (8,); allowed: at least 2 axes", torch.ones(8), fmt, WEIGHT)
    for out in (torch.ones(2, 8, 3, 4), x.double()):
        refused("allowed: torch.float32 (2, 8, 3, 3) on cpu", x, fmt, CHANNELS, out=out)
    learned = x.clone().requires_grad_()
    refused("out= has no gradient", learned, fmt, CHANNELS, out=torch.empty_like(x))
    refused("out= has no gradient", x, fmt, CHANNELS, out=learned)
    with torch.no_grad():
        fake_quantize(learned, fmt, CHANNELS, out=learned)
    with pytest.raises(FormatError, match="axis=0 with taps; allowed: 1"):
        Blocks(axis=0, taps=True)
