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
of the map; the whole map; or one element somewhere else."""


class VectorFunction(NamedTuple):
    """A function of the vector unit.

    operations: of its lanes, per output element (per input element if it reaches over a map)
    readings: how often it goes through its operand, if that is not kept meanwhile
    """

    reach: Reach
    operations: int
    readings: int = 1


_SIMPLE = VectorFunction("element", 1)
_MOVE = VectorFunction("copy", 1)

_ELEMENT = (
    "relu", "relu6", "clip", "clamp", "hardtanh", "leaky_relu", "prelu", "p_relu", "threshold",
    "abs", "neg", "add", "sub", "rsub", "mul", "div", "max", "min", "maximum", "minimum", "where",
    "sum", "scale", "add_parameter", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "reciprocal",
    "pow", "square", "erf", "round", "floor", "ceil", "sign", "cast", "softplus", "softsign",
    "elu", "celu", "selu", "hard_sigmoid", "hardsigmoid", "batch_norm", "batch_normalization",
    "masked_fill", "dropout", "identity", "clone",
)  # fmt: skip
_COMPOSED = ("gelu", "silu", "swish", "hard_swish", "hardswish", "mish")  # x times a function of x
_MOVED = (
    "concat", "concat_tokens", "cat", "split", "reshape", "tokens", "permute", "transpose",
    "interleave", "crop", "pad", "roll", "slice", "window_partition", "window_reverse",
    "space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle", "upsample",
    "upsample_nearest2d", "expand", "tile", "repeat", "stack", "flatten", "squeeze", "unsqueeze",
)  # fmt: skip

FUNCTIONS: dict[str, VectorFunction] = {
    **dict.fromkeys(_ELEMENT, _SIMPLE),
    **dict.fromkeys(_COMPOSED, VectorFunction("element", 2)),
    **dict.fromkeys(_MOVED, _MOVE),
    # the largest, differences, powers, their sum, shares
    "softmax": VectorFunction("channels", 5),
    # mean, differences, their squares' mean, the root's share
    "layer_norm": VectorFunction("channels", 4),
    "layer_normalization": VectorFunction("channels", 4),
    "group_norm": VectorFunction("map", 4, readings=2),
    "group_normalization": VectorFunction("map", 4, readings=2),
    "instance_normalization": VectorFunction("map", 4, readings=2),
    "avgpool": VectorFunction("map", 1),
    "global_average_pool": VectorFunction("map", 1),
}
"""By name; `maxpool` has its window's own number of operations."""


def vector_function(node: Node) -> VectorFunction | None:
    """The function of a node that is no product; None if the vector unit does not have it."""
    if node.pool is not None:
        return VectorFunction("window", prod(node.pool.kernel))
    return FUNCTIONS.get(node.function or node.op)


def operations_of(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    """Operations of the vector unit's lanes for a node that it has; raises KeyError for others.

    A function of several operands takes one operation per element and operand beyond the first.
    """
    function = vector_function(node)
    if function is None:
        raise KeyError(node.function or node.op)
    elements = prod(inputs[0] if function.reach == "map" else output)
    more = max(0, len(inputs) - 2) if function.reach == "element" else 0
    return elements * (function.operations + more)
