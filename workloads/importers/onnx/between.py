"""ONNX operators between layers: ReLU, sums, concatenations, and what only renames axes."""

from __future__ import annotations

import math

import onnx

from bfpsim.workloads.importers.onnx.draft import Draft
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.layer import WorkloadError


def relu(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a Relu."""
    value = draft.values[node.input[0]]
    name = draft.simple("relu", draft.title(node), value.node)
    draft.bind(node.output[0], name, value.dims, value.layout)
    return True


def same(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Let an operator's output be its input, as Identity's and, but in training, Dropout's is."""
    if graph.readers.get("".join(node.output[1:2])):
        return False  # Dropout's mask
    if len(node.input) > 2 and node.input[2]:
        training = node.input[2]
        if training not in graph.constants or graph.constants.array(training).any():
            return False
    value = draft.values.get(node.input[0])
    return value is not None and _rename(draft, node, value.layout, graph)


def add(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append an Add or Sum of activations of one shape."""
    values = [draft.values[name] for name in node.input if name in draft.values]
    dims = graph.dims[node.output[0]]
    if len(values) != len(node.input) or any(value.dims != dims for value in values):
        return False
    if len(values) == 1:
        return _rename(draft, node, values[0].layout, graph)
    first, shape = values[0], draft.shape(values[0].node)
    sources = [draft.arranged(value, first.layout, shape) for value in values]
    name = draft.simple("add", draft.title(node), *sources)
    draft.bind(node.output[0], name, dims, first.layout)
    return True


def concat(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a Concat of activations along the axis that holds their channels."""
    values = [draft.values[name] for name in node.input if name in draft.values]
    if len(values) != len(node.input):
        return False
    first, dims = values[0], graph.dims[node.output[0]]
    if len(values) == 1:
        return _rename(draft, node, first.layout, graph)
    axis = graph.axis(node, len(dims), 1)
    if any(a != axis and first.dims[a] > 1 for a in first.layout.c):
        return False
    # Channels of extent 1 may lie in another group: here it matters that they do not.
    n, cells = (tuple(a for a in axes if a != axis) for axes in (first.layout.n, first.layout.map))
    layout = Layout(n, cells, (axis,))
    if not first.layout.same(layout, first.dims):
        return False
    N, H, W, _ = draft.shape(first.node)
    sources = [draft.arranged(value, layout, (N, H, W, value.dims[axis])) for value in values]
    name = draft.simple("concat", draft.title(node), *sources)
    draft.bind(node.output[0], name, dims, layout)
    return True


def transpose(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Give the axes of a value their new places: nothing moves."""
    value = draft.values[node.input[0]]
    layout = value.layout.permuted(graph.permutation(node, len(value.dims)))
    return _rename(draft, node, layout, graph)


def reshape(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Split and merge axes that lie together; say whether that is all there is to do."""
    value = draft.values.get(node.input[0])
    if value is None:
        return False
    dims = graph.dims[node.output[0]]
    if math.prod(dims) != math.prod(value.dims):
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: shape {dims} must have the elements of "
            f"{value.dims}"
        )
    layout = value.layout.reshaped(value.dims, dims)
    return layout is not None and _rename(draft, node, layout, graph)


def _rename(draft: Draft, node: onnx.NodeProto, layout: Layout, graph: Graph) -> bool:
    """Let an operator's output be its input under other axes."""
    source = draft.values[node.input[0]].node
    draft.bind(node.output[0], source, graph.dims[node.output[0]], layout)
    return True
