"""What a vector unit does between products: every function it has, and how much work that is.

Functions are named as `Node.function` has them: the shipped networks' own, ONNX's and torch's in
lower snake case. What is not listed here is the host's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

from bfpsim.workloads.layer import Shape
from bfpsim.workloads.node import Node

Reach = Literal["element", "channels", "window", "map", "copy"]
"""What one output element is made of: the same place of each operand; a pixel's channels; a window
of the map; the map, or axes of it; or an element somewhere else."""


class VectorFunction(NamedTuple):
    """A function of the vector unit.

    operations: of its lanes, per output element (per input element if it reaches over a map, or
        over windows that are not known)
    readings: how often it goes through its operand, if that is not kept meanwhile
    """

    reach: Reach
    operations: int
    readings: int = 1


_SIMPLE = VectorFunction("element", 1)
_MOVE = VectorFunction("copy", 1)

_ELEMENT = (
    "relu", "relu6", "clip", "clamp", "clamp_min", "clamp_max", "hardtanh", "leaky_relu", "prelu",
    "p_relu", "threshold", "thresholded_relu", "shrink",
    "abs", "neg", "add", "sub", "rsub", "mul", "div", "mod", "remainder", "floor_divide",
    "max", "min", "maximum", "minimum", "where", "sum", "scale", "add_parameter", "masked_fill",
    "sigmoid", "tanh", "exp", "log", "sin", "cos", "sqrt", "rsqrt", "reciprocal", "pow", "square",
    "erf", "round", "floor", "ceil", "trunc", "sign", "softplus", "softsign",
    "elu", "celu", "selu", "hard_sigmoid", "hardsigmoid",
    "batch_norm", "native_batch_norm", "batch_normalization",
    "equal", "greater", "greater_or_equal", "less", "less_or_equal", "not", "and", "or", "xor",
    "eq", "ne", "gt", "ge", "lt", "le", "logical_not", "logical_and", "logical_or", "logical_xor",
    "is_na_n", "is_inf", "cast", "cast_like", "to", "to_copy", "quantize_linear",
    "dequantize_linear", "dropout", "native_dropout", "identity", "clone", "contiguous", "detach",
    "alias",
)  # fmt: skip
_COMPOSED = (  # x times a function of x, or two steps
    "gelu", "gelu_tanh", "silu", "swish", "hard_swish", "hardswish", "mish", "addcmul", "lerp",
)  # fmt: skip
_MOVED = (
    "concat", "concat_tokens", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind",
    "select", "slice", "narrow", "crop", "pad", "constant_pad_nd", "roll", "flip",
    "reshape", "view", "tokens", "flatten", "unflatten", "squeeze", "unsqueeze",
    "permute", "transpose", "t", "interleave", "window_partition", "window_reverse",
    "space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "upsample", "upsample_nearest1d", "upsample_nearest2d",
    "expand", "broadcast_to", "tile", "repeat", "repeat_interleave",
)  # fmt: skip
_RESIZED = ("resize", "interpolate", "upsample_linear1d", "upsample_bilinear2d")
_POOLED = (
    "average_pool", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "max_pool", "max_pool1d",
    "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "lp_pool",
)  # fmt: skip
_REDUCED = (
    "avgpool", "global_average_pool", "global_max_pool", "global_lp_pool", "mean", "amax", "amin",
    "argmax", "argmin", "arg_max", "arg_min", "reduce_mean", "reduce_sum", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_l1", "reduce_l2", "reduce_sum_square",
)  # fmt: skip

FUNCTIONS: dict[str, VectorFunction] = {
    **dict.fromkeys(_ELEMENT, _SIMPLE),
    **dict.fromkeys(_COMPOSED, VectorFunction("element", 2)),
    **dict.fromkeys(_MOVED, _MOVE),
    # two differences, two products with weights, and their sums, over rows and columns
    **dict.fromkeys(_RESIZED, VectorFunction("copy", 6)),
    **dict.fromkeys(_POOLED, VectorFunction("window", 1)),
    **dict.fromkeys(_REDUCED, VectorFunction("map", 1)),
    # the largest, differences, powers, their sum, shares
    **dict.fromkeys(("softmax", "log_softmax", "softmin"), VectorFunction("channels", 5)),
    # mean, differences, their squares' mean, the root's share
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "layer_normalization"), VectorFunction("channels", 4)
    ),
    # squares, their mean, the root's share
    **dict.fromkeys(
        ("rms_norm", "rms_normalization", "lp_normalization", "normalize"),
        VectorFunction("channels", 3),
    ),
    # squares, five of them added, a power, a share
    **dict.fromkeys(("lrn", "local_response_norm"), VectorFunction("channels", 8)),
    **dict.fromkeys(
        (
            "group_norm", "native_group_norm", "group_normalization", "instance_norm",
            "instance_normalization", "mean_variance_normalization",
        ),
        VectorFunction("map", 4, readings=2),
    ),
}  # fmt: skip
"""By name; `maxpool` has its window's own number of operations, other windows are not known."""


def vector_function(node: Node) -> VectorFunction | None:
    """The function of a node that is no product; None if the vector unit does not have it."""
    if node.pool is not None:
        return VectorFunction("window", prod(node.pool.kernel))
    if node.function == "sum" and len(node.inputs) == 1:
        return FUNCTIONS["mean"]  # over some axes, not of several tensors
    return FUNCTIONS.get(node.function or node.op)


def operations_of(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Operations of the vector unit's lanes for a node that it has; raises KeyError for others.

    A function of several operands takes one operation per element and operand beyond the second.
    Windows of which nothing is known are taken not to overlap.
    """
    function = vector_function(node)
    if function is None:
        raise KeyError(node.function or node.op)
    unknown = function.reach == "window" and node.pool is None
    elements = prod(inputs[0] if function.reach == "map" or unknown else output)
    more = max(0, len(inputs) - 2) if function.reach == "element" else 0
    return elements * (function.operations + more)
