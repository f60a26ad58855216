"""Networks from ONNX files.

Convolutions, matrix products and the operations between them that `workloads.node` knows become
nodes of their kind; every other operator is the host's: a node whose function is the operator's
name in lower snake case, with the multiply-accumulates it has (`onnx.host`). The function of one
that is not ONNX's own begins with its domain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bfpsim.workloads.graph.graph import Input
from bfpsim.workloads.importers.draft import Imported
from bfpsim.workloads.importers.onnx import layers, operators
from bfpsim.workloads.importers.onnx.constants import Stored
from bfpsim.workloads.importers.onnx.file import is_onnx, read_file
from bfpsim.workloads.importers.onnx.graph import Graph, resolve
from bfpsim.workloads.importers.onnx.host import REORDERING, append_host
from bfpsim.workloads.importers.onnx.operators import OperatorDraft, permutation
from bfpsim.workloads.importers.view import Arrangement
from bfpsim.workloads.layer import WorkloadError

# Operator -> what appends it and says whether it could; what it could not is the host's.
_KINDS: dict[str, Callable[[OperatorDraft, onnx.NodeProto], bool]] = {
    "Add": operators.add,
    "AveragePool": operators.average_pool,
    "Concat": operators.concat,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Dropout": operators.same,
    "Einsum": layers.einsum,
    "Expand": operators.expand,
    "Flatten": operators.reshape,
    "Gemm": layers.gemm,
    "GlobalAveragePool": operators.average_pool,
    "GlobalMaxPool": operators.global_max_pool,
    "Identity": operators.same,
    "MatMul": layers.matmul,
    "MaxPool": operators.max_pool,
    "ReduceMean": operators.reduce_mean,
    "Relu": operators.relu,
    "Reshape": operators.reshape,
    "Squeeze": operators.reshape,
    "Sum": operators.add,
    "Transpose": operators.transpose,
    "Unsqueeze": operators.reshape,
}

# These read (N, C, ...), whatever made it.
_CHANNELS_FIRST = (
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DeformConv",
    "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample",
    "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearConv",
    "Resize", "RoiAlign", "SpaceToDepth", "Upsample",
)  # fmt: skip


Inputs = Mapping[str, Sequence[int] | NDArray[Any]]
"""Input -> its dims in the file's order, or an array where its values decide something."""


def import_onnx(path: str | Path, shapes: Inputs | None = None) -> Imported:
    """Return the network of an ONNX file, named as the file, and its weights.

    Its nodes are named as the file's operators. ``shapes`` gives inputs' dims in the file's own
    order, NCHW for images; it must for inputs whose shape the file leaves open. An array stands for
    an input's value, which is a constant then: what an `If` is decided by. Batch
    normalisation and biases behind a layer that nothing else reads are folded into it, in float64,
    rounded once. Nodes are (N, H, W, C): tensors of rank 4 are taken for NCHW, of rank 3 for
    tokens (N, T, C) at (N, T, 1, C), of rank 2 for (N, C), of any other for (first, rest, last) at
    (first, rest, 1, last), unless what reads them says otherwise. Several outputs are gathered by
    a last host node, ``outputs``.

    Raises `WorkloadError`, naming the file, if it cannot be read or is no valid ONNX model, data
    of a tensor are missing or not finite, an input's shape is open or ``shapes`` does not fit, the
    output shape of an operator cannot be inferred, or one that is not ONNX's reads weights.
    """
    path = Path(path)
    try:
        given = shapes or {}
        values = {name: each for name, each in given.items() if isinstance(each, np.ndarray)}
        sizes = {name: each for name, each in given.items() if not isinstance(each, np.ndarray)}
        graph = resolve(read_file(path, sizes, values))
        draft = OperatorDraft(path.stem, graph)
        preferred = _preferred(graph)
        for name in graph.inputs:
            if not layers.is_parameter(graph, name):
                dims = graph.dims[name]
                arrangement = preferred.get(name, Arrangement.usual(len(dims)))
                draft.views[name] = draft.input(draft.claim(name), dims, arrangement)
        for node in graph.nodes:
            _append(draft, node, preferred)
        if len(graph.outputs) > 1:
            last = [draft.views[name].node for name in graph.outputs]
            draft.host(draft.names.free("outputs"), "outputs", last, draft.shape(last[0]))
        inputs = {name: Input(graph.dims[name], graph.dtype(name)) for name in graph.inputs}
        return draft.finish(inputs, graph.outputs, Stored(graph.constants))
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from None
    except UnicodeError as error:
        raise WorkloadError(f"{path}: has a name that is no text: {error}") from None


def _append(
    draft: OperatorDraft, node: onnx.NodeProto, preferred: Mapping[str, Arrangement]
) -> None:
    outputs = [name for name in node.output if name in draft.graph.readers]
    if outputs[0] not in draft.views:  # else it is folded into a layer
        kind = _KINDS.get(node.op_type) if is_onnx(node) else None
        if kind is None or not kind(draft, node):
            append_host(draft, node, outputs, preferred)
    if outputs[0] not in draft.folded:
        draft.operator(node)


def _preferred(graph: Graph) -> dict[str, Arrangement]:
    """Return how tensors are read, seen through what keeps or permutes axes."""
    preferred: dict[str, Arrangement] = {}
    for node in reversed(graph.nodes):
        activations = graph.dynamic(node)
        if not activations or not node.output[0] or node.output[0] not in graph.dims:
            continue
        dims, out = graph.dims[activations[0]], graph.dims[node.output[0]]
        after = preferred.get(node.output[0])
        if node.op_type in _CHANNELS_FIRST:
            preferred[activations[0]] = Arrangement.channels_first(len(dims))
        elif node.op_type == "MatMul":
            for name in activations:
                rank = len(graph.dims[name])
                alone = len(activations) == 1
                preferred[name] = (Arrangement.channels_last if alone else Arrangement.heads)(rank)
        elif node.op_type == "Transpose" and after is not None:
            preferred[activations[0]] = _before(node, after, len(dims))
        elif after is not None and node.op_type not in REORDERING:
            preferred.update({n: after for n in activations if graph.dims[n] == out})
    return preferred


def _before(node: onnx.NodeProto, after: Arrangement, rank: int) -> Arrangement:
    """Return the arrangement that a Transpose's input should have for its output to have one."""
    order = permutation(node, rank)
    if after == Arrangement.channels_last(rank):  # of a product, which asks for the channels alone
        if order[-1] == rank - 1:
            return after
        if order[-1] == 1:
            return Arrangement.channels_first(rank)
    return after.permute([order.index(dim) for dim in range(rank)])
