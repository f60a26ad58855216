"""Scaled blocks: elements of a narrow type under a scale per block.

MX is OCP Microscaling v1.0: 32 elements under a power of two. NVFP4 is NVIDIA's: 16 elements of
E2M1 under an E4M3 scale, and one FP32 scale per tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.objects import immutable
from bfpsim.quant.formats.elements import (
    E2M1,
    E4M3,
    ELEMENTS,
    Codes,
    Doubles,
    Element,
    decode,
    encode,
    nearest,
)
from bfpsim.quant.formats.rounding import FormatError, Rounding

SCALE_MIN, SCALE_MAX = -127, 127
"""E8M0: a power of two, exponent biased by 127; code 255 is NaN."""
_NAN_SCALE = 255


class ScaleRounding(Enum):
    """The power of two that MX takes as the scale of a block whose largest magnitude is ``max``.

    ``emax`` is the exponent of the element's largest number.
    """

    FLOOR = "floor"
    """2^(floor(log2 max) - emax): the specification's (section 6.3). The largest elements may
    saturate."""
    CEIL = "ceil"
    """2^(ceil(log2 max) - emax): none saturates; a bit may be lost."""
    EVEN = "even"
    """2^(floor(log2 r) - emax), r being max rounded, ties to even, to the element's fraction."""
    RCEIL = "rceil"
    """2^(ceil(log2(max / largest))): the least scale with which no element saturates."""


@immutable
@dataclass(frozen=True, slots=True)
class MX:
    """OCP Microscaling: 32 elements along the reduction under one E8M0 scale.

    element: INT8, E4M3, E5M2, E3M2, E2M3 or E2M1
    scale_rounding: how a block's scale follows from its largest magnitude

    A scale is held to 2^-127 .. 2^127. An all-zero block has the smallest.

    Raises FormatError for another element.
    """

    element: Element
    scale_rounding: ScaleRounding = ScaleRounding.FLOOR

    exponent_bits: ClassVar[int] = 8
    """Width of a scale [bit]."""
    block_size: ClassVar[int] = 32
    """Elements of a block."""
    spans_taps: ClassVar[bool] = False
    """False: a block of W lies at one tap."""
    tensor_bits: ClassVar[int] = 0
    """What is stored once per tensor: nothing [bit]."""
    is_float: ClassVar[bool] = False
    """False: elements have a scale."""
    zero_code: ClassVar[int] = 0
    """The code of an all-zero block: of the smallest scale."""
    rounding: ClassVar[Rounding] = Rounding.NEAREST_EVEN
    """Of elements: to the nearest, ties to even."""

    def __post_init__(self) -> None:
        if self.element not in ELEMENTS:
            allowed = ", ".join(map(str, ELEMENTS))
            raise FormatError(f"MX: element={self.element!s:.60}; allowed: {allowed}")
        if not isinstance(self.scale_rounding, ScaleRounding):
            allowed = ", ".join(map(str, ScaleRounding))
            raise FormatError(f"MX: scale_rounding={self.scale_rounding!r}; allowed: {allowed}")

    @property
    def mantissa_bits(self) -> int:
        """Stored width of an element [bit]."""
        return self.element.bits

    @property
    def significand_bits(self) -> int:
        """Width that a multiplier sees [bit]."""
        return self.element.significand_bits

    @property
    def scale_carry(self) -> float:
        """The significand of a block's largest magnitude, 1 <= s < 2, from which on its scale is a
        binade up.

        2 is never reached.
        """
        if self.scale_rounding is ScaleRounding.CEIL:
            return float(np.nextafter(1.0, 2.0))
        if self.scale_rounding is ScaleRounding.EVEN:
            return 2 - 2.0 ** -(self.element.fraction_bits + 1)
        if self.scale_rounding is ScaleRounding.RCEIL:
            return float(np.nextafter(self.element.largest / 2.0**self.element.exponent_max, 2.0))
        return 2.0

    def __str__(self) -> str:
        own = self.scale_rounding
        tail = "" if own is ScaleRounding.FLOOR else f"-{own.value}"
        return f"mx{self.element}{tail}"


