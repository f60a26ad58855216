"""Number formats: block floating point (BFP), scaled blocks, and plain words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

from bfpsim.objects import immutable
from bfpsim.quant.formats.elements import BFLOAT16, ELEMENTS
from bfpsim.quant.formats.rounding import FormatError, Rounding
from bfpsim.quant.formats.scaled import MX, NVFP4, ScaleRounding

TensorName = Literal["I", "W", "O"]
"""Which tensor of a layer: its input, its weights or its output."""
TENSORS: tuple[TensorName, ...] = ("I", "W", "O")

TOP_MIN, TOP_MAX = -128, 127
"""E_top is an 8-bit two's-complement integer, one per tensor."""
TOP_BITS = 8


def _whole(owner: str, field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{owner}: {field}={value!r}; allowed: a whole number {low}..{high}")


@immutable
@dataclass(frozen=True, slots=True)
class BFP:
    """Block floating point: a mantissa per element, a shared exponent per block.

    bits: q_b of the BitQ paper, the width of a mantissa plus an exponent [bit]
    exponent_bits: SE, the stored width of a block's exponent code [bit]
    block_size: BS, consecutive channels that share an exponent [elements]
    rounding: of mantissas

    Raises FormatError if the mantissa, `bits - exponent_bits`, has fewer than 2 bits.
    """

    bits: int
    exponent_bits: int
    block_size: int
    rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self) -> None:
        _whole("BFP", "bits", self.bits, 3, 32)
        _whole("BFP", "exponent_bits", self.exponent_bits, 1, 8)
        _whole("BFP", "block_size", self.block_size, 1, 65536)
        if not isinstance(self.rounding, Rounding):
            allowed = ", ".join(str(r) for r in Rounding)
            raise FormatError(f"BFP: rounding={self.rounding!r}; allowed: {allowed}")
        if self.mantissa_bits < 2:
            raise FormatError(
                f"BFP(bits={self.bits}, exponent_bits={self.exponent_bits}) leaves a mantissa of "
                f"{self.mantissa_bits} bit; allowed: at least 2, sign included, so "
                f"exponent_bits up to {self.bits - 2}"
            )

    @property
    def mantissa_bits(self) -> int:
        """Stored width m of an element, sign included [bit]."""
        return self.bits - self.exponent_bits

    @property
    def significand_bits(self) -> int:
        """Width that a multiplier sees [bit]."""
        return self.mantissa_bits

    @property
    def is_float(self) -> bool:
        """False: the stored fields are integers."""
        return False

    @property
    def spans_taps(self) -> bool:
        """True: a block of W holds all taps of its channels."""
        return True

    @property
    def tensor_bits(self) -> int:
        """E_top, stored once per tensor [bit]."""
        return TOP_BITS

    @property
    def zero_code(self) -> int:
        """The code of an all-zero block: the largest."""
        return (1 << self.exponent_bits) - 1

    def __str__(self) -> str:
        tail = "" if self.rounding is Rounding.NEAREST_EVEN else f"-{self.rounding.value}"
        return f"bfp{self.bits}e{self.exponent_bits}b{self.block_size}{tail}"


@immutable
@dataclass(frozen=True, slots=True)
class Plain:
    """Words without a shared exponent: to the rules of blocks, one element and a code of 0 bits.

    32 and 16 are IEEE 754 binary32 and binary16; every other width from 2 to 31 is a
    two's-complement integer with one power-of-two scale per tensor. `Plain(32)` is the paper's
    "Original" baseline.
    """

    bits: int

    def __post_init__(self) -> None:
        _whole("Plain", "bits", self.bits, 2, 32)

    @property
    def is_float(self) -> bool:
        """True for the two IEEE formats."""
        return self.bits in (16, 32)

    @property
    def mantissa_bits(self) -> int:
        """Stored width of an element [bit]."""
        return self.bits

    @property
    def significand_bits(self) -> int:
        """Width that a multiplier sees: 24 and 11 for the floats (hidden bit included) [bit]."""
        return {32: 24, 16: 11}.get(self.bits, self.bits)

    @property
    def exponent_bits(self) -> int:
        """Width of a block's exponent code: 0, none is stored [bit]."""
        return 0

    @property
    def block_size(self) -> int:
        """Elements of a block: 1."""
        return 1

    @property
    def spans_taps(self) -> bool:
        """True: without codes, blocks make no difference."""
        return True

    @property
    def tensor_bits(self) -> int:
        """E_top of integers, stored once per tensor [bit]."""
        return 0 if self.is_float else TOP_BITS

    @property
    def zero_code(self) -> int:
        """No code is stored."""
        return 0

    @property
    def rounding(self) -> Rounding:
        """To the nearest word, ties to even."""
        return Rounding.NEAREST_EVEN

    def __str__(self) -> str:
        return f"plain{self.bits}"


