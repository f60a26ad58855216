"""Steps of quantisation on tensors, exact on every device; and bad input."""

import torch
from torch import Tensor
from torch.nn import functional

from bfpsim.quant.formats import FormatError
from bfpsim.quant.formats.blocks import Shape


def block_maxima(magnitudes: Tensor, box: Shape) -> Tensor:
    """The largest magnitude of each block: a tensor of as many entries per axis as there are boxes.

    A block whose box is longer than its axis is as long as the axis.
    """
    out = magnitudes
    for axis, length in enumerate(box):
        size = out.shape[axis]
        if length > 1 and size > 1:
            length, before, after = min(length, size), out.shape[:axis], out.shape[axis + 1 :]
            padded = functional.pad(out, [0, 0] * len(after) + [0, -size % length])
            out = padded.reshape(*before, -(-size // length), length, *after).amax(axis + 1)
    return out


def spread(per_block: Tensor, box: Shape, shape: Shape) -> Tensor:
    """Repeat one value per block over the block's elements: a tensor that broadcasts to `shape`."""
    out = per_block
    for axis, (length, size) in enumerate(zip(box, shape, strict=True)):
        if 1 < out.shape[axis] < size:
            out = out.repeat_interleave(length, axis).narrow(axis, 0, size)
    return out


def floor_log2(magnitudes: Tensor) -> Tensor:
    """floor(log2(x)) of positive x, from the float's exponent bits; of 0 it is -1."""
    return torch.frexp(magnitudes).exponent.long() - 1


def power_of_two(exponents: Tensor) -> Tensor:
    """2^e in float64 for e in -1022..1023, from its bits: `pow` need not be exact everywhere."""
    return ((exponents + 1023) << 52).view(torch.float64)


# --- bad input ----------------------------------------------------------------------------------


def check_dtype(tensor: Tensor, name: str) -> None:
    """Raise FormatError, naming the tensor, for a dtype other than float32 and float64."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise FormatError(f"{name}: {tensor.dtype}; allowed: torch.float32, torch.float64")


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise FormatError, naming the tensor, if it holds NaN or infinity."""
    finite = tensor.isfinite()
    bad = tensor.numel() - int(finite.sum())
    if bad:
        first = tuple((~finite).nonzero()[0].tolist())
        raise FormatError(
            f"{name}: {bad} of {tensor.numel()} values are NaN or infinite, the first at {first}; "
            "allowed: finite values"
        )
