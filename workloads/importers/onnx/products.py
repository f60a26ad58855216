"""ONNX matrix products as linear layers and products of activations.

Every product is written as in Einsum: one letter per axis. Letters of both factors and the result
are batch, of both factors alone contracted, of the left (right) and the result rows (columns).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bfpsim.workloads.importers.onnx.draft import Draft, Value
from bfpsim.workloads.importers.onnx.fold import Folded, follow, layer_weights
from bfpsim.workloads.importers.onnx.layout import Layout
from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.layer import ConvLayer, WorkloadError

# An axis of extent 1 that takes part in nothing.
_NONE = "."


@dataclass(frozen=True)
class _Product:
    """The letters of two factors and their result; ``scale`` times the product, plus ``bias``."""

    left: str
    right: str
    out: str
    scale: float = 1.0
    bias: NDArray[Any] | None = None
    final: bool = True  # nothing else belongs to the operator: what follows it may be folded


def matmul(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a MatMul, and say whether it is one layer.

    It is not if a factor is a constant of several matrices.
    """
    left, right = (graph.dims[name] for name in node.input)
    letters = "".join(chr(ord("A") + axis) for axis in range(max(len(left), len(right)) - 2))
    batch = ["" if len(dims) < 3 else letters[2 - len(dims) :] for dims in (left, right)]
    for place, axis in enumerate(range(-3, -3 - min(map(len, batch)), -1)):
        if left[axis] != right[axis]:  # the factor whose extent is 1 is broadcast
            less = 0 if left[axis] == 1 else 1
            at = len(batch[less]) - 1 - place
            batch[less] = batch[less][:at] + _NONE + batch[less][at + 1 :]
    rows, columns = "m" * (len(left) > 1), "n" * (len(right) > 1)
    product = _Product(batch[0] + rows + "k", batch[1] + "k" + columns, letters + rows + columns)
    return _append(graph, draft, node, product)