@immutable
@dataclass(frozen=True, slots=True)
class BFloat16:
    """The upper half of a binary32: 8 bits of exponent, 7 of fraction; plain words otherwise."""

    is_float: ClassVar[bool] = True
    """True."""
    mantissa_bits: ClassVar[int] = BFLOAT16.bits
    """Stored width of an element [bit]."""
    significand_bits: ClassVar[int] = BFLOAT16.significand_bits
    """Width that a multiplier sees, the hidden bit included [bit]."""
    exponent_bits: ClassVar[int] = 0
    """Width of a block's exponent code: 0, none is stored [bit]."""
    block_size: ClassVar[int] = 1
    """Elements of a block: 1."""
    spans_taps: ClassVar[bool] = True
    """True: without codes, blocks make no difference."""
    tensor_bits: ClassVar[int] = 0
    """What is stored once per tensor: nothing [bit]."""
    zero_code: ClassVar[int] = 0
    """No code is stored."""
    rounding: ClassVar[Rounding] = Rounding.NEAREST_EVEN
    """To the nearest, ties to even."""

    def __str__(self) -> str:
        return "bf16"


@immutable
@dataclass(frozen=True, slots=True)
class MSFP:
    """Microsoft floating point: 16 elements along the reduction under one 8-bit exponent.

    Rouhani et al., NeurIPS 2020. It is BFP whose code counts down from 127 in every tensor.

    bits_alone: an element's width if it had the exponent to itself: 8 of exponent, a sign, and
        `bits_alone - 9` of mantissa without a hidden bit. MSFP12 has 3, MSFP16 has 7

    Rounding is to nearest even and saturates, exponents are -128..127: the paper leaves both open.
    """

    bits_alone: int

    exponent_bits: ClassVar[int] = 8
    """Width of a block's exponent [bit]."""
    block_size: ClassVar[int] = 16
    """Elements of a bounding box."""
    spans_taps: ClassVar[bool] = False
    """False: a block of W lies at one tap."""
    tensor_bits: ClassVar[int] = 0
    """What is stored once per tensor: nothing [bit]."""
    is_float: ClassVar[bool] = False
    """False: the stored fields are integers."""
    rounding: ClassVar[Rounding] = Rounding.NEAREST_EVEN
    """To the nearest mantissa, ties to even."""

    def __post_init__(self) -> None:
        _whole("MSFP", "bits", self.bits_alone, 11, 16)

    @property
    def mantissa_bits(self) -> int:
        """Sign and mantissa [bit]."""
        return self.bits_alone - self.exponent_bits

    @property
    def significand_bits(self) -> int:
        """Width that a multiplier sees [bit]."""
        return self.mantissa_bits

    @property
    def zero_code(self) -> int:
        """The code of an all-zero block: the largest."""
        return (1 << self.exponent_bits) - 1

    def __str__(self) -> str:
        return f"msfp{self.bits_alone}"


Format = BFP | Plain | BFloat16 | MSFP | MX | NVFP4


@dataclass(frozen=True, slots=True)
class PartialSums:
    """Words of unfinished outputs: not a format of results, only a width that is moved."""

    bits: int

    @property
    def mantissa_bits(self) -> int:
        """Stored width of an element [bit]."""
        return self.bits

    @property
    def exponent_bits(self) -> int:
        """Width of a block's exponent code: 0, none is stored [bit]."""
        return 0

    @property
    def block_size(self) -> int:
        """Elements of a block: 1."""
        return 1


@immutable
@dataclass(frozen=True, slots=True)
class LayerFormats:
    """The formats of a layer's input (I), weights (W) and output (O)."""

    I: Format  # noqa: E741 - the tensor's name in the field
    W: Format
    O: Format  # noqa: E741

    def of(self, tensor: TensorName) -> Format:
        """The format of one of the tensors."""
        return {"I": self.I, "W": self.W, "O": self.O}[tensor]

    @classmethod
    def uniform(cls, fmt: Format) -> "LayerFormats":
        """One format for all three tensors."""
        return cls(fmt, fmt, fmt)

    def __str__(self) -> str:
        if self.I == self.W == self.O:
            return str(self.I)
        return f"I={self.I} W={self.W} O={self.O}"


