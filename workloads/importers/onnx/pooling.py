"""ONNX pooling operators as maxpool and avgpool nodes."""

from __future__ import annotations

import math

import onnx

from bfpsim.workloads.importers.onnx.draft import Draft
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.importers.onnx.windows import paddings, pairs
from bfpsim.workloads.layer import Shape
from bfpsim.workloads.node import Pool


def max_pool(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a MaxPool whose windows are a `Pool`'s.

    Windows are fixed by the padding before them and their number: what lies behind never wins. So
    uneven padding is none, or the `Pool`'s ``ceil``, if that gives as many.
    """
    value, dims = draft.values[node.input[0]], graph.dims[node.output[0]]
    if len(dims) not in (3, 4) or any(name in graph.readers for name in node.output[1:]):
        return False
    kernel, strides = pairs(graph, node, "kernel_shape"), pairs(graph, node, "strides")
    layout = Layout.channels_first(len(dims))
    shape, outputs = layout.shape(value.dims), layout.shape(dims)
    extents, wanted = (shape[1], shape[2]), (outputs[1], outputs[2])
    top, _, left, _ = paddings(graph, node, extents, kernel, strides)
    if pairs(graph, node, "dilations") != (1, 1) or min(top, left) < 0:
        return False
    for ceil in (False, True):
        pool = Pool(kernel, strides, (top, left), ceil)
        fits = 2 * top <= kernel[0] and 2 * left <= kernel[1]
        if fits and pool.outputs(extents) == wanted:
            name = draft.pool(draft.title(node), draft.arranged(value, layout, shape), pool)
            draft.bind(node.output[0], name, dims, layout)
            return True
    return False


def global_max_pool(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a GlobalMaxPool: one window."""
    value, dims = draft.values[node.input[0]], graph.dims[node.output[0]]
    layout = Layout.channels_first(len(dims))
    source = draft.arranged(value, layout)
    _, H, W, _ = draft.shape(source)
    name = draft.pool(draft.title(node), source, Pool((H, W), (1, 1)))
    draft.bind(node.output[0], name, dims, layout)
    return True


def average_pool(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append an AveragePool or GlobalAveragePool that averages the whole map, and nothing else."""
    value, dims = draft.values[node.input[0]], graph.dims[node.output[0]]
    layout = Layout.channels_first(len(dims))
    if node.op_type == "AveragePool" and not _covers(graph, node, layout.shape(value.dims)):
        return False
    name = draft.simple("avgpool", draft.title(node), draft.arranged(value, layout))
    draft.bind(node.output[0], name, dims, layout)
    return True


def _covers(graph: Graph, node: onnx.NodeProto, shape: Shape) -> bool:
    """Return whether a pooling has one window, which holds a map of (N, H, W, C) and no more."""
    dims = graph.dims[node.output[0]]
    if len(dims) not in (3, 4) or math.prod(dims[2:]) != 1:
        return False
    kernel, extents = pairs(graph, node, "kernel_shape"), (shape[1], shape[2])
    top, _, left, _ = paddings(graph, node, extents, kernel, pairs(graph, node, "strides"))
    if kernel[0] - top < extents[0] or kernel[1] - left < extents[1]:
        return False
    # Padding that is not counted is as if it were not there.
    plain = kernel == extents or not graph.attribute(node, "count_include_pad", 0)
    return plain and pairs(graph, node, "dilations") == (1, 1)


def reduce_mean(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a ReduceMean over the whole map."""
    value, rank = draft.values.get(node.input[0]), len(graph.dims[node.input[0]])
    axes = graph.attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        if node.input[1] not in graph.constants:
            return False
        axes = graph.constants.array(node.input[1]).tolist()
    if value is None or not axes:
        return False
    gone = [axis % rank for axis in axes]
    if {a for a in gone if value.dims[a] > 1} != {a for a in value.layout.map if value.dims[a] > 1}:
        return False
    name = draft.simple("avgpool", draft.title(node), value.node)
    keeps = graph.attribute(node, "keepdims", 1)
    layout = value.layout if keeps else value.layout.without(gone, rank)
    draft.bind(node.output[0], name, graph.dims[node.output[0]], layout)
    return True
