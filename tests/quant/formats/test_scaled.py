"""Elements and scales equal gfloat's and ml_dtypes' at every code; blocks equal fractions."""

import math
from fractions import Fraction
from itertools import pairwise

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat import formats as gfloats
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    INDUSTRY,
    INT8,
    MX,
    NVFP4,
    ActivationLayout,
    BFloat16,
    Element,
    FormatError,
    Quantized,
    ScaleRounding,
    WeightLayout,
    dequantize,
    pack,
    parse_format,
    quantize_activation,
    quantize_weight,
    unpack,
)
from bfpsim.quant.formats.elements import BFLOAT16, decode, encode, nearest
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.scaled import block_scales, quotient
from bfpsim.workloads import ConvLayer
from tests import reference
from tests.storage import storage

THEIRS = {
    E4M3: (gfloats.format_info_ocp_e4m3, ml_dtypes.float8_e4m3fn),
    E5M2: (gfloats.format_info_ocp_e5m2, ml_dtypes.float8_e5m2),
    E3M2: (gfloats.format_info_ocp_e3m2, ml_dtypes.float6_e3m2fn),
    E2M3: (gfloats.format_info_ocp_e2m3, ml_dtypes.float6_e2m3fn),
    E2M1: (gfloats.format_info_ocp_e2m1, ml_dtypes.float4_e2m1fn),
    BFLOAT16: (gfloats.format_info_bfloat16, ml_dtypes.bfloat16),
    INT8: (gfloats.format_info_ocp_int8, None),
}
ELEMENTS = pytest.mark.parametrize("element", THEIRS, ids=str)


def codes_of(element: Element) -> np.ndarray:
    """Every code, as fields have it: INT8's signed."""
    codes = np.arange(1 << element.bits)
    return (codes ^ 128) - 128 if element is INT8 else codes


@ELEMENTS
def test_every_code_stands_for_what_gfloat_and_ml_dtypes_say(element: Element) -> None:
    """Subnormals, both zeros, infinities and NaN among them."""
    info, dtype = THEIRS[element]
    codes = codes_of(element)
    ours = decode(element, codes)
    theirs = [gfloat.decode_float(info, code).fval for code in range(1 << element.bits)]
    np.testing.assert_array_equal(ours, np.array(theirs))
    if dtype is not None:
        words = codes.astype(np.uint16 if element is BFLOAT16 else np.uint8)
        with np.errstate(invalid="ignore"):  # it warns of NaN
            np.testing.assert_array_equal(ours, words.view(dtype).astype(np.float64))


@ELEMENTS
def test_every_number_has_its_code(element: Element) -> None:
    codes = codes_of(element)
    values = decode(element, codes)
    kept = np.isfinite(values) & (np.abs(values) <= element.largest)
    kept &= (values != 0) | (codes == 0)  # zero is written without a sign
    np.testing.assert_array_equal(encode(element, values[kept]), codes[kept])
    np.testing.assert_array_equal(nearest(element, values[kept]), values[kept])


@ELEMENTS
def test_rounding_is_gfloats_between_all_codes(element: Element) -> None:
    """Midpoints, which are ties, a hair beside them, and beyond the largest."""
    info, dtype = THEIRS[element]
    values = decode(element, codes_of(element))
    finite = sorted({float(v) for v in values if 0 <= v <= element.largest})
    if element is BFLOAT16:
        finite = [v for i, v in enumerate(finite) if i % 37 == 0 or i < 300 or i > 32600]
    xs = []
    for low, high in pairwise(finite):
        middle = low + (high - low) / 2
        xs += [middle, np.nextafter(middle, 0), np.nextafter(middle, high)]
    xs += [element.largest * 1.01, element.largest * 1e9]
    both = np.array(xs + [-x for x in xs])
    ours = nearest(element, both)
    if element is not INT8:
        theirs = [gfloat.round_float(info, x, sat=True) for x in both]
        np.testing.assert_array_equal(ours, theirs)
    if dtype not in (None, ml_dtypes.bfloat16):
        inside = np.abs(both) <= element.largest  # its conversion does not saturate
        single = both.astype(np.float32)  # and goes through float32
        same = inside & (single == both)
        cast = single[same].astype(dtype).astype(np.float64)
        np.testing.assert_array_equal(ours[same], cast)


def test_every_scale_of_mx_is_ocps() -> None:
    info = gfloats.format_info_ocp_e8m0
    ours = block_scales(MX(INT8), np.arange(256))
    theirs = [gfloat.decode_float(info, code).fval for code in range(256)]
    np.testing.assert_array_equal(ours, theirs)
    words = np.arange(256).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
    np.testing.assert_array_equal(ours, words.astype(np.float64))
    assert math.isnan(ours[255])