_SE = {16: range(2, 8), 8: range(2, 7)}
_BS = (1, 2, 4, 8, 16, 24, 32, 48)


def candidates(bits: int) -> tuple[BFP, ...]:
    """The formats among which BitQ chooses, 16 or 8 bits wide (table 2).

    Raises FormatError for another width.
    """
    if bits not in _SE:
        raise FormatError(f"candidates of {bits!r} bits; allowed: 16, 8")
    return tuple(BFP(bits, se, bs) for se in _SE[bits] for bs in _BS)


FormatSource = LayerFormats | Format | str | Mapping[str, str | Format]
"""Formats of a layer, or what stands for them, as `layer_formats` takes it."""


def layer_formats(source: object) -> LayerFormats:
    """Return a layer's formats: themselves, one for all three tensors, or one for each.

    A format may be given by name; all in one as ``bfp8`` or, of I, W and O, ``bfp8,bfp8,bfp16``.
    Raises FormatError.
    """
    if isinstance(source, LayerFormats):
        return source
    if isinstance(source, Format):
        return LayerFormats.uniform(source)
    if isinstance(source, str):
        parts = [parse_format(part) for part in source.split(",")]
        if len(parts) not in (1, 3):
            raise FormatError(
                f"format {source!r} has {len(parts)} parts; allowed: 1, or 3 for I,W,O"
            )
        return LayerFormats(*parts) if len(parts) == 3 else LayerFormats.uniform(parts[0])
    if not isinstance(source, Mapping) or {*source} != {"I", "W", "O"}:
        raise FormatError(
            f"{source!r} is no format; allowed: bfp8 or another, or one for each of I, W and O"
        )
    i, w, o = (
        each if isinstance(each, Format) else parse_format(str(each))
        for each in (source[tensor] for tensor in TENSORS)
    )
    return LayerFormats(i, w, o)


# Middle-of-the-table defaults for users who name only a width (BitQ Table 2).
_SHORT = {"bfp8": BFP(8, 3, 16), "bfp16": BFP(16, 5, 16)}

_INDUSTRY: tuple[Format, ...] = (
    *(MX(element) for element in ELEMENTS), NVFP4(), MSFP(12), MSFP(16), BFloat16(),
)  # fmt: skip
INDUSTRY: Mapping[str, Format] = MappingProxyType({str(fmt): fmt for fmt in _INDUSTRY})
"""Formats of industry by name: mxint8, mxfp8e4m3, ..., nvfp4, msfp12, msfp16, bf16."""

_BFP = re.compile(r"bfp(\d{1,3})e(\d{1,3})b(\d{1,6})(?:-([a-z-]+))?", re.ASCII)
_PLAIN = re.compile(r"plain(\d{1,3})", re.ASCII)
_MSFP = re.compile(r"msfp(\d{1,3})", re.ASCII)
_MX = re.compile(r"(mx[a-z0-9]+)-([a-z]+)", re.ASCII)


def parse_format(text: str) -> Format:
    """Read `bfp8`, `bfp<bits>e<SE>b<BS>[-rounding]`, `plain<bits>`, `mxfp4[-scale rounding]`, ...

    The inverse of `str(format)`. Raises FormatError.
    """
    name = text.strip().lower()
    if known := _SHORT.get(name) or INDUSTRY.get(name):
        return known
    if match := _PLAIN.fullmatch(name):
        return Plain(int(match[1]))
    if match := _MSFP.fullmatch(name):
        return MSFP(int(match[1]))
    if match := _BFP.fullmatch(name):
        try:
            rounding = Rounding(match[4] or Rounding.NEAREST_EVEN.value)
        except ValueError:
            allowed = ", ".join(r.value for r in Rounding)
            message = f"format {text!r}: rounding {match[4]!r}; allowed: {allowed}"
            raise FormatError(message) from None
        return BFP(int(match[1]), int(match[2]), int(match[3]), rounding)
    if (match := _MX.fullmatch(name)) and isinstance(fmt := INDUSTRY.get(match[1]), MX):
        try:
            return MX(fmt.element, ScaleRounding(match[2]))
        except ValueError:
            allowed = ", ".join(r.value for r in ScaleRounding)
            message = f"format {text!r}: scale rounding {match[2]!r}; allowed: {allowed}"
            raise FormatError(message) from None
    raise FormatError(
        f"format {text!r}; allowed: bfp8, bfp16, bfp<bits>e<exponent bits>b<block size> "
        f"(such as bfp8e3b16), plain<bits> (such as plain32), {', '.join(INDUSTRY)}"
    )
