"""ONNX convolutions and transposed convolutions as layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.importers.onnx.draft import Draft
from bfpsim.workloads.importers.onnx.fold import Folded, follow, layer_weights
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.importers.onnx.windows import auto_pad, kernel_of, paddings, pair, pairs
from bfpsim.workloads.layer import ConvLayer, Pair, Shape, WorkloadError
from bfpsim.workloads.transposed import Phase, phases


def convolution(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a Conv of one or two dimensions, and say whether it is one.

    Its weights must be constants, or inputs of the file that nothing else reads.
    """
    if not _taken(graph, draft, node):
        return False
    weight = graph.dims[node.input[1]]
    kernel = kernel_of(graph, node)
    strides, dilations = pairs(graph, node, "strides"), pairs(graph, node, "dilations")
    groups = graph.attribute(node, "group", 1)
    name = draft.title(node)
    source, shape = _map(graph, draft, node)
    layer = ConvLayer.on_input(
        name,
        shape,
        weight[0],
        kernel,
        stride=strides,
        padding=paddings(graph, node, (shape[1], shape[2]), kernel, strides, dilations),
        dilation=dilations,
        groups=groups,
    )
    _check_weight(name, weight, (weight[0], layer.C, *weight[2:]), shape[3], groups)
    folded = follow(graph, node.output[0], axis=1)
    draft.layer("conv" if len(weight) == 4 else "conv1d", layer, source)
    parameters = _parameters(graph, node)
    if parameters is not None:
        filters, bias = parameters
        draft.weights[name] = layer_weights(name, filters.reshape(layer.weight_shape), bias, folded)
    _bind(graph, draft, folded, name)
    return True