def gemm(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append a Gemm, and say whether it is one product; what it adds is folded or stands behind."""
    alpha, beta = graph.attribute(node, "alpha", 1.0), graph.attribute(node, "beta", 1.0)
    left = "km" if graph.attribute(node, "transA", 0) else "mk"
    right = "nk" if graph.attribute(node, "transB", 0) else "kn"
    added = node.input[2] if len(node.input) > 2 else ""
    bias = None
    fixed = node.input[1] in graph.constants
    if fixed and added in graph.constants and math.prod(graph.dims[added][:-1]) == 1:
        columns = graph.dims[node.output[0]][1]
        bias = np.broadcast_to(graph.constants.array(added).ravel(), columns).astype(np.float64)
        bias, added = beta * bias, ""
    behind = bool(added) or (alpha != 1 and not any(n in graph.constants for n in node.input[:2]))
    product = _Product(left, right, "mn", alpha, bias, final=not behind)
    if not _append(graph, draft, node, product):
        return False
    if behind:
        value, other = draft.values[node.output[0]], draft.values.get(added)
        name = draft.free(f"{value.node}.bias")
        if other is not None and other.dims == value.dims and (alpha, beta) == (1, 1):
            shape = draft.shape(value.node)
            last = draft.simple("add", name, value.node, draft.arranged(other, value.layout, shape))
        else:
            sources = [value.node, *([] if other is None else [other.node])]
            function = "add" if added else "mul"
            last = draft.host(name, function, *sources, shape=draft.shape(value.node))
        draft.bind(node.output[0], last, value.dims, value.layout)
    return True


def einsum(graph: Graph, draft: Draft, node: onnx.NodeProto) -> bool:
    """Append an Einsum, and say whether it is one product of two matrices, in batches or not."""
    equation = graph.attribute(node, "equation", "").replace(" ", "")
    terms, arrow, out = equation.partition("->")
    factors = terms.split(",")
    if len(factors) != 2 or "." in equation:
        return False
    left, right = factors
    _check_ranks(graph, node, left, right)
    if not arrow:
        out = "".join(sorted(x for x in {*left, *right} if (left + right).count(x) == 1))
    unique = all(len(set(term)) == len(term) for term in (left, right, out))
    extents = dict(zip(left, graph.dims[node.input[0]], strict=True))
    agree = all(
        extents.get(letter, extent) == extent
        for letter, extent in zip(right, graph.dims[node.input[1]], strict=True)
    )
    # A letter of one factor alone that the result lacks is summed over before the product.
    if not unique or not agree or {*left} ^ {*right} != {*out} - ({*left} & {*right}):
        return False
    return _append(graph, draft, node, _Product(left, right, out))


def _check_ranks(graph: Graph, node: onnx.NodeProto, *terms: str) -> None:
    for name, term in zip(node.input, terms, strict=False):
        dims = graph.dims[name]
        if len(dims) != len(term):
            raise WorkloadError(
                f"{node.op_type} {node.output[0]!r}: {name!r} has shape {dims}, must have "
                f"{len(term)} dimensions"
            )


def _append(graph: Graph, draft: Draft, node: onnx.NodeProto, product: _Product) -> bool:
    _check_ranks(graph, node, product.left, product.right)
    left, right = (draft.values.get(name) for name in node.input[:2])
    if left is not None and right is not None:
        _append_matmul(graph, draft, node, product, left, right)
        return True
    if left is not None:
        return _append_linear(graph, draft, node, product, left, 0)
    if right is not None:
        return _append_linear(graph, draft, node, product, right, 1)
    return False


def _append_linear(
    graph: Graph, draft: Draft, node: onnx.NodeProto, product: _Product, value: Value, place: int
) -> bool:
    """Append the product with a constant, unless it has batches of its own."""
    own, other = product.left, product.right
    if place == 1:
        own, other = other, own
    constant, dims = node.input[1 - place], graph.dims[node.input[1 - place]]
    extents = dict(zip(own, value.dims, strict=True))
    if any(x in own and x in product.out and extents[x] > 1 for x in other):
        return False
    contracted = [own.index(x) for x in other if x in own and x not in product.out]
    held = [axis for axis in value.layout.c if value.dims[axis] > 1]
    if {*held} == {axis for axis in contracted if value.dims[axis] > 1}:
        order, source = held, value.node
    else:
        order = contracted
        rest = [axis for axis in range(len(own)) if axis not in contracted]
        outer = tuple(rest[:1]) if rest[:1] == [0] or len(rest) == 1 else ()
        layout = Layout(outer, tuple(rest[len(outer) :]), tuple(order))
        source = draft.arranged(value, layout)
        value = Value(source, value.dims, layout)
    columns = [x for x in other if x not in own and x != _NONE]
    name = draft.title(node)
    features = math.prod(dims[other.index(x)] for x in columns)
    layer = ConvLayer.on_input(name, draft.shape(source), features, 1)
    tensor = node.output[0]
    folded = Folded((tensor,), None, None)
    if product.final and len(columns) == 1:
        folded = follow(graph, tensor, product.out.index(columns[0]))
    # Axes of extent 1 may be contracted, but hold nothing: they go wherever `reshape` puts them.
    kept = [other.index(x) for x in columns] + [other.index(own[axis]) for axis in order]
    matrix = graph.constants.array(constant)
    gone = [axis for axis in range(len(other)) if axis not in kept]
    matrix = matrix.transpose(kept + gone).reshape(layer.weight_shape)
    if product.scale != 1:
        matrix = matrix.astype(np.float64) * product.scale
    draft.layer("linear", layer, source)
    draft.weights[name] = layer_weights(name, matrix, product.bias, folded)
    layout = _result(product.out, own, value.layout, "", columns)
    for tensor in folded.tensors:
        draft.bind(tensor, name, graph.dims[tensor], layout)
    return True


def _append_matmul(
    graph: Graph,
    draft: Draft,
    node: onnx.NodeProto,
    product: _Product,
    left: Value,
    right: Value,
) -> None:
    """Append the product of two activations: N are samples, C heads' channels."""
    own, other, out = product.left, product.right, product.out
    batch = [x for x in own if x in other and x in out]
    rows = [x for x in own if x in out and x not in other]
    contracted = [x for x in own if x in other and x not in out]
    columns = [x for x in other if x in out and x not in own]
    layout, source = left.layout, left.node
    if not _fits(left, own, batch, rows):
        axes = {x: axis for axis, x in enumerate(own)}
        layout = Layout(
            tuple(axes[x] for x in batch[:1]),
            tuple(axes[x] for x in rows),
            tuple(axes[x] for x in batch[1:] + contracted),
        )
        source = draft.arranged(left, layout)
    extents = dict(zip(other, right.dims, strict=True)) | dict(zip(own, left.dims, strict=True))

    def size(letters: list[str]) -> int:
        return math.prod(extents[x] for x in letters)

    heads = "".join(own[axis] for axis in layout.c if own[axis] in batch)
    samples, P, Q, _ = draft.shape(source)
    name = draft.title(node)
    layer = ConvLayer(name, K=size(columns), C=size(contracted), P=P, Q=Q)
    draft.product(layer, source, right.node, samples * size([*heads]))
    result = _result(out, own, layout, heads, columns)
    draft.bind(node.output[0], name, graph.dims[node.output[0]], result)


def _fits(value: Value, letters: str, batch: list[str], rows: list[str]) -> bool:
    """Return whether N holds batch axes, the map the rows, and C heads and then the contracted."""
    n, cells, c = (
        [letters[axis] for axis in axes if value.dims[axis] > 1]
        for axes in (value.layout.n, value.layout.map, value.layout.c)
    )
    heads = [x for x in c if x in batch]
    return (
        {*n} <= {*batch}
        and {*cells} <= {*rows}
        and c[: len(heads)] == heads
        and not ({*rows} & {*c})
    )


def _result(out: str, own: str, layout: Layout, heads: str, columns: list[str]) -> Layout:
    """Return the layout of a product whose left factor has one; heads and columns are its C."""
    c = tuple(out.index(x) for x in (*heads, *columns))
    n = tuple(out.index(own[axis]) for axis in layout.n if own[axis] in out)
    cells = tuple(
        out.index(own[axis]) for axis in layout.map if own[axis] in out and own[axis] not in heads
    )
    left = tuple(axis for axis in range(len(out)) if axis not in (*n, *cells, *c))
    return Layout(n, cells + left, c)
