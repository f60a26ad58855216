"""One operation of a network, and the shape that it makes of its inputs' shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bfpsim.objects import immutable
from bfpsim.workloads.layer import (
    ConvLayer,
    Pair,
    Shape,
    WorkloadError,
    check_name,
    check_shape,
    check_text,
    check_work,
    integer,
    output_extent,
    pair,
)

Op = Literal[
    "input",
    "conv",
    "conv1d",
    "linear",
    "matmul",
    "transposed",
    "relu",
    "add",
    "concat",
    "maxpool",
    "avgpool",
    "host",
]

# Operation -> how many nodes it reads, (least, most).
_INPUT_COUNTS: dict[str, tuple[int, float]] = {
    "input": (0, 0),
    "conv": (1, 1),
    "conv1d": (1, 1),
    "linear": (1, 1),
    "matmul": (2, 2),
    "transposed": (1, 1),
    "relu": (1, 1),
    "add": (2, math.inf),
    "concat": (2, math.inf),
    "maxpool": (1, 1),
    "avgpool": (1, 1),
    "host": (0, math.inf),
}

LAYER_OPS = ("conv", "conv1d", "linear", "matmul", "transposed")
"""Operations that run on the PE array, each a `ConvLayer`."""

OPS = tuple(_INPUT_COUNTS)
"""Every operation there is."""

# Attribute -> the operations that have it; no other has.
_OWNERS: dict[str, tuple[str, ...]] = {
    "input_shape": ("input",),
    "layer": LAYER_OPS,
    "pool": ("maxpool",),
    "output_shape": ("host",),
    "function": ("host",),
}


@dataclass(frozen=True, slots=True)
class Pool:
    """The window of a pooling operation; each pair is (rows, columns), padding on both sides.

    With ``ceil``, as torch's ``ceil_mode``, input left over behind the last whole window gets a
    window too. It may end outside the padded input, but starts in the input or the padding before.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil: bool = False

    def outputs(self, extents: Pair) -> Pair:
        """Return how many windows an input of ``extents`` (rows, columns) has, as such a pair."""
        rows, cols = (self._windows(axis, extent) for axis, extent in enumerate(extents))
        return rows, cols

    def _windows(self, axis: int, extent: int) -> int:
        taps, step, pad = self.kernel[axis], self.stride[axis], self.padding[axis]
        if not self.ceil:
            return output_extent(extent, taps, step, (pad, pad))
        count = output_extent(extent, taps, step, (pad, pad + step - 1))
        return count - 1 if (count - 1) * step >= pad + extent else count


