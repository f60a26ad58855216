"""ONNX operators that run on the host, as nodes with the multiply-accumulates that they have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from bfpsim.workloads.importers.onnx.file import attribute, is_onnx, reads
from bfpsim.workloads.importers.onnx.graph import Graph
from bfpsim.workloads.importers.onnx.operators import OperatorDraft, axis
from bfpsim.workloads.importers.view import Arrangement, Dims, View
from bfpsim.workloads.layer import WorkloadError

# Convolution -> the place of its weights (filters, channels per group, ...) among its inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}
# Product -> the places of its factors.
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
REORDERING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""They order elements anew, so that what made their input says nothing of their output."""


def append_host(
    draft: OperatorDraft,
    node: onnx.NodeProto,
    outputs: Sequence[str],
    preferred: Mapping[str, Arrangement],
) -> None:
    """Append a node per output that is read; the first has the multiply-accumulates.

    What an operator gives is held as what it reads; if that tells nothing, as its reader prefers.
    """
    _check_known(draft.graph, node)
    function = _function(node)
    if is_onnx(node) and node.op_type in ("Div", "Mul") and _before_repeat(draft, node, function):
        return
    views = [draft.views[name] for name in reads(node) if name in draft.views]
    sources = dict.fromkeys(view.node for view in views)
    title = draft.title(node)
    macs = _macs(node, draft.graph.dims, _trips(draft.graph, node))
    for place, tensor in enumerate(outputs):
        dims, name = draft.graph.dims[tensor], title
        if place > 0:
            name, macs = draft.names.free(f"{title}.{place}"), 0
        arrangement = preferred.get(tensor, Arrangement.usual(len(dims)))
        view, shape = View.of(name, dims, arrangement), arrangement.shape(dims)
        if node.op_type not in REORDERING:
            first = _follow(name, node, views[0], dims) if views else None
            alike = [each for each in views if each.shape == dims]
            if first is not None:
                view, shape = first, first.own_shape
                alike = [each for each in alike if each.strides == first.strides]
            if alike:
                view, shape = replace(alike[0], node=name), draft.shape(alike[0].node)
        draft.host(name, function, sources, shape, macs)
        draft.views[tensor] = view
    if len(outputs) == 1 and is_onnx(node):
        _note_repeats(draft, node)


def _before_repeat(draft: OperatorDraft, node: onnx.NodeProto, function: str) -> bool:
    """Append what scales a repeated tensor before the repetition; return whether it does that."""
    graph = draft.graph
    view = next((draft.views[name] for name in node.input if name in draft.views), None)
    if view is None or view.node not in draft.repeats:
        return False
    constants = [name for name in node.input if name in graph.constants]
    alone = len(constants) == 1 and math.prod(graph.dims[constants[0]]) == 1
    if not alone or graph.dims[node.output[0]] != view.shape:
        return False
    repeat, title = draft.repeats[view.node], draft.title(node)
    scaled = draft.host(title, function, [repeat.source], draft.shape(repeat.source))
    again = draft.names.free(f"{title}.expand")
    draft.host(again, "expand", [scaled], draft.shape(view.node))
    draft.repeats[again] = replace(repeat, source=scaled)
    return draft.bind(node, replace(view, node=again))


def _note_repeats(draft: OperatorDraft, node: onnx.NodeProto) -> None:
    """Note what holds one tensor several times: what Expand, Tile and some Gathers make of it."""
    if node.op_type not in ("Expand", "Gather", "Tile") or node.input[0] not in draft.views:
        return
    view, source = draft.views[node.output[0]], draft.views[node.input[0]]
    before = (*(1 for _ in range(len(view.dims) - len(source.dims))), *source.shape)
    changed = [dim for dim, extent in enumerate(view.shape) if before[dim : dim + 1] != (extent,)]
    if len(before) != len(view.dims) or len(changed) != 1:
        return
    dim = changed[0]
    times, apart = view.shape[dim] // before[dim], True
    if node.op_type == "Gather":
        indices = draft.graph.constants.small(node.input[1])
        once = np.arange(before[dim])
        if indices is None:
            return
        apart = np.array_equal(indices, np.tile(once, times))
        if not apart and not np.array_equal(indices, np.repeat(once, times)):
            return
    draft.repeat(view, source, dim, times, apart=apart)


def _follow(name: str, node: onnx.NodeProto, view: View, dims: Dims) -> View | None:
    """Return an operator's output as its first activation of other extents, if it is one."""
    extents: list[int | None] = list(dims)
    if node.op_type == "Gather" and len(dims) == len(view.dims) - 1:  # one place of an axis
        extents.insert(axis(node, len(view.dims), 0), None)
    return view.resize(name, extents) if len(extents) == len(view.dims) else None


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


