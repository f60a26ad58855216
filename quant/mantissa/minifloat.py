"""Small floating-point formats FP(e, m), on the bits of wider floats."""

import re
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from bfpsim.objects import immutable
from bfpsim.quant.formats import FormatError, Rounding
from bfpsim.quant.formats.blocks import Blocks
from bfpsim.quant.torch.boxes import doubles, shared_axis

EXPONENT_BITS = range(2, 9)
MANTISSA_BITS = range(24)
# Of the float that holds the values: its integer type, fraction bits and bias.
_HOLDERS = {
    torch.float32: (torch.int32, 23, 127),
    torch.float64: (torch.int64, 52, 1023),
}
_COMPILED = 1 << 16  # elements from which on compiled loops are worth loading


class Overflow(Enum):
    """What a finite value becomes whose nearest-even rounding is beyond the largest number."""

    SATURATE = "saturate"
    """The largest number with its sign: a weight stays a number."""
    INFINITY = "infinity"
    """Infinity with its sign, as IEEE 754 and torch's casts have it."""


@immutable
@dataclass(frozen=True, slots=True)
class MiniFloat:
    """A sign, `exponent_bits` and `mantissa_bits`, laid out as IEEE 754's binary formats.

    The bias is 2^(e-1) - 1. Exponent code 0 holds zero and the subnormals, which are kept; the top
    code is reserved for infinity and NaN, in every format and whatever `overflow` says, so that
    (8, 7) is BF16 and (5, 10) is FP16. Numbers reach (2 - 2^-m) 2^bias.

    exponent_bits: e, 2..8
    mantissa_bits: m, stored fraction bits behind the hidden one, 0..23
    rounding: NEAREST_EVEN (a tie goes to the even code; without mantissa bits, to the even
        exponent code) or TRUNCATE (towards zero)
    overflow: of NEAREST_EVEN. Truncation stops at the largest number, as IEEE 754's rounding
        towards zero does

    Raises FormatError for other widths and roundings.
    """

    exponent_bits: int
    mantissa_bits: int
    rounding: Rounding = Rounding.NEAREST_EVEN
    overflow: Overflow = Overflow.SATURATE

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("exponent_bits", self.exponent_bits, EXPONENT_BITS),
            ("mantissa_bits", self.mantissa_bits, MANTISSA_BITS),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
                raise FormatError(
                    f"minifloat: {key}={value!r}; allowed: a whole number "
                    f"{allowed[0]}..{allowed[-1]}"
                )
        if self.rounding not in (Rounding.NEAREST_EVEN, Rounding.TRUNCATE):
            raise FormatError(
                f"minifloat: rounding={self.rounding.value!r}; allowed: "
                f"{Rounding.NEAREST_EVEN.value}, {Rounding.TRUNCATE.value}"
            )

    @property
    def bias(self) -> int:
        """The difference between an exponent code and its exponent; the largest exponent, too."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def element_bits(self) -> int:
        """Sign, exponent and mantissa [bit]."""
        return 1 + self.exponent_bits + self.mantissa_bits

    def rounded(self, tensor: Tensor) -> Tensor:
        """Convert the values to the format and back: same shape, dtype and device.

        A conversion as IEEE 754 has it, in one rounding: zeros keep their sign, infinities and NaNs
        stay. tensor: float32 or float64.
        """
        if tensor.dtype == torch.float32 and tensor.is_cpu and tensor.numel() >= _COMPILED:
            return self._compiled(tensor)
        return self.by_operators(tensor)

    def _compiled(self, tensor: Tensor) -> Tensor:
        from bfpsim.quant.mantissa.kernels import BIAS, FRACTION, round_bits  # numba

        source = tensor.detach().contiguous()
        target = torch.empty_like(source)
        nearest = self.rounding is Rounding.NEAREST_EVEN
        ones = ((1 << self.mantissa_bits) - 1) << (FRACTION - self.mantissa_bits)
        beyond = ((self.bias + BIAS) << FRACTION) | ones
        if nearest and self.overflow is Overflow.INFINITY:
            beyond = (2 * BIAS + 1) << FRACTION
        before, after = (each.view(-1).view(torch.int32).numpy() for each in (source, target))
        round_bits(before, after, self.mantissa_bits, self.bias, nearest, np.int32(beyond))
        return target

    def by_operators(self, tensor: Tensor) -> Tensor:
        """Return what `rounded` does, by torch's operators: any device and dtype, any size."""
        integer, fraction_bits, bias = _HOLDERS[tensor.dtype]
        bits = tensor.detach().contiguous().view(integer)
        sign = bits & torch.iinfo(integer).min
        magnitude = bits ^ sign
        code = magnitude >> fraction_bits
        hidden = (code > 0).to(integer) << fraction_bits
        significand = (magnitude & ((1 << fraction_bits) - 1)) | hidden
        # Below the least normal exponent, one bit more goes for each binade. Past the hidden bit
        # and the one above it, all goes.
        below = (1 - self.bias) - (code.clamp(min=1) - bias)
        dropped = fraction_bits - self.mantissa_bits + below.clamp(min=0)
        dropped = dropped.clamp(max=fraction_bits + 2)
        addend: Tensor | int = 0
        if self.rounding is Rounding.NEAREST_EVEN:
            # The last bit kept. A number without mantissa bits ends in its exponent, whose code is
            # odd where the holder's is: both biases are odd.
            odd = torch.where(below > 0, significand, magnitude)
            addend = ((1 << dropped) >> 1) - 1 + ((odd >> dropped) & 1)
            addend = torch.where(dropped == 0, 0, addend)
        whole = ((significand + addend) >> dropped) << dropped
        # A carry out of the significand is one more in the exponent's field.
        result = torch.where(whole == 0, 0, magnitude - significand + whole)
        ones = ((1 << self.mantissa_bits) - 1) << (fraction_bits - self.mantissa_bits)
        largest = ((self.bias + bias) << fraction_bits) | ones
        special = (2 * bias + 1) << fraction_bits  # infinity; NaNs are above it
        beyond = largest
        if self.rounding is Rounding.NEAREST_EVEN and self.overflow is Overflow.INFINITY:
            beyond = special
        result = torch.where(result > largest, beyond, result)
        result = torch.where(magnitude >= special, magnitude, result)
        return (result.to(integer) | sign).view(tensor.dtype)

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`: each element alone, whatever the blocks."""
        if tensor.dtype not in _HOLDERS or not bool(tensor.sum().isfinite()):
            doubles(tensor, name)  # refuses other dtypes, NaN and infinity
        shared_axis(tensor.shape, blocks, name)  # refuses an axis that is not there
        return self.rounded(tensor) + 0.0  # no -0

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`."""
        shared_axis(tensor.shape, blocks, "tensor")
        return tensor.numel() * self.element_bits

    def __str__(self) -> str:
        text = f"e{self.exponent_bits}m{self.mantissa_bits}"
        if self.rounding is Rounding.TRUNCATE:
            text += "-truncate"
        return text + ("-infinity" if self.overflow is Overflow.INFINITY else "")


FP32 = MiniFloat(8, 23, overflow=Overflow.INFINITY)
TF32 = MiniFloat(8, 10, overflow=Overflow.INFINITY)
BF16 = MiniFloat(8, 7, overflow=Overflow.INFINITY)
FP16 = MiniFloat(5, 10, overflow=Overflow.INFINITY)
NAMED = {"fp32": FP32, "tf32": TF32, "bf16": BF16, "fp16": FP16}
"""The formats of the paper's figure of formats, with the overflow of IEEE 754."""


def parse_minifloat(text: str, rounding: Rounding = Rounding.NEAREST_EVEN) -> MiniFloat:
    """Return the format that a name stands for: e5m2, or one of `NAMED`, in any case.

    One written e5m2 saturates.

    Raises FormatError for another name, and as `MiniFloat`.
    """
    name = text.strip().lower()
    if name in NAMED:
        return replace(NAMED[name], rounding=rounding)
    widths = re.fullmatch(r"e([0-9]{1,2})m([0-9]{1,2})", name)
    if widths is None:
        raise FormatError(f"minifloat {text!r}; allowed: {', '.join(NAMED)}, or such as e5m2")
    return MiniFloat(int(widths[1]), int(widths[2]), rounding)
