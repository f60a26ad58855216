"""Boxes of elements under a scale: the rule of MX and NVFP4, of HBFP and FlexBlock.

float32 on the CPU goes through a compiled kernel, everything else through torch operators; both
compute in float64, where every step but the rounding is exact, and give the same bits.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bfpsim.quant.formats.blocks import Blocks, Shape
from bfpsim.quant.formats.elements import E2M1, E4M3, Element
from bfpsim.quant.formats.format import TOP_MAX, TOP_MIN
from bfpsim.quant.formats.scaled import MX, SCALE_MAX, SCALE_MIN, TIES
from bfpsim.quant.torch.tensors import (
    block_maxima,
    check_dtype,
    check_finite,
    floor_log2,
    power_of_two,
    spread,
)

_AXES = 4  # of the kernel


def shared_axis(shape: Sequence[int], blocks: Blocks, name: str) -> int:
    """The axis along which consecutive elements share a scale.

    Of weights (filters, C, ...): the input channels, at one filter and one tap, which is the order
    in which a dot product over NHWC data goes through them. Where C is 1 (depthwise): the filters.

    Raises FormatError for an axis that is not there.
    """
    blocks.check(shape, name)
    return blocks.channel_axis(shape)


def run(shape: Sequence[int], blocks: Blocks, size: int, name: str) -> Shape:
    """The box of `size` consecutive elements along the shared axis."""
    return Blocks(shared_axis(shape, blocks, name)).box(shape, size)


def doubles(tensor: Tensor, name: str) -> Tensor:
    """The values in float64, where every step but the rounding to the format is exact.

    Raises FormatError for NaN, infinity and dtypes other than float32 and float64.
    """
    check_dtype(tensor, name)
    check_finite(tensor, name)
    return tensor.detach().double()


class Grid(NamedTuple):
    """The values that an element can take under scale 1, and the scales.

    exponent_min, exponent_max: of an element; equal for fixed point
    fraction_bits: behind the leading bit; an element of exponent e is a multiple of
        2^(e - fraction_bits)
    largest: magnitude, at which values saturate
    shift: the scale's exponent is that of the box's largest magnitude less this
    scale_min, scale_max: to which that is held
    carry: the significand of that magnitude from which on the scale is a binade up; 2: never
    """

    exponent_min: int
    exponent_max: int
    fraction_bits: int
    largest: float
    shift: int
    scale_min: int
    scale_max: int
    carry: float = 2.0


def fixed_point(mantissa_bits: int) -> Grid:
    """Signed mantissas, sign included, under an 8-bit exponent: block floating point.

    E = floor(log2(max |x|)); x / 2^(E - (m-2)) saturates at +-(2^(m-1) - 1).
    """
    largest = ((1 << (mantissa_bits - 1)) - 1) / (1 << (mantissa_bits - 2))
    return Grid(0, 0, mantissa_bits - 2, largest, 0, TOP_MIN, TOP_MAX)


def grid_of(fmt: MX) -> Grid:
    """The elements and scales of MX."""
    own = fmt.element
    ends = own.exponent_min, own.exponent_max
    return Grid(
        *ends, own.fraction_bits, own.largest, ends[1], SCALE_MIN, SCALE_MAX, fmt.scale_carry
    )


def quantize_boxes(tensor: Tensor, box: Shape, grid: Grid, name: str) -> Tensor:
    """Round to the nearest values of the grid, ties to even, each box under its scale.

    Zeros have no sign in the result.

    Raises FormatError for NaN, infinity and dtypes other than float32 and float64.
    """
    result = None
    if tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.dim() <= _AXES:
        result = _by_kernel(tensor.detach(), box, grid)
    if result is None:
        result = by_operators(doubles(tensor, name), box, grid).to(tensor.dtype)
    if grid.carry < 2:  # then the largest element may lie above the largest float
        largest = torch.finfo(tensor.dtype).max
        result.clamp_(-largest, largest)
    return result


def by_operators(values: Tensor, box: Shape, grid: Grid) -> Tensor:
    """`quantize_boxes` of float64, in torch operators."""
    scale = power_scales(values, box, grid)
    ends = grid.exponent_min, grid.exponent_max
    rounded = _nearest(values / scale, *ends, grid.fraction_bits)
    return rounded.clamp(-grid.largest, grid.largest) * scale + 0.0


def power_scales(values: Tensor, box: Shape, grid: Grid) -> Tensor:
    """The scale of every box, a power of two: a tensor that broadcasts to the values'."""
    maxima = block_maxima(values.abs(), box)
    exponents = floor_log2(maxima)
    carried = 2 * torch.frexp(maxima).mantissa >= grid.carry
    exponents = (exponents + carried - grid.shift).clamp(grid.scale_min, grid.scale_max)
    return spread(power_of_two(exponents), box, values.shape)


