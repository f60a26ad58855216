"""Networks from ONNX files.

Convolutions, matrix products and the operations between them that `workloads.node` knows become
nodes of their kind; every other operator is the host's: a node whose function is the operator's
name in lower snake case, with the multiply-accumulates it has (`onnx_macs`). The function of one
that is not ONNX's own begins with its domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from bfpsim.workloads.importers.imported import Imported
from bfpsim.workloads.importers.onnx.between import add, concat, relu, reshape, same, transpose
from bfpsim.workloads.importers.onnx.convolutions import (
    convolution,
    is_parameter,
    transposed_convolution,
)
from bfpsim.workloads.importers.onnx.draft import Draft, Value
from bfpsim.workloads.importers.onnx.file import Dims, is_onnx, read_file, reads
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.importers.onnx.macs import host_macs
from bfpsim.workloads.importers.onnx.pooling import (
    average_pool,
    global_max_pool,
    max_pool,
    reduce_mean,
)
from bfpsim.workloads.importers.onnx.products import einsum, gemm, matmul
from bfpsim.workloads.importers.onnx.shapes import Graph, resolve
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network

# Operator -> what appends it and says whether it could; what it could not is the host's.
_KINDS: dict[str, Callable[[Graph, Draft, onnx.NodeProto], bool]] = {
    "Add": add,
    "AveragePool": average_pool,
    "Concat": concat,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Dropout": same,
    "Einsum": einsum,
    "Flatten": reshape,
    "Gemm": gemm,
    "GlobalAveragePool": average_pool,
    "GlobalMaxPool": global_max_pool,
    "Identity": same,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Reshape": reshape,
    "Squeeze": reshape,
    "Sum": add,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}

# These read (N, C, ...), whatever made it.
_CHANNELS_FIRST = (
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DeformConv",
    "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample",
    "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearConv",
    "Resize", "RoiAlign", "SpaceToDepth", "Upsample",
)  # fmt: skip
# These order elements anew, so that what made their input says nothing of their output.
_REORDERING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


def import_onnx(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Imported:
    """Read an ONNX file; the network is named as the file is, its nodes as the file's operators.

    ``shapes`` gives inputs' dims in the file's own order, NCHW for images; it must for inputs
    whose shape the file leaves open. Batch normalisation and biases behind a layer that nothing
    else reads are folded into it, in float64, rounded once. Nodes are (N, H, W, C): tensors of
    rank 4 are taken for NCHW, of rank 3 for tokens (N, T, C) at (N, T, 1, C), of rank 2 for
    (N, C), of any other for (first, rest, last) at (first, rest, 1, last), unless what reads them
    says otherwise (`onnx_layout`). Several outputs are gathered by a last host node, ``outputs``.

    Raises `WorkloadError`, naming the file, if it cannot be read or is no valid ONNX model, data
    of a tensor are missing or not finite, an input's shape is open or ``shapes`` does not fit, the
    output shape of an operator cannot be inferred, or one that is not ONNX's reads weights.
    """
    path = Path(path)
    try:
        graph = resolve(read_file(path, shapes or {}))
        draft = Draft(path.stem, graph.nodes)
        preferred = _preferred(graph)
        for name in graph.inputs:
            if not is_parameter(graph, name):
                _append_input(graph, draft, name, preferred)
        for node in graph.nodes:
            _append_operator(graph, draft, node, preferred)
        if len(graph.outputs) > 1:
            last = [draft.values[name].node for name in graph.outputs]
            draft.host(draft.free("outputs"), "outputs", *last, shape=draft.shape(last[0]))
        return Imported(Network(draft.name, tuple(draft.nodes)), draft.weights)
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from None


def _append_input(graph: Graph, draft: Draft, name: str, preferred: Mapping[str, Layout]) -> None:
    dims = graph.dims[name]
    layout = preferred.get(name, Layout.usual(len(dims)))
    draft.bind(name, draft.input(draft.claim(name), layout.shape(dims)), dims, layout)


def _append_operator(
    graph: Graph, draft: Draft, node: onnx.NodeProto, preferred: Mapping[str, Layout]
) -> None:
    made = [name for name in node.output if name in graph.readers]
    if made[0] in draft.values:
        return  # folded into a layer
    kind = _KINDS.get(node.op_type) if is_onnx(node) else None
    if kind is None or not kind(graph, draft, node):
        _append_host(graph, draft, node, made, preferred)


def _append_host(
    graph: Graph,
    draft: Draft,
    node: onnx.NodeProto,
    made: Sequence[str],
    preferred: Mapping[str, Layout],
) -> None:
    """Append a node per output that is read; the first has the multiply-accumulates."""
    _check_known(graph, node)
    function = _function(graph, node)
    values = [draft.values[name] for name in reads(node) if name in draft.values]
    sources = dict.fromkeys(value.node for value in values)
    title = draft.title(node)
    macs = host_macs(node, graph.dims, _trips(graph, node))
    for place, tensor in enumerate(made):
        dims = graph.dims[tensor]
        layout = preferred.get(tensor, Layout.usual(len(dims)))
        if node.op_type not in _REORDERING and values:
            layout = _followed(graph, node, values[0], dims) or layout
        alike = next((v for v in values if (v.dims, v.layout) == (dims, layout)), None)
        shape = layout.shape(dims) if alike is None else draft.shape(alike.node)
        name = title if place == 0 else draft.free(f"{title}.{place}")
        draft.host(name, function, *sources, shape=shape, macs=0 if place else macs)
        draft.bind(tensor, name, dims, layout)


def _check_known(graph: Graph, node: onnx.NodeProto) -> None:
    """Refuse an operator of another domain that multiplies, as far as one can tell."""
    if is_onnx(node) or not graph.dynamic(node):
        return
    for name in node.input:
        if name in graph.constants and sum(extent > 1 for extent in graph.dims[name]) > 1:
            raise WorkloadError(
                f"{node.op_type} {node.output[0]!r} of domain {node.domain!r}: its "
                f"multiply-accumulates with {name!r} {graph.dims[name]} are not known; allowed: "
                "ONNX's own operators, as in a file that no runtime has fused"
            )


def _function(graph: Graph, node: onnx.NodeProto) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", node.op_type).lower()
    if not is_onnx(node):
        return f"{node.domain}.{name}"
    way = graph.attribute(node, "approximate", "none")  # of a Gelu
    return name if way == "none" else f"{name}_{way}"


def _followed(graph: Graph, node: onnx.NodeProto, first: Value, dims: Dims) -> Layout | None:
    """Return the layout of an operator's output that its first activation's decides."""
    rank = len(first.dims)
    if len(dims) == rank:
        return first.layout
    if node.op_type == "Gather" and len(dims) == rank - 1:  # one place of an axis
        return first.layout.without((graph.axis(node, rank, 0),), rank)
    return None


def _trips(graph: Graph, node: onnx.NodeProto) -> int:
    """Return how often a Loop runs, or 1 where that is not known."""
    count = node.input[0] if node.op_type == "Loop" and is_onnx(node) else ""
    return max(0, int(graph.constants.array(count))) if count in graph.constants else 1


def _preferred(graph: Graph) -> dict[str, Layout]:
    """Return the layouts in which tensors are read, seen through what keeps or permutes axes."""
    preferred: dict[str, Layout] = {}
    for node in reversed(graph.nodes):
        activations = graph.dynamic(node)
        if not activations or not node.output[0] or node.output[0] not in graph.dims:
            continue
        dims, out = graph.dims[activations[0]], graph.dims[node.output[0]]
        after = preferred.get(node.output[0])
        if node.op_type in _CHANNELS_FIRST:
            preferred[activations[0]] = Layout.channels_first(len(dims))
        elif node.op_type == "MatMul":
            for name in activations:
                rank = len(graph.dims[name])
                alone = len(activations) == 1
                preferred[name] = (Layout.channels_last if alone else Layout.heads)(rank)
        elif node.op_type == "Transpose" and after is not None:
            preferred[activations[0]] = _before(graph, node, after, len(dims))
        elif after is not None and node.op_type not in _REORDERING:
            preferred.update({n: after for n in activations if graph.dims[n] == out})
    return preferred


def _before(graph: Graph, node: onnx.NodeProto, after: Layout, rank: int) -> Layout:
    """Return the layout that a Transpose's input should have for its output to have one."""
    permutation = graph.permutation(node, rank)
    if after == Layout.channels_last(rank):  # of a product, which asks for the channels alone
        if permutation[-1] == rank - 1:
            return after
        if permutation[-1] == 1:
            return Layout.channels_first(rank)
    return after.permuted([permutation.index(axis) for axis in range(rank)])
