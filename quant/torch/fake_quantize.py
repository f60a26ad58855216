"""Tensors quantised and back: what a network computes with, in its own floats.

The rule is that of `quant.formats.quantize`, bit for bit, rounded once to the tensor's dtype. On
the CPU float32 goes through compiled kernels (`quant.torch.kernels`); other devices and float64
through torch operators, in float64, where every step but the rounding is exact.
"""

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from bfpsim.quant.formats import MSFP, MX, NVFP4, BFloat16, Format, FormatError, Rounding
from bfpsim.quant.formats.blocks import Blocks
from bfpsim.quant.formats.elements import BFLOAT16
from bfpsim.quant.formats.format import TOP_MAX, TOP_MIN
from bfpsim.quant.formats.quantize import scale_below
from bfpsim.quant.formats.scaled import tensor_scale_of
from bfpsim.quant.torch import boxes
from bfpsim.quant.torch.tensors import (
    block_maxima,
    check_dtype,
    check_finite,
    floor_log2,
    power_of_two,
    spread,
)


class Gradient(Enum):
    """The gradient of quantisation, whose own derivative is zero almost everywhere."""

    STRAIGHT_THROUGH = "straight-through"
    """dy/dx = 1."""
    CLIPPED = "clipped"
    """dy/dx = 1, and 0 where the rounded mantissa was beyond +-(2^(m-1) - 1), or the element beyond
    the largest."""


def fake_quantize(
    tensor: Tensor,
    fmt: Format,
    blocks: Blocks,
    top_exponent: int | None = None,
    *,
    seed: int | None = None,
    gradient: Gradient = Gradient.STRAIGHT_THROUGH,
    out: Tensor | None = None,
    name: str = "tensor",
) -> Tensor:
    """Quantise and dequantise: a tensor of the same shape, dtype and memory format.

    tensor: float32 or float64. Fastest and without a copy: float32 on the CPU, contiguous or, for
        `CHANNELS`, channels last in memory
    blocks: `CHANNELS`, `LAST`, `WEIGHT` or another axis; plain formats have none
    top_exponent: E_top; None takes the tensor's own (`calibrated_top`). Of NVFP4, whose tensors
        have a scale in its place, see `quant.formats.quantize`
    seed: of stochastic rounding, 0..2^63-1; needed there and only there. What an element becomes
        depends on the seed and its position, not on memory format, device or threads
    out: where to put the result, of the tensor's shape, dtype and device; may be the tensor itself.
        It saves fresh memory, and has no gradient
    name: of the tensor, for error messages

    Raises FormatError for NaN or infinity and for what is not allowed above; `out` then holds
    nothing of use.
    """
    _check(tensor, fmt, blocks, top_exponent, seed, name)

    def run(into: Tensor, saturated: Tensor | None) -> None:
        _quantize(tensor.detach(), into, saturated, fmt, blocks, top_exponent, seed or 0, name)

    if out is not None:
        if (out.shape, out.dtype, out.device) != (tensor.shape, tensor.dtype, tensor.device):
            raise FormatError(
                f"{name}: out is {out.dtype} {tuple(out.shape)} on {out.device}; allowed: "
                f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )
        if torch.is_grad_enabled() and (tensor.requires_grad or out.requires_grad):
            raise FormatError(f"{name}: out= has no gradient; allowed: under torch.no_grad()")
        run(out, None)
        return out
    result: Tensor = _FakeQuantize.apply(tensor, run, gradient)  # type: ignore[no-untyped-call]
    return result


def calibrated_top(tensor: Tensor, name: str = "tensor") -> int:
    """E_top of a tensor: floor(log2(max |x|)), held to 8 bits; 0 if all are zero.

    Raises FormatError for NaN or infinity.
    """
    largest = _largest(tensor, name)
    return max(TOP_MIN, min(TOP_MAX, math.frexp(largest)[1] - 1)) if largest else 0