def two_scales(values: Tensor, box: Shape, tensor_scale: float) -> Tensor:
    """NVFP4's: the scale of every box times the tensor's; 0 for boxes too small for one."""
    maxima = block_maxima(values.abs(), box)
    wanted = _quotient(maxima, torch.full_like(maxima, E2M1.largest * tensor_scale))
    own, _ = to_elements(wanted, E4M3, None)
    return spread(own * tensor_scale, box, values.shape)


def to_elements(values: Tensor, element: Element, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest elements under a scale, and which were beyond the largest; float64."""
    units = values
    if scale is not None:
        empty = scale == 0
        units = _quotient(values, scale.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)
    rounded = _nearest(units, element.exponent_min, element.exponent_max, element.fraction_bits)
    result = rounded.clamp(-element.largest, element.largest)
    if scale is not None:
        result = result * scale
    return result + 0.0, rounded.abs() > element.largest  # no -0


def _nearest(units: Tensor, exponent_min: int, exponent_max: int, fraction_bits: int) -> Tensor:
    own = floor_log2(units.abs()).clamp(exponent_min, exponent_max)
    unit = power_of_two(own - fraction_bits)
    return (units / unit).round() * unit


def _quotient(values: Tensor, by: Tensor) -> Tensor:
    """As `quant.formats.scaled.quotient`."""
    quotient = values / by
    rest = values - quotient * by
    beside = torch.nextafter(quotient, torch.where(rest > 0, torch.inf, -torch.inf).double())
    low_bits = quotient.view(torch.int64) & int(TIES)
    seems = (low_bits == 0) & (rest != 0) & rest.isfinite() & (quotient != 0)
    return torch.where(seems, beside, quotient)


def _by_kernel(tensor: Tensor, box: Shape, grid: Grid) -> Tensor | None:
    """`quantize_boxes` of float32 on the CPU, compiled; None if a value is not finite."""
    import numpy as np

    from bfpsim.quant.torch.box_kernels import scale_boxes  # numba

    if not tensor.numel():
        return torch.empty_like(tensor)
    shape, lengths = _merge(tensor.shape, box)
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
        grid.carry,
        grid.fraction_bits,
        least,
        grid.exponent_max - grid.exponent_min,
        math.ldexp(grid.largest, -least),
    )
    result = torch.from_numpy(target).reshape(tensor.shape)
    return torch.empty_like(tensor).copy_(result) if finite else None


def _merge(shape: Sequence[int], box: Shape) -> tuple[Shape, Shape]:
    """Return the shape and box with four axes, the last ones as long as may be: rows are quick.

    Two axes are one where no box has more than one of either, or boxes hold the inner one whole.
    """
    sizes, lengths = list(shape), list(box)
    for axis in range(len(sizes) - 2, -1, -1):
        inner = sizes[axis + 1]
        if lengths[axis] == lengths[axis + 1] == 1 or lengths[axis + 1] >= inner:
            whole = lengths[axis + 1] >= inner
            sizes[axis : axis + 2] = [sizes[axis] * inner]
            lengths[axis : axis + 2] = [min(lengths[axis], shape[axis]) * inner if whole else 1]
    ones = (1,) * (_AXES - len(sizes))
    return (*ones, *sizes), (*ones, *lengths)