@immutable
@dataclass(frozen=True, slots=True)
class Node:
    """One operation: its name, its kind, the nodes it reads, and what its kind needs besides.

    Operations of the PE array have a ``layer`` of the node's name:

    - ``conv``, a 2-D convolution, grouped, depthwise and dilated ones too;
    - ``conv1d``, along the columns of a map of one row;
    - ``linear``, applied at every row and column: a 1x1 convolution;
    - ``matmul``, the product of two activations, as in attention: the first is the layer's I, the
      second stands where the weights stand. The layer is that of one head of one sample (or
      window), since no two share operands, and runs ``repeats`` times;
    - ``transposed``, one phase of a transposed convolution (`workloads.transposed`).

    ``input`` has an ``input_shape`` (N, H, W, C) and ``maxpool`` a ``pool``; ``avgpool`` averages
    the whole map to 1x1, ``add`` sums two or more equal shapes, and ``concat`` joins the channels
    of two or more, in the order of its inputs, with N, H and W equal.

    Whatever else a network does is a ``host`` node, which the accelerator does not model: it has a
    ``function`` (softmax, layer_norm, ...), an ``output_shape``, and ``host_macs``, the
    multiply-accumulates of one run that are thereby left out.

    ``unverified`` names the source that fixed a shape which the network's paper leaves open.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    input_shape: Shape | None = None
    layer: ConvLayer | None = None
    pool: Pool | None = None
    function: str = ""
    output_shape: Shape | None = None
    host_macs: int = 0
    unverified: str = ""
    repeats: int = 1

    @property
    def kind(self) -> str:
        """The operation; a ``conv`` with groups is ``depthwise`` or ``grouped``."""
        if self.op == "conv" and self.layer is not None and self.layer.G > 1:
            return "depthwise" if self.layer.depthwise else "grouped"
        return self.op

    def batched(self, n: int, present: int) -> Node:
        """Return this node with a batch of ``n`` where its network has one of ``present``."""
        changed = self
        if self.input_shape is not None:
            changed = replace(changed, input_shape=_scaled(self.input_shape, n, present))
        if self.output_shape is not None:
            macs = self.host_macs * n // present
            shape = _scaled(self.output_shape, n, present)
            changed = replace(changed, output_shape=shape, host_macs=macs)
        if self.layer is not None and self.op == "matmul":
            changed = replace(changed, repeats=self.repeats * n // present)
        elif self.layer is not None:
            changed = replace(changed, layer=self.layer.batched(self.layer.N * n // present))
        return changed


def node_shape(network: str, node: Node, shapes: dict[str, Shape]) -> Shape:
    """Return the node's output shape (N, H, W, C), given those of the nodes before it.

    Raises `WorkloadError` if the name is empty or taken, an input is no node before this one, an
    attribute is missing or belongs to another operation, or shapes do not agree.
    """
    check_name(f"network {network!r}: node", node.name)
    owner = f"network {network!r}: node {node.name!r}"
    for text in (node.function, node.unverified):
        check_text(f"{owner}: text", text)
    if node.name in shapes:
        raise WorkloadError(f"{owner}: name is taken by an earlier node")
    if node.op not in _INPUT_COUNTS:
        raise WorkloadError(f"{owner}: op={node.op!r} must be one of {', '.join(_INPUT_COUNTS)}")
    if not isinstance(node.inputs, tuple):
        raise WorkloadError(f"{owner}: inputs={node.inputs!r} must be a tuple of names")
    for source in node.inputs:
        if source not in shapes:
            raise WorkloadError(f"{owner}: input {source!r} must be a node before it")
    _check_attributes(owner, node)
    inputs = [shapes[source] for source in node.inputs]
    if node.input_shape is not None:
        return _four(owner, "input_shape", node.input_shape)
    if node.output_shape is not None:
        return _four(owner, "output_shape", node.output_shape)
    if node.layer is not None:
        return _layer_shape(owner, node, node.layer, inputs)
    if node.pool is not None:
        return _pooled_shape(owner, node.pool, inputs[0])
    if node.op == "avgpool":
        return inputs[0][0], 1, 1, inputs[0][3]
    if node.op == "concat":
        return _concatenated_shape(owner, node, inputs)
    for source, shape in zip(node.inputs, inputs, strict=True):  # relu, add: one shape throughout
        if shape != inputs[0]:
            raise WorkloadError(
                f"{owner}: {source!r} has shape {shape}, must have {inputs[0]} as "
                f"{node.inputs[0]!r} has"
            )
    return inputs[0]


def _scaled(shape: Shape, n: int, present: int) -> Shape:
    return shape[0] * n // present, shape[1], shape[2], shape[3]


def _check_attributes(owner: str, node: Node) -> None:
    least, most = _INPUT_COUNTS[node.op]
    if not least <= len(node.inputs) <= most:
        count = f"{least}" if least == most else f"at least {least}"
        raise WorkloadError(f"{owner}: {node.op} reads {len(node.inputs)} nodes, must read {count}")
    for attribute, ops in _OWNERS.items():
        # Left out is None, or an empty function.
        if (getattr(node, attribute) not in (None, "")) != (node.op in ops):
            must = "must" if node.op in ops else "must not"
            raise WorkloadError(f"{owner}: {node.op} {must} have {attribute}")
    if node.op == "host":
        integer(owner, "host_macs", node.host_macs, least=0)
    elif node.host_macs:
        raise WorkloadError(f"{owner}: {node.op} must not have host_macs")
    if integer(owner, "repeats", node.repeats) > 1 and node.op != "matmul":
        raise WorkloadError(f"{owner}: {node.op} must not have repeats={node.repeats}, only matmul")


def _four(owner: str, field: str, shape: Sequence[int]) -> Shape:
    if len(shape) != 4:
        raise WorkloadError(f"{owner}: {field}={shape!r} must be (N, H, W, C)")
    N, H, W, C = (integer(owner, field, extent) for extent in shape)
    check_shape(f"{owner}: {field}", (N, H, W, C))
    return N, H, W, C


def _layer_shape(owner: str, node: Node, layer: ConvLayer, inputs: list[Shape]) -> Shape:
    if layer.name != node.name:
        raise WorkloadError(f"{owner}: its layer is named {layer.name!r}, must be named alike")
    if node.op == "conv1d" and (layer.R, layer.height, layer.P) != (1, 1, 1):
        raise WorkloadError(
            f"{owner}: R={layer.R}, H={layer.height}, P={layer.P} must be 1 for conv1d"
        )
    if node.op == "linear" and layer != replace(
        layer, G=1, R=1, S=1, stride=1, padding=0, H=layer.P, W=layer.Q
    ):
        raise WorkloadError(f"{owner}: linear must be a 1x1 convolution of one group")
    if node.op == "matmul":
        return _product_shape(owner, node, layer, inputs)
    if layer.input_shape != inputs[0]:
        raise WorkloadError(
            f"{owner}: input {node.inputs[0]!r} has shape {inputs[0]}, must have "
            f"{layer.input_shape} (N, H, W, C)"
        )
    return layer.output_shape


def _product_shape(owner: str, node: Node, layer: ConvLayer, inputs: list[Shape]) -> Shape:
    """Operands lie in any shape, so only their numbers of elements can be compared."""
    if layer != replace(layer, N=1, R=1, S=1, stride=1, padding=0, H=layer.P, W=layer.Q):
        raise WorkloadError(f"{owner}: matmul must be a 1x1 convolution with N=1")
    for source, shape, wanted in zip(
        node.inputs, inputs, (layer.input_shape, layer.weight_shape), strict=True
    ):
        if math.prod(shape) != node.repeats * math.prod(wanted):
            raise WorkloadError(
                f"{owner}: input {source!r} has shape {shape}, must have the elements of "
                f"{node.repeats} times {wanted}"
            )
    check_work(owner, node.repeats * layer.macs)
    samples = inputs[0][0]
    if node.repeats % samples:
        raise WorkloadError(
            f"{owner}: repeats={node.repeats} must be a multiple of the {samples} samples"
        )
    return samples, layer.P, layer.Q, node.repeats // samples * layer.G * layer.K


def _concatenated_shape(owner: str, node: Node, inputs: list[Shape]) -> Shape:
    N, H, W, _ = inputs[0]
    for source, shape in zip(node.inputs, inputs, strict=True):
        if shape[:3] != (N, H, W):
            raise WorkloadError(
                f"{owner}: {source!r} has N, H, W = {shape[:3]}, must have {(N, H, W)} as "
                f"{node.inputs[0]!r} has"
            )
    return N, H, W, sum(shape[3] for shape in inputs)


def _pooled_shape(owner: str, pool: Pool, shape: Shape) -> Shape:
    kernel, stride = pair(owner, "kernel", pool.kernel), pair(owner, "stride", pool.stride)
    padding = pair(owner, "padding", pool.padding, least=0)
    N, *extents, C = shape
    for taps, step, pad, extent in zip(kernel, stride, padding, extents, strict=True):
        if 2 * pad > taps:
            # Beyond half the kernel a window could lie in the padding alone, and have no maximum.
            raise WorkloadError(f"{owner}: padding={pad} must be at most half of kernel={taps}")
        beyond = step - 1 if pool.ceil else 0
        if taps > extent + 2 * pad + beyond:
            reach = f"and {beyond} beyond it (ceil, stride {step})" if beyond else ""
            raise WorkloadError(
                f"{owner}: kernel={taps} must be at most {extent + 2 * pad + beyond}, the padded "
                f"input {reach}".rstrip()
            )
    P, Q = Pool(kernel, stride, padding, pool.ceil).outputs((extents[0], extents[1]))
    return N, P, Q, C