def _largest(tensor: Tensor, name: str) -> float:
    """The largest magnitude; raises FormatError for NaN or infinity."""
    if tensor.numel() == 0:
        return 0.0
    values = _memory_view(tensor.detach())(tensor.detach())  # torch is slow on other orders
    low, high = (float(v) for v in torch.aminmax(values))
    largest = max(-low, high)
    if not math.isfinite(largest):
        check_finite(tensor, name)
    return largest


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, run: Callable[[Tensor, Tensor | None], None], gradient: Gradient
    ) -> Tensor:
        out = torch.empty_like(tensor)
        clipped = gradient is Gradient.CLIPPED and tensor.requires_grad
        saturated = torch.empty_like(tensor, dtype=torch.bool) if clipped else None
        run(out, saturated)
        ctx.save_for_backward(saturated)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (saturated,) = ctx.saved_tensors
        grad: Tensor = grads[0]
        return grad if saturated is None else grad.masked_fill(saturated, 0), None, None


def _quantize(
    tensor: Tensor,
    out: Tensor,
    saturated: Tensor | None,
    fmt: Format,
    blocks: Blocks,
    top: int | None,
    seed: int,
    name: str,
) -> None:
    if tensor.numel() == 0:
        return
    if isinstance(fmt, BFloat16 | MX | NVFP4):
        _by_elements(tensor, out, saturated, fmt, blocks, top, name)
        return
    if fmt.is_float:
        check_finite(tensor, name)
        narrow = tensor.to(torch.float16 if fmt.mantissa_bits == 16 else torch.float32)
        if saturated is not None:
            saturated.copy_(narrow.isinf())
        largest = torch.finfo(narrow.dtype).max
        out.copy_(narrow.clamp_(-largest, largest) if narrow is not tensor else tensor)
        return
    if not fmt.spans_taps and blocks.taps:
        blocks = blocks.at_taps(tensor.shape)
    if isinstance(fmt, MSFP):
        top = TOP_MAX
    top = calibrated_top(tensor, name) if top is None else top
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        if not _by_kernel(tensor, out, saturated, fmt, blocks, top, seed):
            check_finite(tensor, name)
        return
    check_finite(tensor, name)
    values, clipped = by_operators(tensor, fmt, blocks, top, seed)
    out.copy_(values)
    if saturated is not None:
        saturated.copy_(clipped)


def _by_elements(
    tensor: Tensor,
    out: Tensor,
    saturated: Tensor | None,
    fmt: BFloat16 | MX | NVFP4,
    blocks: Blocks,
    top: int | None,
    name: str,
) -> None:
    """Round to elements of a float type, under a scale or none."""
    if isinstance(fmt, MX) and saturated is None:
        box, grid = blocks.of(fmt, tensor.shape), boxes.grid_of(fmt)
        out.copy_(boxes.quantize_boxes(tensor, box, grid, name))
        return
    check_finite(tensor, name)
    values = tensor.double()
    if isinstance(fmt, BFloat16):
        result, clipped = boxes.to_elements(values, BFLOAT16, None)
    else:
        box = blocks.of(fmt, tensor.shape)
        if isinstance(fmt, MX):
            scale = boxes.power_scales(values, box, boxes.grid_of(fmt))
        elif top is None:
            scale = boxes.two_scales(values, box, tensor_scale_of(fmt, _largest(tensor, name)))
        else:
            scale = boxes.two_scales(values, box, scale_below(fmt, top))
        result, clipped = boxes.to_elements(values, fmt.element, scale)
    largest = torch.finfo(tensor.dtype).max
    out.copy_(result.clamp_(-largest, largest))
    if saturated is not None:
        saturated.copy_(clipped)


# --- compiled: float32 on the CPU ---------------------------------------------------------------


