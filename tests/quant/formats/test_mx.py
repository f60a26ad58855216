"""MX formats equal gfloat's and a search through all code points, for every E8M0 scale."""

import math
from fractions import Fraction
from itertools import pairwise

import gfloat
import numpy as np
import pytest
import torch
from gfloat import formats as ocp

from bfpsim.quant.formats import E2M1, E2M3, E3M2, E4M3, E5M2, INT8, MX, Element
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT
from tests.quant.adapter import Stored
from tests.quant.oracle import floor_log2

THEIRS = {
    E4M3: ocp.format_info_mxfp8_e4m3,
    E5M2: ocp.format_info_mxfp8_e5m2,
    E3M2: ocp.format_info_mxfp6_e3m2,
    E2M3: ocp.format_info_mxfp6_e2m3,
    E2M1: ocp.format_info_mxfp4_e2m1,
    INT8: ocp.format_info_mxint8,
}
ELEMENTS = pytest.mark.parametrize("element", THEIRS, ids=str)


def magnitudes(element: Element) -> list[float]:
    """All finite magnitudes in code order, from gfloat's decoder; codes and values both rise."""
    info = THEIRS[element].etype
    decoded = [gfloat.decode_float(info, code).fval for code in range(2 ** (element.bits - 1))]
    finite = [v for v in decoded if math.isfinite(v)]
    assert finite == sorted(set(finite))
    return finite


def nearest(value: Fraction, element: Element) -> float:
    """By looking at every code point: ties to the even code, beyond the largest the largest."""
    points = magnitudes(element)
    code = min(range(len(points)), key=lambda c: (abs(Fraction(points[c]) - abs(value)), c % 2))
    return math.copysign(points[code], value)


@ELEMENTS
def test_every_code_point_survives_under_every_scale(element: Element) -> None:
    """255 scales; the largest element keeps each block's scale where it is."""
    points = magnitudes(element)
    assert points[-1] == element.largest
    assert len(points) == 2 ** (element.bits - 1) - {"fp8e4m3": 1, "fp8e5m2": 4}.get(
        str(element), 0
    )
    signed = points + [-p for p in points]
    rows = [[element.largest, *signed[i : i + 31]] for i in range(0, len(signed), 31)]
    block = torch.tensor([row + [0.0] * (32 - len(row)) for row in rows], dtype=torch.float64)
    exponents = torch.arange(-127, 128, dtype=torch.float64)
    x = (block * torch.exp2(exponents).view(-1, 1, 1)).reshape(-1, 32)
    assert torch.equal(Stored(MX(element)).quantize(x, LAST), x)


@ELEMENTS
def test_between_code_points_the_nearest_is_taken(element: Element) -> None:
    """Midpoints, a hair beside them, and beyond the largest."""
    points = magnitudes(element)
    values = []
    for low, high in pairwise(points):
        middle = (low + high) / 2
        values += [middle, np.nextafter(middle, 0), -np.nextafter(middle, high)]
    limit = 2.0 ** (element.exponent_max + 1)
    values += [-np.nextafter(limit, 0), (element.largest + limit) / 2]
    rows = [[element.largest, *values[i : i + 31]] for i in range(0, len(values), 31)]
    rows[-1] += [0.0] * (32 - len(rows[-1]))
    kept = Stored(MX(element)).quantize(torch.tensor(rows, dtype=torch.float64) * 2.0**-40, LAST)
    expected = [[nearest(Fraction(float(v)), element) * 2.0**-40 for v in row] for row in rows]
    assert kept.tolist() == expected


def some_blocks(seed: int) -> torch.Tensor:
    """Ordinary, wide, of any binade, just below powers of two, and zeros."""
    rng = np.random.default_rng(seed)
    ordinary = rng.standard_normal((24, 32))
    wide = rng.standard_normal((24, 32)) * np.exp2(rng.integers(-24, 3, (24, 32)))
    anywhere = rng.standard_normal((24, 32)) * np.exp2(rng.integers(-126, 120, (24, 1)))
    below = np.nextafter(np.exp2(rng.integers(-9, 9, (8, 32))).astype(np.float32), np.float32(0))
    x = np.concatenate([ordinary, wide, anywhere, below, np.zeros((1, 32))])
    return torch.from_numpy(x.astype(np.float32))


@ELEMENTS
def test_blocks_equal_gfloats(element: Element) -> None:
    x = some_blocks(element.bits)
    kept = Stored(MX(element)).quantize(x, LAST)
    for block, ours in zip(x.double().numpy(), kept.tolist(), strict=True):
        theirs = gfloat.quantize_block(THEIRS[element], block, gfloat.compute_scale_amax)
        if element is INT8:  # gfloat uses -128/64, we stop at -127/64
            scale = gfloat.compute_scale_amax(0, block)
            theirs = np.where(theirs == -2 * scale, -127 / 64 * scale, theirs)
        assert np.float32(theirs).tolist() == ours


@ELEMENTS
def test_the_scale_is_the_maximums_power_of_two_over_the_elements(element: Element) -> None:
    """The finest step that survives beside a maximum tells the scale."""
    step = Fraction(2) ** (element.exponent_min - element.fraction_bits)
    for largest in (1.0, 1.5, 1 - 2.0**-24, 2.0**-126, 3.0e38, 2.0**-100 * (2 - 2.0**-23)):
        scale = Fraction(2) ** max(-127, floor_log2(Fraction(largest)) - element.exponent_max)
        least = float(step * scale)
        x = torch.tensor([[largest, least, 0.75 * least, 0.5 * least, 1.5 * least]]).double()
        assert Stored(MX(element)).quantize(x, LAST)[0, 1:].tolist() == [least, least, 0, 2 * least]


def test_the_smallest_scale_stays() -> None:
    """Below 2^-127 * 2^emax the scale is 2^-127: E2M1's least step is 2^-128."""
    x = torch.tensor([[2.0**-128, 2.0**-129, 1.5 * 2.0**-129, 2.0**-149]])
    assert Stored(MX(E2M1)).quantize(x, LAST).tolist() == [[2.0**-128, 0, 2.0**-128, 0]]


def test_the_largest_scale_stays() -> None:
    x = torch.tensor([[1e300, -1e200, 2.0**127]], dtype=torch.float64)
    assert Stored(MX(E2M1)).quantize(x, LAST).tolist() == [[6 * 2.0**127, -6 * 2.0**127, 2.0**127]]


def test_an_error_stays_within_half_a_step_or_the_saturated_part() -> None:
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    for element in THEIRS:
        kept = Stored(MX(element)).quantize(x, LAST)
        largest = x.abs().amax(1, keepdim=True)
        # relative to the block's maximum: half a unit of the last place, or what saturation cuts
        cut = 2 - element.largest / 2.0**element.exponent_max
        bound = max(2.0 ** -(element.fraction_bits + 1), cut) * largest
        assert bool(((kept - x).abs() <= bound).all())


@ELEMENTS
def test_bits_by_hand(element: Element) -> None:
    """70 channels are 3 blocks, at each of 2 x 5 pixels; 3 x 3 taps of 4 filters each have 2."""
    fmt = Stored(MX(element))
    assert fmt.bits(torch.zeros(2, 70, 5), CHANNELS) == 700 * element.bits + 2 * 5 * 3 * 8
    assert fmt.bits(torch.zeros(4, 33, 3, 3), WEIGHT) == 1188 * element.bits + 4 * 9 * 2 * 8
    assert fmt.bits(torch.zeros(33, 1, 3, 3), WEIGHT) == 297 * element.bits + 9 * 2 * 8
