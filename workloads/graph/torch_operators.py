"""ONNX operators as torch has them: each a function of an operator and its inputs' values.

A function gives the output, a tuple of several, or None where torch does something else, which
leaves the operator to onnx's reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True)
class Scaled:
    """An operator's shapes for the graph's own batch, and where more of it makes them grow.

    before, after: shapes of inputs and outputs, () where one is no tensor
    grown, made: the dimension of each input and output that grows with the batch, or None
    kinds: types of the outputs
    """

    before: tuple[tuple[int, ...], ...] = ()
    after: tuple[tuple[int, ...], ...] = ()
    grown: tuple[int | None, ...] = ()
    made: tuple[int | None, ...] = ()
    kinds: tuple[torch.dtype, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """An operator: its node, its opset, its shapes, and the constants that it reads."""

    node: onnx.NodeProto
    opset: int
    scaled: Scaled
    constants: Callable[[str], Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, text as str, or the default."""
        for own in self.node.attribute:
            if own.name == name:
                value = helper.get_attribute_value(own)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant(self, place: int) -> NDArray[Any] | None:
        """Return an input's value if it is a constant."""
        if place >= len(self.node.input) or not self.node.input[place]:
            return None
        value = self.constants(self.node.input[place])
        return None if value is None else np.asarray(value)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Return whole numbers that are an attribute, or a constant input of later opsets."""
        value = self.get(name)
        if value is None:
            array = self.constant(place)
            value = None if array is None else array.reshape(-1).tolist()
        return None if value is None else [int(each) for each in value]

    def missing(self, place: int) -> bool:
        """Return whether an input is there that is no constant."""
        there = place < len(self.node.input) and bool(self.node.input[place])
        return there and self.constant(place) is None


Function = Callable[..., Any]


# --- elementwise ---------------------------------------------------------------------------------


def _plain(function: Callable[..., Any]) -> Function:
    return lambda context, *values: function(*values)


def _div(context: Context, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _mod(context: Context, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if context.get("fmod", 0) else torch.remainder(x, y)


def _pow(context: Context, x: Tensor, y: Tensor) -> Tensor:
    value = context.constant(1)
    if value is not None and value.size == 1:
        number = value.reshape(()).item()
        return torch.pow(x, int(number) if number == int(number) else number).to(x.dtype)
    return torch.pow(x, y).to(x.dtype)


def _clip(context: Context, x: Tensor, low: Any = None, high: Any = None) -> Tensor | None:
    if context.missing(1) or context.missing(2):
        return None
    bounds = [context.get("min"), context.get("max")]
    for place in (0, 1):
        value = context.constant(place + 1)
        if value is not None:
            bounds[place] = value.reshape(()).item()
    return x if bounds == [None, None] else x.clamp(bounds[0], bounds[1])


def _gelu(context: Context, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=context.get("approximate", "none"))


def _prelu(context: Context, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _fold(function: Callable[[Any, Any], Any]) -> Function:
    def run(context: Context, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = function(total, value)
        return total

    return run


def _mean(context: Context, *values: Tensor) -> Tensor:
    total: Tensor = _fold(torch.add)(context, *values) / len(values)
    return total


_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float32, onnx.TensorProto.BFLOAT16: torch.float32,
    onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT16: torch.int16, onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.BOOL: torch.bool,
}  # fmt: skip


def _cast(context: Context, x: Tensor) -> Tensor | None:
    kind = _TYPES.get(context.get("to"))
    return None if kind is None else x.to(kind)


def _round(context: Context, x: Tensor) -> Tensor:
    return torch.round(x)


def _hard_sigmoid(context: Context, x: Tensor) -> Tensor:
    alpha, beta = float(context.get("alpha", 0.2)), float(context.get("beta", 0.5))
    return (alpha * x + beta).clamp(0, 1)


def _selu(context: Context, x: Tensor) -> Tensor:
    alpha = float(context.get("alpha", 1.67326319217681884765625))
    gamma = float(context.get("gamma", 1.05070102214813232421875))
    return gamma * torch.where(x > 0, x, alpha * (torch.exp(x.clamp(max=0)) - 1))


def _swish(context: Context, x: Tensor) -> Tensor:
    return x * torch.sigmoid(float(context.get("alpha", 1.0)) * x)


def _thresholded(context: Context, x: Tensor) -> Tensor:
    return torch.where(x > context.get("alpha", 1.0), x, x * 0)


def _shrink(context: Context, x: Tensor) -> Tensor:
    edge, bias = context.get("lambd", 0.5), context.get("bias", 0.0)
    inner = torch.where(x > edge, x - bias, x * 0)
    return torch.where(x < -edge, x + bias, inner)


# --- shapes --------------------------------------------------------------------------------------


def _reshape(context: Context, x: Tensor, shape: Any = None) -> Tensor | None:
    """Reshape; the extent of the output that holds the batch is what is left over."""
    scaled = context.scaled
    if scaled.grown and scaled.grown[0] is not None:
        before, after, axis = scaled.before[0], scaled.after[0], scaled.grown[0]
        outer = math.prod(before[:axis])
        starts = [math.prod(after[:place]) for place in range(len(after) + 1)]
        places = [p for p in range(len(after)) if starts[p] <= outer < starts[p + 1]]
        same = [p for p in range(len(after)) if starts[p] == outer and after[p] == before[axis]]
        if not (same or places):
            raise ValueError("no dimension holds the batch")
        target = [*after]
        target[(same or places)[0]] = -1
        return x.reshape(target)
    if context.missing(1):
        return None
    if scaled.after:
        return x.reshape(scaled.after[0])
    wanted = context.numbers("shape", 1)
    if context.node.op_type == "Flatten":
        axis = int(context.get("axis", 1))
        axis = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:axis]), -1)
    if wanted is None:
        return None
    kept = not context.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and kept else n for i, n in enumerate(wanted)])


def _squeeze(context: Context, x: Tensor, axes: Any = None) -> Tensor | None:
    if context.missing(1):
        return None
    gone = context.numbers("axes", 1)
    if gone is None:
        return x.squeeze()
    for axis in sorted((axis % x.ndim for axis in gone), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(context: Context, x: Tensor, axes: Any = None) -> Tensor | None:
    new = context.numbers("axes", 1)
    if new is None:
        return None
    rank = x.ndim + len(new)
    for axis in sorted(axis % rank for axis in new):
        x = x.unsqueeze(axis)
    return x


def _transpose(context: Context, x: Tensor) -> Tensor:
    return x.permute(context.get("perm") or list(reversed(range(x.ndim))))


def _expand(context: Context, x: Tensor, shape: Any = None) -> Tensor | None:
    wanted = context.numbers("shape", 1)
    if wanted is None:
        return None
    rank = max(len(wanted), x.ndim)
    target = [1] * (rank - len(wanted)) + wanted
    before = context.scaled.before[0] if context.scaled.before else tuple(x.shape)
    own = (*[1] * (rank - x.ndim), *before)
    sizes = [-1 if n in (1, have) else n for n, have in zip(target, own, strict=True)]
    lead = rank - x.ndim
    return x.expand([1 if n == -1 and i < lead else n for i, n in enumerate(sizes)])


def _concat(context: Context, *values: Tensor) -> Tensor:
    axis = int(context.get("axis", 1)) % values[0].ndim
    scaled, parts = context.scaled, list(values)
    by_name = dict(
        zip(dict.fromkeys(n for n in context.node.input if n), scaled.grown, strict=False)
    )
    grown = [by_name.get(name) for name in context.node.input if name]
    whole = next((place for place, along in enumerate(grown) if along is not None), None)
    if whole is not None:  # what does not grow is the same for each sample
        along = grown[whole]
        assert along is not None
        for place, part in enumerate(parts):
            if grown[place] is None and along != axis and part.shape[along] == 1:
                sizes = [-1] * part.ndim
                sizes[along] = values[whole].shape[along]
                parts[place] = part.expand(sizes)
    return torch.cat(parts, axis)


def _split(context: Context, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...] | None:
    if context.missing(1):
        return None
    axis = int(context.get("axis", 0)) % x.ndim
    widths, parts = context.numbers("split", 1), len(context.node.output)
    if widths is None:
        each = -(-x.shape[axis] // parts)
        widths = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    return torch.split(x, widths, axis)


def _slice(context: Context, x: Tensor, *rest: Any) -> Tensor | None:
    if any(context.missing(place) for place in range(1, 5)):
        return None
    starts, ends = context.numbers("starts", 1), context.numbers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = context.numbers("axes", 3) or list(range(len(starts)))
    steps = context.numbers("", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= x.ndim
        size = x.shape[axis]
        if step < 0:
            if not isinstance(size, int):
                return None
            taken = torch.tensor(range(size)[slice(start, None if end < -size else end, step)])
            x = x.index_select(axis, taken.to(x.device).long())
            continue
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
        x = x[tuple(index)]
    return x


def _gather(context: Context, x: Tensor, indices: Tensor) -> Tensor:
    axis, size = int(context.get("axis", 0)) % x.ndim, x.shape[int(context.get("axis", 0))]
    known = context.constant(1)
    if known is not None and known.ndim == 0:
        return x.select(axis, int(known))
    if known is None or (known < 0).any():
        indices = torch.where(indices < 0, indices + size, indices)
    flat = x.index_select(axis, indices.reshape(-1).long())
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(context: Context, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(context.get("axis", 0)) % x.ndim
    places = torch.where(indices < 0, indices + x.shape[axis], indices)
    return torch.gather(x, axis, places.long())


def _tile(context: Context, x: Tensor, times: Any = None) -> Tensor | None:
    counts = context.numbers("", 1)
    return None if counts is None else x.repeat(counts)


def _pad(context: Context, x: Tensor, *rest: Any) -> Tensor | None:
    if any(context.missing(place) for place in (1, 2, 3)):
        return None
    pads, mode = context.numbers("pads", 1), context.get("mode", "constant")
    if pads is None:
        return None
    axes = context.numbers("", 3) or list(range(x.ndim))
    sides = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        sides[axis % x.ndim] = pads[place], pads[place + len(axes)]
    flat = [side for pair in reversed(sides) for side in pair]
    if mode == "constant":
        value = context.constant(2)
        fill = context.get("value", 0.0) if value is None else value.reshape(()).item()
        return F.pad(x, flat, value=fill)
    kinds = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    outer = x.ndim - 2
    if mode not in kinds or x.ndim not in (3, 4) or any(flat[2 * outer :]):
        return None
    return F.pad(x, flat[: 2 * outer], mode=kinds[mode])


def _depth_to_space(context: Context, x: Tensor) -> Tensor:
    size, (n, c, h, w) = int(context.get("blocksize")), x.shape
    if context.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    apart = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return apart.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(context: Context, x: Tensor) -> Tensor | None:
    if context.get("mode", "DCR") != "DCR":
        return None
    size, (n, c, h, w) = int(context.get("blocksize")), x.shape
    apart = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return apart.reshape(n, c * size**2, h // size, w // size)


def _resize(context: Context, x: Tensor, *rest: Any) -> Tensor | None:
    """Interpolate a map as torch does, where ONNX's attributes ask for that."""
    scaled = context.scaled
    if context.node.op_type == "Upsample":
        way, at = context.get("mode", "nearest"), "asymmetric"
    else:
        way = context.get("mode", "nearest")
        at = context.get("coordinate_transformation_mode", "half_pixel")
    plain = not any(context.get(name) for name in ("antialias", "axes", "exclude_outside"))
    if not scaled.after or x.ndim not in (3, 4) or not plain:
        return None
    before, after = scaled.before[0], scaled.after[0]
    if before[:2] != after[:2] or context.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    size = list(after[2:])
    ratios = [new / old for new, old in zip(size, before[2:], strict=True)]
    given = context.constant(2 if len(context.node.input) > 2 else 1)
    if len(context.node.input) < 4 and given is not None and given.size == x.ndim:
        # Scales of which the sizes are rounded say where each pixel comes from.
        pairs = zip(given.tolist()[2:], ratios, strict=True)
        if any(abs(one - other) > 1e-6 for one, other in pairs):
            return None
    whole = all(ratio == int(ratio) for ratio in ratios)
    if way == "nearest":
        rounding = context.get("nearest_mode", "round_prefer_floor")
        if at == "asymmetric" and (rounding == "floor" or context.node.op_type == "Upsample"):
            return F.interpolate(x, size=size, mode="nearest")
        if at == "half_pixel" and whole and "round" in rounding:
            return F.interpolate(x, size=size, mode="nearest")
        return None
    mode = {"linear": {3: "linear", 4: "bilinear"}[x.ndim]}.get(way)
    if mode is None or at not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return None
    if at == "pytorch_half_pixel" and 1 in size:
        return None
    return F.interpolate(x, size=size, mode=mode, align_corners=at == "align_corners")


