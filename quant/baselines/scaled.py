"""Boxes of elements under a power-of-two scale: the rule of MX, HBFP and FlexBlock.

float32 on the CPU goes through a compiled kernel, everything else through torch operators; both
compute in float64, where every step but the rounding is exact, and give the same bits.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bfpsim.quant.baselines.boxes import Box, box_maxima, doubles, floor_log2, power_of_two
from bfpsim.quant.formats.quantize import TOP_MAX, TOP_MIN

_AXES = 4  # of the kernel


class Grid(NamedTuple):
    """The values that an element can take under scale 1, and the scales.

    exponent_min, exponent_max: of an element; equal for fixed point
    fraction_bits: behind the leading bit; an element of exponent e is a multiple of
        2^(e - fraction_bits)
    largest: magnitude, at which values saturate
    shift: the scale's exponent is that of the box's largest magnitude less this
    scale_min, scale_max: to which that is held
    """

    exponent_min: int
    exponent_max: int
    fraction_bits: int
    largest: float
    shift: int
    scale_min: int
    scale_max: int


def fixed_point(mantissa_bits: int) -> Grid:
    """Signed mantissas, sign included, under an 8-bit exponent: block floating point.

    E = floor(log2(max |x|)); x / 2^(E - (m-2)) saturates at +-(2^(m-1) - 1).
    """
    largest = ((1 << (mantissa_bits - 1)) - 1) / (1 << (mantissa_bits - 2))
    return Grid(0, 0, mantissa_bits - 2, largest, 0, TOP_MIN, TOP_MAX)


def scaled(tensor: Tensor, box: Box, grid: Grid, name: str) -> Tensor:
    """The nearest values of the grid, ties to even, each box under its scale; zeros have no sign.

    Raises FormatError for NaN, infinity and dtypes other than float32 and float64.
    """
    if tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.dim() <= _AXES:
        found = _compiled(tensor.detach(), box, grid)
        if found is not None:
            return found
    return by_operators(doubles(tensor, name), box, grid).to(tensor.dtype)


def by_operators(values: Tensor, box: Box, grid: Grid) -> Tensor:
    """`scaled` of float64, in torch operators."""
    exponents = floor_log2(box_maxima(values.abs(), box)) - grid.shift
    scale = power_of_two(exponents.clamp(grid.scale_min, grid.scale_max))
    elements = values / scale
    own = floor_log2(elements.abs()).clamp(grid.exponent_min, grid.exponent_max)
    unit = power_of_two(own - grid.fraction_bits)
    return ((elements / unit).round() * unit).clamp(-grid.largest, grid.largest) * scale + 0.0


def _compiled(tensor: Tensor, box: Box, grid: Grid) -> Tensor | None:
    """None if a value is not finite."""
    import numpy as np

    from bfpsim.quant.baselines.kernels import scale_boxes

    if not tensor.numel():
        return torch.empty_like(tensor)
    shape, lengths = _merged(tensor.shape, box)
    source = tensor.contiguous().reshape(shape).numpy()
    target = np.empty_like(source)
    least = grid.exponent_min - grid.fraction_bits
    finite = scale_boxes(
        source,
        source.view(np.int32),
        target,
        lengths,
        grid.shift,
        grid.scale_min,
        grid.scale_max,
        grid.fraction_bits,
        least,
        grid.exponent_max - grid.exponent_min,
        math.ldexp(grid.largest, -least),
    )
    result = torch.from_numpy(target).reshape(tensor.shape)
    return torch.empty_like(tensor).copy_(result) if finite else None


def _merged(shape: Sequence[int], box: Box) -> tuple[tuple[int, ...], Box]:
    """The shape and box with four axes, the last ones as long as may be: rows are quick.

    Two axes are one where no box has more than one of either, or boxes hold the inner one whole.
    """
    sizes, lengths = list(shape), list(box)
    for axis in range(len(sizes) - 2, -1, -1):
        inner = sizes[axis + 1]
        if lengths[axis] == lengths[axis + 1] == 1 or lengths[axis + 1] >= inner:
            whole = lengths[axis + 1] >= inner
            sizes[axis : axis + 2] = [sizes[axis] * inner]
            lengths[axis : axis + 2] = [min(lengths[axis], shape[axis]) * inner if whole else 1]
    missing = (1,) * (_AXES - len(sizes))
    return (*missing, *sizes), (*missing, *lengths)
