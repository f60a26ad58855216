"""Which elements share a scale, as boxes of a tensor."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bfpsim.quant.formats import FormatError
from bfpsim.quant.torch.axes import Blocks
from bfpsim.quant.torch.fake_quantize import check_finite

Box = tuple[int, ...]
"""Elements that share a scale, along each axis. The last box of an axis may be short."""


def shared_axis(shape: Sequence[int], blocks: Blocks, name: str) -> int:
    """The axis along which consecutive elements share a scale.

    Of weights (filters, C, ...): the input channels, at one filter and one tap, which is the order
    in which a dot product over NHWC data goes through them. Where C is 1 (depthwise): the filters.

    Raises FormatError for an axis that is not there.
    """
    dims = len(shape)
    if not (dims >= 2 if blocks.taps else -dims <= blocks.axis < dims):
        needed = "at least 2 axes" if blocks.taps else f"an axis {blocks.axis}"
        raise FormatError(f"{name}: shape {tuple(shape)}; allowed: {needed}")
    if blocks.taps:
        return 0 if shape[1] == 1 else 1
    return blocks.axis % dims


def run(shape: Sequence[int], blocks: Blocks, size: int, name: str) -> Box:
    """`size` consecutive elements along the shared axis."""
    axis = shared_axis(shape, blocks, name)
    return tuple(size if i == axis else 1 for i in range(len(shape)))


def box_count(shape: Sequence[int], box: Box) -> int:
    """How many boxes hold a tensor of `shape`."""
    return math.prod(-(-size // length) for size, length in zip(shape, box, strict=True))


def doubles(tensor: Tensor, name: str) -> Tensor:
    """The values in float64, where every step but the rounding to the format is exact.

    Raises FormatError for NaN, infinity and dtypes other than float32 and float64.
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        raise FormatError(f"{name}: {tensor.dtype}; allowed: torch.float32, torch.float64")
    check_finite(tensor, name)
    return tensor.detach().double()


def floor_log2(magnitudes: Tensor) -> Tensor:
    """floor(log2(x)) of positive x, from the float's exponent bits; of 0 it is -1."""
    return torch.frexp(magnitudes).exponent.long() - 1


def power_of_two(exponents: Tensor) -> Tensor:
    """2^e in float64 for e in -1022..1023, from its bits: `pow` need not be exact."""
    return ((exponents + 1023) << 52).view(torch.float64)


def box_maxima(magnitudes: Tensor, box: Box) -> Tensor:
    """For each element, the largest value of its box: axis by axis, as maxima allow."""
    out = magnitudes
    for axis, (size, length) in enumerate(zip(magnitudes.shape, box, strict=True)):
        if length > 1 and size > 1:
            before, after = out.shape[:axis], out.shape[axis + 1 :]
            padded = functional.pad(out, [0, 0] * len(after) + [0, -size % length])
            runs = padded.reshape(*before, -(-size // length), length, *after)
            largest = runs.amax(axis + 1, keepdim=True).expand_as(runs)
            out = largest.flatten(axis, axis + 1).narrow(axis, 0, size)
    return out