def _memory_view(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """The view in which a tensor is contiguous: as it is, or channels last."""
    if tensor.dim() >= 3 and not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous():
        return lambda t: t.movedim(1, -1)
    return lambda t: t


def _by_kernel(
    tensor: Tensor,
    out: Tensor,
    saturated: Tensor | None,
    fmt: Format,
    blocks: Blocks,
    top: int,
    seed: int,
) -> bool:
    """Fill `out` and `saturated` by compiled kernels; False if a value is not finite."""
    from bfpsim.quant.torch import kernels  # numba; float64 and other devices do without

    view = _memory_view(tensor)
    last = view(tensor) is not tensor
    if last and fmt.exponent_bits and (blocks.taps or blocks.axis % tensor.dim() != 1):
        view, last = (lambda t: t), False  # blocks that no kernel walks: contiguous copies
    source = view(tensor).contiguous().view(-1).numpy()
    results = [(t, view(t).contiguous()) for t in (out, saturated) if t is not None]
    target, *masks = (buffer.view(-1).numpy() for _, buffer in results)
    lowest = top - (1 << fmt.exponent_bits) + 1
    rule = kernels.Rule(lowest, top, fmt.mantissa_bits, fmt.rounding, seed)
    alone = True
    if fmt.exponent_bits:
        _, channels, inner = blocks.extents(tensor.shape)
        size = min(fmt.block_size, channels)
        reordered = last and fmt.rounding is Rounding.STOCHASTIC  # draws go by logical position
        alone = size == 1 and not blocks.taps and not reordered
    run: Callable[..., int]
    if alone:  # every element: lanes of one channel
        run, shape = kernels.fake_quantize_lanes, (1, tensor.numel(), 1)
    elif blocks.taps:
        run, shape = kernels.fake_quantize_runs, (channels * inner, size * inner, 1)
    elif last or inner == 1:
        run, shape = kernels.fake_quantize_runs, (channels, size, inner)
    else:
        run, shape = kernels.fake_quantize_lanes, (channels, inner, size)
    largest = run(
        source, target, masks[0] if masks else None, rule, *shape, torch.get_num_threads()
    )
    for result, buffer in results:
        if buffer.data_ptr() != result.data_ptr():
            view(result).copy_(buffer)
    return largest < kernels.INFINITY


# --- torch operators: other devices, and float64 ------------------------------------------------


def by_operators(
    tensor: Tensor, fmt: Format, blocks: Blocks, top: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Quantise to integer mantissas and back in float64: the values, and which were clipped.

    Every step is exact except the rounding itself and the last conversion to the tensor's dtype.
    """
    m = fmt.mantissa_bits
    values = tensor.double()
    exponent = torch.tensor(top, device=tensor.device)
    if fmt.exponent_bits:
        box = blocks.of(fmt, values.shape)
        lowest = top - (1 << fmt.exponent_bits) + 1
        exponent = floor_log2(block_maxima(values.abs(), box)).clamp(lowest, top)
        exponent = spread(exponent, box, values.shape)  # an all-zero block is zero with any
    unit = exponent - (m - 2)
    rounded = _round(values * power_of_two(-unit), fmt.rounding, seed)
    limit = float((1 << (m - 1)) - 1)
    result = rounded.clamp(-limit, limit) * power_of_two(unit)
    return result.to(tensor.dtype), rounded.abs() > limit


def _round(x: Tensor, rounding: Rounding, seed: int) -> Tensor:
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

    def mix(z: Tensor, shift: int) -> Tensor:
        return z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))

    z = torch.arange(1, like.numel() + 1, device=like.device) * _signed(0x9E3779B97F4A7C15) + seed
    z = mix(z, 30) * _signed(0xBF58476D1CE4E5B9)
    z = mix(mix(z, 27) * _signed(0x94D049BB133111EB), 31)
    odd = ((z >> 40) & ((1 << 24) - 1)) | 1
    return (odd.double() * 2.0**-24).reshape(like.shape)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


# --- bad input ----------------------------------------------------------------------------------


def _check(
    tensor: Tensor, fmt: Format, blocks: Blocks, top: int | None, seed: int | None, name: str
) -> None:
    check_dtype(tensor, name)
    if fmt.exponent_bits:
        blocks.check(tensor.shape, name)
    whole = isinstance(top, int) and not isinstance(top, bool)
    if top is not None and not (whole and TOP_MIN <= top <= TOP_MAX):
        raise FormatError(f"{name}: E_top={top!r}; allowed: a whole number {TOP_MIN}..{TOP_MAX}")
    stochastic = fmt.rounding is Rounding.STOCHASTIC
    if stochastic and (seed is None or not 0 <= seed < 1 << 63):
        raise FormatError(f"{name}: stochastic rounding with seed={seed!r}; allowed: 0..2^63-1")
    if seed is not None and not stochastic:
        raise FormatError(f"{name}: seed={seed!r} with {fmt}; allowed: with stochastic rounding")
