"""Fake quantisation in torch operators, for any device that has float64."""

import torch
from torch import Tensor
from torch.nn import functional

from bfpsim.quant.formats import Format, Rounding
from bfpsim.quant.torch.axes import Blocks


def by_operators(
    tensor: Tensor, fmt: Format, blocks: Blocks, top: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The rule of a BFP or plain integer format in float64: values, and which were clipped.

    Every step is exact except the rounding itself and the last conversion to the tensor's dtype.
    """
    m = fmt.mantissa_bits
    values = tensor.double()
    if fmt.exponent_bits:
        unit = _block_exponents(values, fmt, blocks, top) - (m - 2)
    else:
        unit = torch.tensor(top - (m - 2), device=tensor.device)
    rounded = _rounded(values * _power_of_two(-unit), fmt.rounding, seed)
    limit = float((1 << (m - 1)) - 1)
    kept = rounded.clamp(-limit, limit) * _power_of_two(unit)
    return kept.to(tensor.dtype), rounded.abs() > limit


def _block_exponents(values: Tensor, fmt: Format, blocks: Blocks, top: int) -> Tensor:
    outer, channels, inner = blocks.extents(values.shape)
    size = min(fmt.block_size, channels)
    magnitudes = values.abs().reshape(outer, channels, inner)
    padded = functional.pad(magnitudes, (0, 0, 0, -channels % size))
    padded = padded.reshape(outer, -1, size, inner)
    largest = padded.amax((2, 3) if blocks.taps else 2, keepdim=True)
    lowest = top - (1 << fmt.exponent_bits) + 1
    found = (torch.frexp(largest).exponent.long() - 1).clamp(lowest, top)
    exponents = found.expand(padded.shape)  # an all-zero block is zero with any
    return exponents.flatten(1, 2)[:, :channels].reshape(values.shape)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent from its bits: `pow` need not be exact on every device."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _rounded(x: Tensor, rounding: Rounding, seed: int) -> Tensor:
    if rounding is Rounding.NEAREST_EVEN:
        return x.round() + 0.0  # no -0
    whole = x.trunc()
    if rounding is Rounding.TRUNCATE:
        return whole + 0.0
    rest = x - whole
    if rounding is Rounding.NEAREST_AWAY:
        up, down = rest >= 0.5, rest <= -0.5
    else:
        draws = _draws(x, seed)
        up, down = rest > draws, rest < -draws
    return whole + up.double() - down.double()


def _draws(like: Tensor, seed: int) -> Tensor:
    """SplitMix64, as `quant.torch.kernels` has it; int64 products wrap, and shifts are masked."""

    def mixed(z: Tensor, shift: int) -> Tensor:
        return z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))

    z = torch.arange(1, like.numel() + 1, device=like.device) * _signed(0x9E3779B97F4A7C15) + seed
    z = mixed(z, 30) * _signed(0xBF58476D1CE4E5B9)
    z = mixed(mixed(z, 27) * _signed(0x94D049BB133111EB), 31)
    odd = ((z >> 40) & ((1 << 24) - 1)) | 1
    return (odd.double() * 2.0**-24).reshape(like.shape)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