def _function(node: onnx.NodeProto) -> str:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", node.op_type).lower()
    if not is_onnx(node):
        return f"{node.domain}.{name}"
    way = attribute(node, "approximate", "none")  # of a Gelu
    return name if way == "none" else f"{name}_{way}"


def _trips(graph: Graph, node: onnx.NodeProto) -> int:
    """Return how often a Loop runs, or 1 where that is not known."""
    count = node.input[0] if node.op_type == "Loop" and is_onnx(node) else ""
    return max(0, int(graph.constants.array(count))) if count in graph.constants else 1


def _macs(node: onnx.NodeProto, dims: Mapping[str, Dims], trips: int = 1) -> int:
    """Return the multiply-accumulates of a convolution, product or recurrent operator.

    Every other one counts none: elementwise arithmetic, pooling and normalisation, and what is no
    operator of ONNX, of which nothing is known. Of `If` the dearer branch counts; of `Scan` the
    body once per step; of `Loop` too if ``trips``, its number, is known, or else once.
    Raises `WorkloadError` for a tensor of a body that has no known shape.
    """
    if not is_onnx(node):
        return 0
    kind, read = node.op_type, node.input
    if kind in _CONVOLUTIONS:
        return math.prod(dims[node.output[0]]) * math.prod(dims[read[_CONVOLUTIONS[kind]]][1:])
    if kind == "ConvTranspose":
        return math.prod(dims[read[0]]) * math.prod(dims[read[1]][1:])
    if kind in _PRODUCTS:
        first = dims[read[_PRODUCTS[kind][0]]]
        return math.prod(dims[node.output[0]]) * first[-1]
    if kind == "Gemm":
        first, transposed = dims[read[0]], attribute(node, "transA", 0)
        return math.prod(dims[node.output[0]]) * first[0 if transposed else 1]
    if kind in ("RNN", "GRU", "LSTM"):
        steps = math.prod(dims[read[0]][:2])  # of all sequences
        return steps * (math.prod(dims[read[1]]) + math.prod(dims[read[2]]))
    if kind == "Einsum" and len(read) > 1:
        return _einsum_macs(attribute(node, "equation", ""), [dims[n] for n in read])
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    if bodies:
        steps = _steps(node, dims) if kind == "Scan" else trips
        return steps * max(_body_macs(body, dims) for body in bodies)
    return 0


def _einsum_macs(equation: str, factors: Sequence[Dims]) -> int:
    """Count one pass over all indices per factor but the first, as in the nest of loops."""
    extents: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) != len(factors):
        raise WorkloadError(
            f"Einsum {equation!r}: has {len(terms)} terms, must have one for each of its "
            f"{len(factors)} inputs"
        )
    for term, factor in zip(terms, factors, strict=True):
        head, dots, tail = term.partition("...")
        for letter, extent in zip(head, factor, strict=False):
            extents[letter] = extent
        for letter, extent in zip(reversed(tail), reversed(factor), strict=False):
            extents[letter] = extent
        if dots:
            shared = reversed(factor[len(head) : len(factor) - len(tail)])
            for place, extent in enumerate(shared):  # broadcast from the right
                extents[f"...{place}"] = max(extent, extents.get(f"...{place}", 1))
    return (len(factors) - 1) * math.prod(extents.values())


def _steps(scan: onnx.NodeProto, dims: Mapping[str, Dims]) -> int:
    scanned = int(attribute(scan, "num_scan_inputs", 1))
    axes: Sequence[int] = attribute(scan, "scan_input_axes", [0])
    first = scan.input[len(scan.input) - scanned :][:1]
    rank = len(dims[first[0]]) if first else 0
    if scanned < 1 or not axes or not -rank <= axes[0] < rank:
        raise WorkloadError(f"Scan {scan.output[0]!r}: must scan an axis of one of its inputs")
    return dims[first[0]][axes[0]]


def _body_macs(body: onnx.GraphProto, outer: Mapping[str, Dims]) -> int:
    dims = dict(outer)
    for value in (*body.value_info, *body.input, *body.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            dims[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    dims.update({tensor.name: tuple(tensor.dims) for tensor in body.initializer})
    try:
        return sum(_macs(node, dims) for node in body.node)
    except KeyError as missing:
        raise WorkloadError(
            f"subgraph {body.name!r}: the shape of tensor {missing} cannot be inferred"
        ) from None