@immutable
@dataclass(frozen=True, slots=True)
class NVFP4:
    """NVIDIA's FP4: 16 elements of E2M1 along the reduction under one E4M3 scale.

    One FP32 scale per tensor is such that its largest magnitude has the scale 448, the largest of
    E4M3, and the element 6, the largest of E2M1: max / 2688. A block's scale is the nearest of E4M3
    to its own max / 6 over the tensor's scale. An all-zero block has the scale 0.
    """

    element: ClassVar[Element] = E2M1
    """E2M1."""
    mantissa_bits: ClassVar[int] = E2M1.bits
    """Stored width of an element [bit]."""
    significand_bits: ClassVar[int] = E2M1.significand_bits
    """Width that a multiplier sees [bit]."""
    exponent_bits: ClassVar[int] = E4M3.bits
    """Width of a block's scale [bit]."""
    block_size: ClassVar[int] = 16
    """Elements of a block."""
    spans_taps: ClassVar[bool] = False
    """False: a block of W lies at one tap."""
    tensor_bits: ClassVar[int] = 32
    """The tensor's scale, stored once [bit]."""
    is_float: ClassVar[bool] = False
    """False: elements have a scale."""
    zero_code: ClassVar[int] = 0
    """The code of an all-zero block: of the scale 0."""
    rounding: ClassVar[Rounding] = Rounding.NEAREST_EVEN
    """Of elements and scales: to the nearest, ties to even."""

    def __str__(self) -> str:
        return "nvfp4"


Scaled = MX | NVFP4


# --- scales ---------------------------------------------------------------------------------------


def scale_codes(fmt: Scaled, maxima: Doubles, tensor_scale: float) -> Codes:
    """The codes of blocks' scales, given their largest magnitudes."""
    if isinstance(fmt, NVFP4):
        wanted = quotient(maxima, E2M1.largest * tensor_scale)
        return encode(E4M3, nearest(E4M3, wanted))
    significand, exponent = np.frexp(maxima)
    carry = 2 * significand >= fmt.scale_carry
    scale = exponent.astype(np.int64) - 1 + carry - fmt.element.exponent_max
    codes: NDArray[np.int64] = np.clip(scale, SCALE_MIN, SCALE_MAX) - SCALE_MIN
    return np.where(maxima > 0, codes, fmt.zero_code).astype(np.int64)


def block_scales(fmt: Scaled, codes: Codes) -> Doubles:
    """The scales that codes stand for, without the tensor's own; NaN for codes that are."""
    if isinstance(fmt, NVFP4):
        return decode(E4M3, codes)
    return np.where(codes == _NAN_SCALE, np.nan, np.ldexp(1.0, codes + SCALE_MIN))


def tensor_scale_of(fmt: Scaled, largest: float) -> float:
    """What is stored once per tensor, given its largest magnitude: an FP32 number, or 1 for MX.

    Of a tensor that is all zero it is 1; where it would round to zero, the least above.
    """
    if isinstance(fmt, MX) or largest == 0:
        return 1.0
    wanted = quotient(np.asarray(largest), E2M1.largest * E4M3.largest)
    with np.errstate(over="ignore", under="ignore"):
        scale = np.float32(wanted)
    info = np.finfo(np.float32)
    return float(np.clip(scale, info.smallest_subnormal, info.max))


def of_binade(top: int) -> float:
    """The largest float32 below 2^(top + 1): a tensor's largest magnitude, if E_top is all that is
    known of it."""
    return float(np.ldexp(2 - 2.0**-23, top))


TIES = np.int64((1 << 28) - 1)
"""The low bits of a float64 significand that are zero in any number of 25 bits."""


def quotient(x: Doubles, by: Doubles | float) -> Doubles:
    """x / by, so rounded that rounding it again to 24 bits or fewer gives what x / by itself does.

    by: positive, of at most 28 bits. A quotient that only seems to be a tie is moved off it.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        q: Doubles = np.asarray(x / by, np.float64)
        rest = x - q * by  # exact where it is asked for
        beside = np.nextafter(q, np.where(rest > 0, np.inf, -np.inf))
        seems = (q.view(np.int64) & TIES == 0) & (rest != 0) & np.isfinite(rest) & (q != 0)
    return np.where(seems, beside, q)