# --- reductions and normalisations ---------------------------------------------------------------


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def run(context: Context, x: Tensor, axes: Any = None) -> Tensor | None:
        if context.missing(1):
            return None
        over = context.numbers("axes", 1)
        if not over:
            if context.get("noop_with_empty_axes", 0):
                return None
            over = list(range(x.ndim))
        return function(x, [axis % x.ndim for axis in over], bool(context.get("keepdims", 1)))

    return run


def _product_over(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _argmost(function: Callable[..., Tensor]) -> Function:
    def run(context: Context, x: Tensor) -> Tensor | None:
        if context.get("select_last_index", 0):
            return None
        axis = int(context.get("axis", 0)) % x.ndim
        return function(x, axis, keepdim=bool(context.get("keepdims", 1)))

    return run


def _softmax(function: Callable[..., Tensor]) -> Function:
    def run(context: Context, x: Tensor) -> Tensor:
        if context.opset >= 13:
            return function(x, int(context.get("axis", -1)))
        axis = int(context.get("axis", 1)) % x.ndim
        if axis == x.ndim - 1:
            return function(x, axis)
        return function(x.flatten(axis), -1).reshape(x.shape)

    return run


def _batch_normalization(context: Context, x: Tensor, *own: Tensor) -> Tensor | None:
    if context.get("training_mode", 0) or len([n for n in context.node.output if n]) > 1:
        return None
    shape = [-1, *[1] * (x.ndim - 2)]
    scale, bias, mean, variance = (each.reshape(shape) for each in own)
    spread = torch.sqrt(variance + context.get("epsilon", 1e-5))
    return scale * (x - mean) / spread + bias


def _layer_normalization(
    context: Context, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | None:
    if len([name for name in context.node.output if name]) > 1:
        return None
    axis, epsilon = int(context.get("axis", -1)) % x.ndim, context.get("epsilon", 1e-5)
    shape = [*x.shape[axis:]]
    if [*scale.shape] == shape and (bias is None or [*bias.shape] == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    normal = F.layer_norm(x, shape, None, None, epsilon) * scale
    return normal if bias is None else normal + bias


def _rms_normalization(context: Context, x: Tensor, scale: Tensor) -> Tensor:
    axis = int(context.get("axis", -1)) % x.ndim
    over = list(range(axis, x.ndim))
    square = x.square().mean(over, keepdim=True)
    return x * torch.rsqrt(square + context.get("epsilon", 1e-5)) * scale


def _instance_normalization(context: Context, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    over, shape = list(range(2, x.ndim)), [-1, *[1] * (x.ndim - 2)]
    mean = x.mean(over, keepdim=True)
    variance = (x - mean).square().mean(over, keepdim=True)
    normal = (x - mean) / torch.sqrt(variance + context.get("epsilon", 1e-5))
    return normal * scale.reshape(shape) + bias.reshape(shape)


def _group_normalization(context: Context, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor | None:
    groups, channels = int(context.get("num_groups")), x.shape[1]
    if scale.numel() != channels:  # at opset 18 a scale of each group
        scale, bias = (each.repeat_interleave(channels // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, context.get("epsilon", 1e-5))


def _mean_variance(context: Context, x: Tensor) -> Tensor:
    over = [int(axis) for axis in context.get("axes", [0, 2, 3])]
    mean = x.mean(over, keepdim=True)
    spread = torch.sqrt((x * x).mean(over, keepdim=True) - mean * mean)
    return (x - mean) / (spread + 1e-9)


def _lp_normalization(context: Context, x: Tensor) -> Tensor:
    axis, p = int(context.get("axis", -1)), int(context.get("p", 2))
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, x * 0, x / norm)


# --- pooling -------------------------------------------------------------------------------------


def _window(context: Context, x: Tensor) -> tuple[list[int], list[int], list[int]] | None:
    """Return kernel, strides and paddings (the last axis first, as torch pads) of a pooling."""
    kernel = [int(n) for n in context.get("kernel_shape")]
    axes = len(kernel)
    strides = [int(n) for n in context.get("strides") or [1] * axes]
    apart = [int(n) for n in context.get("dilations") or [1] * axes]
    if axes not in (1, 2) or {*apart} != {1}:
        return None
    auto = context.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for extent, taps, step in zip(x.shape[2:], kernel, strides, strict=True):
            total = max(0, (-(-extent // step) - 1) * step + taps - extent)
            less, more = total // 2, total - total // 2
            sides.append((less, more) if auto == "SAME_UPPER" else (more, less))
    else:
        pads = context.get("pads") if auto == "NOTSET" else None
        pads = [int(n) for n in pads or [0] * 2 * axes]
        sides = [(pads[axis], pads[axis + axes]) for axis in range(axes)]
    return kernel, strides, [side for pair in reversed(sides) for side in pair]


def _max_pool(context: Context, x: Tensor) -> Tensor | None:
    if len([name for name in context.node.output if name]) > 1:
        return None
    window = _window(context, x)
    if window is None or not x.is_floating_point():
        return None
    kernel, strides, sides = window
    ceil = bool(context.get("ceil_mode", 0))
    pool: Any = F.max_pool1d if len(kernel) == 1 else F.max_pool2d
    before, after = sides[::2][::-1], sides[1::2][::-1]
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, 1, ceil)  # type: ignore[no-any-return]
    if ceil:
        return None
    return pool(F.pad(x, sides, value=-math.inf), kernel, strides)  # type: ignore[no-any-return]


def _average_pool(context: Context, x: Tensor) -> Tensor | None:
    window = _window(context, x)
    if window is None:
        return None
    kernel, strides, sides = window
    ceil, counted = bool(context.get("ceil_mode", 0)), bool(context.get("count_include_pad", 0))
    pool: Any = F.avg_pool1d if len(kernel) == 1 else F.avg_pool2d
    before, after = sides[::2][::-1], sides[1::2][::-1]
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, ceil, counted)  # type: ignore[no-any-return]
    if ceil:
        return None
    total = pool(F.pad(x, sides), kernel, strides)
    if counted:
        return total  # type: ignore[no-any-return]
    share = pool(F.pad(torch.ones_like(x[:1, :1]), sides), kernel, strides)
    return total / share  # type: ignore[no-any-return]


def _global(function: Callable[..., Tensor]) -> Function:
    return lambda context, x: function(x, list(range(2, x.ndim)), keepdim=True)


# --- others --------------------------------------------------------------------------------------


def _dropout(context: Context, x: Tensor, *rest: Any) -> Tensor | None:
    training = context.constant(2)
    if len([name for name in context.node.output if name]) > 1 or context.missing(2):
        return None
    return x if training is None or not training.any() else None


def _gemm(context: Context, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.t() if context.get("transA", 0) else a
    right = b.t() if context.get("transB", 0) else b
    out = torch.matmul(left, right)
    alpha, beta = context.get("alpha", 1.0), context.get("beta", 1.0)
    out = out if alpha == 1 else out * alpha
    return out if c is None or beta == 0 else out + (c if beta == 1 else c * beta)


def _conv(context: Context, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    axes = x.ndim - 2
    functions: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    pads = [int(n) for n in context.get("pads") or [0] * 2 * axes]
    if axes not in functions or context.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    sides = [side for axis in reversed(range(axes)) for side in (pads[axis], pads[axis + axes])]
    x = F.pad(x, sides) if any(sides) else x
    strides, apart = (list(context.get(n) or [1] * axes) for n in ("strides", "dilations"))
    return functions[axes](x, weight, bias, strides, 0, apart, int(context.get("group", 1)))


def _einsum(context: Context, *values: Tensor) -> Tensor:
    return torch.einsum(context.get("equation"), *values)


def _cumsum(context: Context, x: Tensor, axis: Any = None) -> Tensor | None:
    where = context.constant(1)
    if where is None or context.get("exclusive", 0) or context.get("reverse", 0):
        return None
    return torch.cumsum(x, int(where.reshape(())))


def _trilu(context: Context, x: Tensor, k: Any = None) -> Tensor | None:
    shift = context.constant(1)
    if context.missing(1):
        return None
    diagonal = 0 if shift is None else int(shift.reshape(()))
    return torch.triu(x, diagonal) if context.get("upper", 1) else torch.tril(x, diagonal)


def _dequantize(context: Context, x: Tensor, scale: Tensor, zero: Any = None) -> Tensor | None:
    if context.get("block_size", 0):
        return None
    axis = int(context.get("axis", 1))
    shape = [-1 if place == axis % max(1, x.ndim) else 1 for place in range(x.ndim)]
    factor = scale if scale.numel() == 1 else scale.reshape(shape)
    values = x.to(factor.dtype)
    if zero is not None:
        values = values - (zero if zero.numel() == 1 else zero.reshape(shape)).to(factor.dtype)
    return values * factor


def _quantize(context: Context, x: Tensor, scale: Tensor, zero: Any = None) -> Tensor | None:
    limits = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
    kind = torch.uint8 if zero is None else zero.dtype
    if context.get("block_size", 0) or context.get("output_dtype", 0) or kind not in limits:
        return None
    axis = int(context.get("axis", 1))
    shape = [-1 if place == axis % max(1, x.ndim) else 1 for place in range(x.ndim)]
    steps = torch.round(x / (scale if scale.numel() == 1 else scale.reshape(shape)))
    if zero is not None:
        steps = steps + (zero if zero.numel() == 1 else zero.reshape(shape)).to(steps.dtype)
    return steps.clamp(*limits[kind]).to(kind)


OPERATORS: dict[str, Function] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _argmost(torch.argmax),
    "ArgMin": _argmost(torch.argmin),
    "Asin": _plain(torch.asin),
    "Atan": _plain(torch.atan),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Celu": lambda context, x: F.celu(x, context.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": lambda context, x: F.elu(x, context.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": _reshape,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "GroupNormalization": _group_normalization,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * (x / 6 + 0.5).clamp(0, 1)),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": _instance_normalization,
    "IsInf": lambda context, x: None if context.node.attribute else torch.isinf(x),
    "IsNaN": _plain(torch.isnan),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda context, x: F.leaky_relu(x, context.get("alpha", 0.01)),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _lp_normalization,
    "MatMul": _plain(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "MeanVarianceNormalization": _mean_variance,
    "Min": _fold(torch.minimum),
    "Mish": _plain(F.mish),
    "Mod": _mod,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _rms_normalization,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "ReduceProd": _reduction(_product_over),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).to(x.dtype)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _round,
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _fold(torch.add),
    "Swish": _swish,
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _thresholded,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor),
}
"""ONNX operator -> what torch makes of it."""