def transposed_convolution(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a ConvTranspose of one or two dimensions, and say whether it is one.

    One with dilation is not: no layer kind takes it.
    """
    if not _taken(graph, draft, node):
        return False
    weight = graph.dims[node.input[1]]
    if len(graph.dims[node.output[0]]) != len(weight):
        # This is how onnx's inference shows that it refuses the attribute.
        asked = graph.attribute(node, "output_shape", None)
        raise WorkloadError(
            f"layer {draft.title(node)!r}: output_shape={asked} must be at least the input's "
            f"{graph.dims[node.input[0]][2:]}"
        )
    if pairs(graph, node, "dilations") != (1, 1):
        return False
    kernel, strides = kernel_of(graph, node), pairs(graph, node, "strides")
    groups = graph.attribute(node, "group", 1)
    name = draft.title(node)
    source, shape = _map(graph, draft, node)
    _check_weight(name, weight, (shape[3], *weight[1:]), shape[3], groups)
    output = pair(graph.dims[node.output[0]][2:])
    pads = _transposed_paddings(graph, node, (shape[1], shape[2]), kernel, strides, output)
    # What is cut off behind is less output padding than none: the host cuts it.
    extra = [
        out - ((extent - 1) * step - 2 * pad + taps)
        for out, extent, step, pad, taps in zip(
            output, shape[1:3], strides, pads, kernel, strict=True
        )
    ]
    more = (max(0, extra[0]), max(0, extra[1]))
    parts, whole = phases(name, shape, groups * weight[1], kernel, strides, pads, more, groups)
    folded = follow(graph, node.output[0], axis=1)
    parameters = _parameters(graph, node)
    # Where no tap reaches an output there is nothing but the bias, which no layer adds.
    reached = sum(len(part.offsets) for part in parts)
    bare = reached < min(strides[0], whole[1]) * min(strides[1], whole[2])
    nodes = [_phase(draft, part, source, name) for part in parts]
    if parameters is not None:
        for part, phase in zip(parts, nodes, strict=True):
            draft.weights[phase] = _phase_weights(phase, part, *parameters, folded, bare)
    last = draft.host(draft.free(f"{name}.interleave"), "interleave", *nodes, shape=whole)
    if bare and (len(node.input) > 2 or folded.shift is not None):
        last = draft.host(draft.free(f"{name}.bias"), "add", last, shape=whole)
    if min(extra) < 0:
        cut = whole[0], output[0], output[1], whole[3]
        last = draft.host(draft.free(f"{name}.crop"), "crop", last, shape=cut)
    _bind(graph, draft, folded, last)
    return True


def is_parameter(graph: Graph, name: str) -> bool:
    """Return whether an input of the file is nothing but weights of convolutions."""
    return name in graph.inputs and all(
        reader is not None
        and reader.op_type in ("Conv", "ConvTranspose")
        and name in reader.input[1:]
        and name != reader.input[0]
        for reader in graph.readers[name]
    )


def _taken(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Return whether a convolution of one or two dimensions runs on data with fixed weights."""
    return (
        len(graph.dims[node.input[1]]) in (3, 4)
        and node.input[0] in draft.values
        and all(
            not name or name in graph.constants or is_parameter(graph, name)
            for name in node.input[1:]
        )
    )


def _parameters(
    graph: Graph, node: onnx.NodeProto
) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Return weight and bias as the file holds them, or None if it does not."""
    names = [name for name in node.input[1:] if name]
    if any(name not in graph.constants for name in names):
        return None
    weight, *bias = (graph.constants.array(name) for name in names)
    return weight, bias[0] if bias else None


def _map(graph: Graph, draft: Draft, node: onnx.NodeProto) -> tuple[str, Shape]:
    """Return the input's node and its shape (N, H, W, C); one dimension lies along W."""
    value = draft.values[node.input[0]]
    layout = Layout.channels_first(len(value.dims))
    return draft.arranged(value, layout), layout.shape(value.dims)


def _bind(graph: Graph, draft: Draft, folded: Folded, node: str) -> None:
    for tensor in folded.tensors:
        dims = graph.dims[tensor]
        draft.bind(tensor, node, dims, Layout.channels_first(len(dims)))


def _transposed_paddings(
    graph: Graph, node: onnx.NodeProto, extents: Pair, kernel: Pair, strides: Pair, output: Pair
) -> Pair:
    """Return the padding before each axis; what the output's extent leaves is that behind."""
    auto = auto_pad(graph, node)
    if auto == "VALID":
        return 0, 0
    if auto == "NOTSET" and graph.attribute(node, "output_shape", None) is None:
        top, _, left, _ = paddings(graph, node, extents, kernel, strides)
        return top, left
    extra = pairs(graph, node, "output_padding", 0)
    before = []
    for extent, taps, step, more, out in zip(extents, kernel, strides, extra, output, strict=True):
        total = max(0, (extent - 1) * step + more + taps - out)
        before.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return before[0], before[1]


def _check_weight(
    name: str, weight: tuple[int, ...], wanted: tuple[int, ...], channels: int, groups: int
) -> None:
    if weight != wanted:
        raise WorkloadError(
            f"layer {name!r}: weight {weight} must be {wanted} for {channels} channels in and "
            f"{groups} groups"
        )


def _phase(draft: Draft, part: Phase, source: str, name: str) -> str:
    """Append a phase, under the convolution's own name if it is the only one."""
    own = name if part.layer.name == name else draft.free(part.layer.name)
    layer = replace(part.layer, name=own)
    if part.crop is not None:
        crop = draft.free(f"{layer.name}.crop")
        source = draft.host(crop, "crop", source, shape=layer.input_shape)
    return draft.layer("transposed", layer, source)


def _phase_weights(
    name: str,
    part: Phase,
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    folded: Folded,
    bare: bool,
) -> LayerWeights:
    """Return a phase's weights; with ``bare`` without a bias, which stands behind the phases."""

    def repeated(values: NDArray[Any]) -> NDArray[Any]:
        """Give every phase of a group the group's channels."""
        grouped = values.reshape(part.layer.G, 1, -1)
        return np.tile(grouped, (1, len(part.offsets), 1)).ravel()

    if folded.scale is not None and folded.shift is not None:
        shift = 0 * folded.shift if bare else folded.shift
        folded = Folded(folded.tensors, repeated(folded.scale), repeated(shift))
    filters = part.weight(weight.reshape(*weight.shape[:2], *pair(weight.shape[2:])))
    own = None if bias is None or bare else repeated(bias)
    return layer_weights(name, filters, own, folded)