def test_codes_that_are_no_numbers_are_read_as_such() -> None:
    """Of infinity, of NaN, and under a scale that is NaN; -2 of INT8 is read, too."""
    one = np.full((1, 1, 1, 1), 127)

    def value(element: Element, field: int, code: int = 127) -> float:
        fields = np.full((1, 1, 1, 1), field)
        q = Quantized(fields, one - 127 + code, 0, MX(element), (1, 1, 1, 32))
        return float(dequantize(q).item())

    assert value(E5M2, 0x7C) == math.inf
    assert value(E5M2, 0xFC) == -math.inf
    assert math.isnan(value(E5M2, 0x7D))
    assert math.isnan(value(E4M3, 0x7F))
    assert math.isnan(value(E4M3, 0xFF))
    assert value(E4M3, 0x7E) == 448
    assert math.isnan(value(E2M1, 1, code=255))
    assert value(INT8, -128, code=128) == -4


def some_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Many binades, zeros and zero blocks, ties, powers of two, and what float32 just holds."""
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-9, 5, shape)
    x[rng.random(shape) < 0.2] = 0
    x = np.where(rng.random(shape) < 0.3, np.sign(x) * 2.0 ** np.ceil(np.log2(abs(x) + 1e-9)), x)
    x = np.where(rng.random(shape) < 0.2, np.round(x * 4) / 4, x)
    x[..., : shape[-1] // 4] *= rng.random() < 0.5
    x *= 2.0 ** rng.choice([0, 0, -120, 100, -140, 119])
    return x.astype(np.float32)


EVERY = [*INDUSTRY.values(), *(MX(e, how) for e in (E2M1, E4M3, INT8) for how in ScaleRounding)]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), fmt=st.sampled_from(EVERY), top=st.sampled_from([None, 3, -5]))
def test_tensors_equal_fractions(seed: int, fmt, top: int | None) -> None:
    """Blocks of activations and of weights, depthwise too, tails and cut axes."""
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([1, 5, 16, 17, 33, 70]))
    layer = ConvLayer("x", K=3, C=channels, P=2, Q=1, R=2, S=2)
    if rng.random() < 0.4:
        layer = ConvLayer("x", G=channels, K=1, C=1, P=2, Q=1, R=2, S=2)
    for tensor, shape, quantize, layout in (
        ("I", layer.input_shape, quantize_activation, ActivationLayout),
        ("W", layer.weight_shape, quantize_weight, WeightLayout),
    ):
        values = some_values(rng, shape)
        q = quantize(values, fmt, top)
        expected, _ = reference.quantised(reference.exact(values), tensor, layer, fmt, top)
        found = dequantize(q)
        assert {i: Fraction(float(found[i])) for i in np.ndindex(shape)} == expected
        packed = pack(q, layout(shape, fmt))
        own = storage(fmt)
        codes = len({reference.block_of(i, tensor, layer, fmt) for i in np.ndindex(shape)})
        assert layout(shape, fmt).bits == values.size * own.element + codes * own.code
        back = unpack(packed, layout(shape, fmt), q.top, q.block, q.scale)
        np.testing.assert_array_equal(back.fields, q.fields)
        np.testing.assert_array_equal(back.codes, q.codes)


def test_an_all_zero_block_has_the_least_scale() -> None:
    zeros = np.zeros((1, 1, 1, 40))
    for fmt in INDUSTRY.values():
        q = quantize_activation(zeros, fmt)
        assert not dequantize(q).any()
        assert set(q.codes.ravel().tolist()) <= {fmt.zero_code}
    assert dequantize(quantize_activation(zeros, NVFP4(), top=-128)).any() == 0


def test_scales_by_hand() -> None:
    """E2M1 under 5, 6, 7 and 7.5: floor saturates 7, even goes up from 7 on, rceil beyond 6."""
    expected = {
        ScaleRounding.FLOOR: {4: 0, 4.25: 0, 5: 0, 6: 0, 6.5: 0, 7: 0, 7.5: 0},
        ScaleRounding.EVEN: {4: 0, 4.25: 0, 5: 0, 6: 0, 6.5: 0, 7: 1, 7.5: 1},
        ScaleRounding.RCEIL: {4: 0, 4.25: 0, 5: 0, 6: 0, 6.5: 1, 7: 1, 7.5: 1},
        ScaleRounding.CEIL: {4: 0, 4.25: 1, 5: 1, 6: 1, 6.5: 1, 7: 1, 7.5: 1},
    }
    for how, of in expected.items():
        for largest, exponent in of.items():
            q = quantize_activation(np.full((1, 1, 1, 2), largest), MX(E2M1, how))
            assert q.codes.item() == 127 + exponent, (how, largest)


def test_nvfp4_by_hand() -> None:
    """The largest is 2688 x 2^-3: the tensor's scale is 2^-3, its block's 448, its element 6."""
    x = np.zeros((1, 1, 1, 32))
    x[..., 0], x[..., 1], x[..., 16], x[..., 17] = 336, -70, 0.75, 0.3
    q = quantize_activation(x, NVFP4())
    assert q.scale == 0.125
    assert q.codes.ravel().tolist() == [0x7E, 0x38]  # 448 and 1: 0.75 / 6 = 1 x 2^-3
    # -70 / 56 = -1.25, a tie of 1 and 1.5, is 1; 0.3 / 0.125 = 2.4 is 2
    assert q.fields.ravel()[[0, 1, 16, 17]].tolist() == [7, 0b1010, 7, 4]
    assert dequantize(q).ravel()[[0, 1, 16, 17]].tolist() == [336, -56, 0.75, 0.25]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    digits=st.integers(1, (1 << 53) - 1),
    by=st.integers(1, (1 << 28) - 1),
    shift=st.integers(-60, 60),
    bits=st.integers(1, 24),
)
def test_a_quotient_rounds_as_the_fraction_does(
    digits: int, by: int, shift: int, bits: int
) -> None:
    """To so many bits, ties to even: no double rounding."""
    x, d = math.ldexp(digits, shift), float(by)
    found = Fraction(float(quotient(np.array(x), d)))
    true = Fraction(x) / by
    unit = Fraction(2) ** (reference.floor_log2(true) - bits + 1)
    assert round(found / unit) == round(true / unit)


def test_quotients_beside_ties() -> None:
    """x one unit above and below (2 k + 1) / 2 x d, at 53 bits: the division alone makes it k.5."""
    for k in range(1, 200, 7):
        d = float((1 << 27) + 2 * k + 1)
        tie = (k + 0.5) * d
        for x in (np.nextafter(tie, 0), tie, np.nextafter(tie, np.inf)):
            assert round(Fraction(float(quotient(np.array(x), d)))) == round(Fraction(x) / int(d))


@given(
    st.lists(st.integers(-(2**70), 2**70), min_size=1),
    st.floats(2.0**-290, 2.0**290),
    st.integers(-50, 50),
)
def test_a_scaled_array_is_exact(digits: list[int], factor: float, exponent: int) -> None:
    wide = np.array(digits, object)
    small = max(map(abs, digits)) < 2**62
    array = ExactArray(wide.astype(np.int64) if small else wide, exponent, factor)
    scaled = array.multiplied()
    assert scaled.factor == 1
    own = Fraction(2) ** scaled.exponent
    for got, given_digits in zip(scaled.digits.tolist(), digits, strict=True):
        assert got * own == given_digits * Fraction(2) ** exponent * Fraction(factor)


def test_names_and_what_cannot_be() -> None:
    for fmt in EVERY:
        assert parse_format(str(fmt)) == fmt
        assert parse_format(f" {str(fmt).upper()} ") == fmt
    assert parse_format("mxfp8e4m3-even") == MX(E4M3, ScaleRounding.EVEN)
    with pytest.raises(FormatError, match=r"scale rounding 'odd'; allowed: floor, ceil, even, rce"):
        parse_format("mxfp4-odd")
    for wrong in ("mxfp7", "nvfp4-even", "mxfp8", "bf17", "mxfp7-even"):
        with pytest.raises(
            FormatError, match=rf"format '{wrong}'; allowed: bfp8, .*mxint8, .*bf16"
        ):
            parse_format(wrong)
    with pytest.raises(FormatError, match="MX: element=bf16; allowed: int8, fp8e4m3"):
        MX(BFLOAT16)
    with pytest.raises(FormatError, match="MX: scale_rounding='even'; allowed: ScaleRounding"):
        MX(E2M1, "even")  # type: ignore[arg-type]


def test_bf16_rounds_once() -> None:
    """1 + 2^-8 + 2^-40 is a tie in float32, and above it exactly."""
    x = np.array([[1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 3.4e38, -1e300, 2.0**-133]])
    q = quantize_activation(x.reshape(1, 1, 1, -1), BFloat16())
    largest = float(2 - 2.0**-7) * 2.0**127
    assert dequantize(q).ravel().tolist() == [1 + 2.0**-7, 1, largest, -largest, 2.0**-133]
