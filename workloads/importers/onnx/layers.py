"""ONNX convolutions and matrix products as layers, with what stands behind them folded in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.graph.product import Contraction, Letters, Phased, Product, Windows
from bfpsim.workloads.importers import products
from bfpsim.workloads.importers.onnx.constants import all_finite
from bfpsim.workloads.importers.onnx.file import attribute, is_onnx
from bfpsim.workloads.importers.onnx.graph import Graph
from bfpsim.workloads.importers.onnx.operators import (
    OperatorDraft,
    auto_pad,
    paddings,
    pairs,
    pixels,
)
from bfpsim.workloads.layer import Pair, WorkloadError

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Affine:
    """What is folded into a layer: ``scale`` * x + ``shift`` per channel, None if nothing is.

    tensors: the layer's own output, then that of each operator folded
    """

    tensors: tuple[str, ...]
    scale: Values | None = None
    shift: Values | None = None


def convolution(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a Conv of one or two dimensions.

    Its weights must be constants, or inputs of the file that nothing else reads.
    """
    if not _is_layer(draft, node):
        return False
    weight, view = draft.graph.dims[node.input[1]], draft.views[node.input[0]]
    strides, dilations = pairs(draft, node, "strides"), pairs(draft, node, "dilations")
    kernel, groups = _kernel(draft.graph, node), attribute(node, "group", 1)
    name = draft.title(node)
    layer, output = draft.convolution(
        name,
        view,
        weight[0],
        kernel,
        stride=strides,
        padding=paddings(node, pixels(view.shape), kernel, strides, dilations),
        dilation=dilations,
        groups=groups,
    )
    _check_weight(name, weight, (weight[0], layer.C, *weight[2:]), view.shape[1], groups)
    affine = _affine(draft.graph, node.output[0], 1)
    parameters = _parameters(draft.graph, node)
    if parameters is not None:
        filters, bias = parameters
        filters = filters.reshape(layer.weight_shape)
        draft.weights[name] = _weights(name, filters, bias, affine)
    draft.views.update(dict.fromkeys(affine.tensors, output))
    _note(draft, node, affine, Windows(layer, draft.weights.get(name)))
    return True


def transposed_convolution(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a ConvTranspose of one or two dimensions; with dilation, no layer kind takes it."""
    if not _is_layer(draft, node):
        return False
    weight, dims = draft.graph.dims[node.input[1]], draft.graph.dims[node.output[0]]
    view = draft.views[node.input[0]]
    if len(dims) != len(weight):
        # This is how onnx's inference shows that it refuses the attribute.
        shape = attribute(node, "output_shape", None)
        raise WorkloadError(
            f"layer {draft.title(node)!r}: output_shape={shape} must be at least the input's "
            f"{view.shape[2:]}"
        )
    if pairs(draft, node, "dilations") != (1, 1):
        return False
    kernel, strides = _kernel(draft.graph, node), pairs(draft, node, "strides")
    groups, name = attribute(node, "group", 1), draft.title(node)
    _check_weight(name, weight, (view.shape[1], *weight[1:]), view.shape[1], groups)
    extents, output = pixels(view.shape), pixels(dims)
    before = _transposed_paddings(draft, node, extents, kernel, strides, output)
    # What the output's extents leave is cut off behind, or stands there as output padding.
    beyond = [
        out - ((extent - 1) * step - pad + taps)
        for out, extent, step, pad, taps in zip(
            output, extents, strides, before, kernel, strict=True
        )
    ]
    bottom, right = (max(0, -more) for more in beyond)
    rows, cols = (max(0, more) for more in beyond)
    affine = _affine(draft.graph, node.output[0], 1)
    parameters, weights = _parameters(draft.graph, node), None
    if parameters is not None:
        filters, bias = parameters
        # Filter by filter, as the other way round has them: (channels, channels in, ...).
        grouped = filters.reshape(groups, -1, *weight[1:2], *kernel).swapaxes(1, 2)
        own = _weights(name, grouped.reshape(-1, *grouped.shape[2:]), bias, affine)
        folded = own.weight.reshape(grouped.shape).swapaxes(1, 2)
        weights = folded.reshape(*weight[:2], *kernel), own.bias
    whole, product = draft.transposed(
        name,
        view,
        groups * weight[1],
        kernel,
        stride=strides,
        padding=(before[0], bottom, before[1], right),
        output_padding=(rows, cols),
        groups=groups,
        biased=len(node.input) > 2 or affine.shift is not None,
        weights=weights,
    )
    draft.views.update(dict.fromkeys(affine.tensors, whole))
    _note(draft, node, affine, product, known=weights is not None)
    return True


def matmul(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a MatMul; it is no layer if a factor is a constant of several matrices."""
    left, right = (draft.graph.dims[name] for name in node.input)
    return _product(draft, node, Letters.matmul(left, right))


def gemm(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a Gemm; what it adds is folded or stands behind."""
    graph = draft.graph
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    left = "km" if attribute(node, "transA", 0) else "mk"
    right = "nk" if attribute(node, "transB", 0) else "kn"
    added = node.input[2] if len(node.input) > 2 else ""
    bias = None
    fixed = node.input[1] in graph.constants
    if fixed and added in graph.constants and math.prod(graph.dims[added][:-1]) == 1:
        columns = graph.dims[node.output[0]][1]
        bias = np.broadcast_to(graph.constants.finite(added).ravel(), columns).astype(np.float64)
        bias, added = beta * bias, ""
    behind = bool(added) or (alpha != 1 and not any(n in graph.constants for n in node.input[:2]))
    product = Letters(left, right, "mn")
    if not _product(draft, node, product, scale=alpha, bias=bias, last=not behind):
        return False
    if behind:
        _note_behind(draft, node, 1.0 if fixed or node.input[0] in graph.constants else alpha, beta)
        view, other = draft.views[node.output[0]], draft.views.get(added)
        name, shape = draft.names.free(f"{view.node}.bias"), draft.shape(view.node)
        if other is not None and other.shape == view.shape and (alpha, beta) == (1, 1):
            view = draft.add(name, [view, other])
        else:
            sources = [view.node, *([] if other is None else [other.node])]
            draft.host(name, "add" if added else "mul", sources, shape)
            view = replace(view, node=name)
        draft.bind(node, view)
    return True


def einsum(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append an Einsum that is one product of two matrices, in batches or not."""
    product = Letters.einsum(attribute(node, "equation", ""))
    if product is None:
        return False
    _check_ranks(draft.graph, node, product.left, product.right)
    left, right = (draft.graph.dims[name] for name in node.input)
    extents = dict(zip(product.left, left, strict=True))
    agree = all(extents.get(x, e) == e for x, e in zip(product.right, right, strict=True))
    return agree and _product(draft, node, product)


def is_parameter(graph: Graph, name: str) -> bool:
    """Return whether an input of the file is nothing but weights of convolutions."""
    return name in graph.inputs and all(
        reader is not None
        and reader.op_type in ("Conv", "ConvTranspose")
        and name in reader.input[1:]
        and name != reader.input[0]
        for reader in graph.readers[name]
    )


def _is_layer(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Return whether a convolution of one or two dimensions runs on data with fixed weights."""
    return (
        len(draft.graph.dims[node.input[1]]) in (3, 4)
        and node.input[0] in draft.views
        and all(
            not name or name in draft.graph.constants or is_parameter(draft.graph, name)
            for name in node.input[1:]
        )
    )


def _kernel(graph: Graph, node: onnx.NodeProto) -> Pair:
    """Return the window of a convolution, its weight's; `WorkloadError` if it is told otherwise."""
    weight = graph.dims[node.input[1]]
    kernel = attribute(node, "kernel_shape", weight[2:])
    if tuple(kernel) != weight[2:]:
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: kernel_shape={list(kernel)} must be "
            f"{list(weight[2:])}, as its weight {node.input[1]!r} has"
        )
    return pixels(weight)


def _parameters(
    graph: Graph, node: onnx.NodeProto
) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """Return weight and bias as the file holds them, or None if it does not."""
    names = [name for name in node.input[1:] if name]
    if any(name not in graph.constants for name in names):
        return None
    weight, *bias = (graph.constants.finite(name) for name in names)
    return weight, bias[0] if bias else None


def _transposed_paddings(
    draft: OperatorDraft,
    node: onnx.NodeProto,
    extents: Pair,
    kernel: Pair,
    strides: Pair,
    output: Pair,
) -> Pair:
    """Return the padding before each axis; what the output's extent leaves is that behind."""
    auto = auto_pad(node)
    if auto == "VALID":
        return 0, 0
    if auto == "NOTSET" and attribute(node, "output_shape", None) is None:
        top, _, left, _ = paddings(node, extents, kernel, strides)
        return top, left
    extra = pairs(draft, node, "output_padding", 0)
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


def _check_ranks(graph: Graph, node: onnx.NodeProto, *terms: str) -> None:
    for name, term in zip(node.input, terms, strict=False):
        dims = graph.dims[name]
        if len(dims) != len(term):
            raise WorkloadError(
                f"{node.op_type} {node.output[0]!r}: {name!r} has shape {dims}, must have "
                f"{len(term)} dimensions"
            )


def _product(
    draft: OperatorDraft,
    node: onnx.NodeProto,
    product: Letters,
    scale: float = 1.0,
    bias: Values | None = None,
    *,
    last: bool = True,
) -> bool:
    """Append ``scale`` times a product of an operator's inputs plus ``bias``, if it is one layer.

    It is not if a factor is a constant with batches of its own. What follows the operator may be
    folded if the product is the ``last`` that belongs to it.
    """
    _check_ranks(draft.graph, node, product.left, product.right)
    left, right = (draft.views.get(name) for name in node.input[:2])
    if left is not None and right is not None:
        output, run = products.matmul(draft, draft.title(node), left, right, product)
        draft.bind(node, output)
        _note(draft, node, _Affine((node.output[0] if last else _before(node),)), run)
        return True
    if left is None and right is None:
        return False
    view, constant = (left, node.input[1]) if right is None else (right, node.input[0])
    assert view is not None
    product = product if right is None else product.swapped
    dims = draft.graph.dims[constant]
    if any(extent > 1 for x, extent in zip(product.right, dims, strict=True) if x in product.batch):
        return False
    name, tensor = draft.title(node), node.output[0]
    layer, output, contracted = products.linear(draft, name, view, product, dims)
    columns, affine = product.columns, _Affine((tensor,))
    if last and len(columns) == 1:
        affine = _affine(draft.graph, tensor, product.out.index(columns))
    # Axes of extent 1 may be contracted, but hold nothing: they go wherever `reshape` puts them.
    order = [product.right.index(x) for x in columns + contracted]
    order += [dim for dim in range(len(dims)) if dim not in order]
    key = constant, tuple(order), layer.weight_shape
    if key not in draft.matrices:
        values = draft.graph.constants.finite(constant)
        draft.matrices[key] = values.transpose(order).reshape(layer.weight_shape)
    matrix = draft.matrices[key]
    if scale != 1:
        matrix = matrix.astype(np.float64) * scale
    draft.weights[name] = weights = _weights(name, matrix, bias, affine)
    draft.views.update(dict.fromkeys(affine.tensors, output))
    run = Contraction(layer, product, contracted, view.shape, dims, output.shape, weights=weights)
    made = affine if last else _Affine((_before(node),))
    _note(draft, node, made, run, inputs=[node.input[0 if right is None else 1]])
    return True


def _before(node: onnx.NodeProto) -> str:
    """Return what a Gemm's product is called that something is added to."""
    return f"{node.output[0]}:product"


def _note(
    draft: OperatorDraft,
    node: onnx.NodeProto,
    affine: _Affine,
    product: Product,
    *,
    inputs: Sequence[str] | None = None,
    known: bool = True,
) -> None:
    """Note a product of the graph: its inputs are the operator's, unless its weights are known."""
    if inputs is None:
        stored = isinstance(product, Windows) and product.weights is not None
        stored = stored or (isinstance(product, Phased) and known)
        most = 2 if isinstance(product, Contraction) else 3
        inputs = node.input[: 1 if stored else most]
    if isinstance(product, Windows) and product.weights is None:
        known = False
    tensors = affine.tensors if known else affine.tensors[:1]
    draft.folded.update((node.output[0], *tensors))
    title = node.name or node.output[0]
    draft.step(title, node.op_type, inputs, [tensors[-1]], product)


def _note_behind(draft: OperatorDraft, node: onnx.NodeProto, alpha: float, beta: float) -> None:
    """Note what a Gemm does behind its product: alpha times it, and beta times what it adds."""
    made, added = _before(node), node.input[2] if len(node.input) > 2 else ""
    kind = draft.graph.dtype(node.output[0])
    for factor, source, last in ((alpha, made, not added), (beta, added, False)):
        if not source or (factor == 1 and not last):
            continue
        scaled, name = node.output[0] if last else f"{source}:scaled", f"{made}:{factor}"
        draft.graph.constants.keep(name, np.asarray(factor, kind))
        draft.operator(helper.make_node("Mul", [source, name], [scaled], f"{made}.scale"))
        made, added = (scaled, added) if source == made else (made, scaled)
    if added:
        draft.operator(helper.make_node("Add", [made, added], [node.output[0]], f"{made}.add"))


def _weights(
    layer: str, weight: NDArray[Any], bias: NDArray[Any] | None, affine: _Affine
) -> LayerWeights:
    """Return weights (filters, C, R, S) with a bias per filter, folded in float64, rounded once.

    Raises `WorkloadError` if a result is not finite in float32.
    """
    own = np.zeros(len(weight)) if bias is None else bias
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
        if affine.scale is not None and affine.shift is not None:
            if (affine.scale != 1).any():  # else those that are shared stay so
                weight = weight.astype(np.float64) * affine.scale[:, None, None, None]
            own = own.astype(np.float64) * affine.scale + affine.shift
        # `asarray` keeps what is float32 already, so that weights which are one number stay one.
        rounded = LayerWeights(np.asarray(weight, np.float32), np.asarray(own, np.float32))
    for part, values in (("weight", rounded.weight), ("bias", rounded.bias)):
        if not all_finite(values):
            raise WorkloadError(f"layer {layer!r}: its {part} is not finite in float32")
    return rounded


def _affine(graph: Graph, tensor: str, dim: int) -> _Affine:
    """Return what can be folded into the layer that computes ``tensor``, channels on ``dim``.

    That is every batch normalisation, and every multiplication by, division by, addition and
    subtraction of a constant per channel, whose input nothing else reads. Raises `WorkloadError`
    if one multiplies by what is not finite, as a division by 0 does.
    """
    affine = _Affine((tensor,))
    while True:
        readers = graph.readers.get(affine.tensors[-1], ())
        reader = readers[0] if len(readers) == 1 else None
        factors = None if reader is None else _factors(graph, reader, affine.tensors[-1], dim)
        if reader is None or factors is None:
            return affine
        scale, shift = factors
        bad = scale[~np.isfinite(scale)]
        if bad.size:
            raise WorkloadError(
                f"{reader.op_type} {reader.output[0]!r}: multiplies a channel by {bad[0]}; "
                "allowed: finite factors, so no division by 0 and no variance below 0"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # `_weights` refuses the result
            if affine.scale is not None and affine.shift is not None:
                scale, shift = affine.scale * scale, affine.shift * scale + shift
        affine = _Affine((*affine.tensors, reader.output[0]), scale, shift)


def _factors(
    graph: Graph, node: onnx.NodeProto, tensor: str, dim: int
) -> tuple[Values, Values] | None:
    """Return the (scale, shift) that an operator applies to each channel of ``tensor``."""
    dims = graph.dims[tensor]
    channels = dims[dim]
    if not is_onnx(node) or node.output[0] not in graph.dims:
        return None
    if node.op_type == "BatchNormalization":
        return _normalisation(graph, node) if dim == 1 and node.input[0] == tensor else None
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or graph.dims[node.output[0]] != dims:
        return None
    left, right = node.input
    other = right if left == tensor else left
    if other not in graph.constants or (other == left and node.op_type in ("Div", "Sub")):
        return None
    shape = (*(1 for _ in range(len(dims) - len(graph.dims[other]))), *graph.dims[other])
    if any(extent > 1 for place, extent in enumerate(shape) if place != dim):
        return None
    values = graph.constants.array(other)
    if node.op_type in ("Add", "Sub") and not all_finite(values):
        return None  # a mask
    constant = np.broadcast_to(values.astype(np.float64).ravel(), channels)
    zero, one = np.zeros(channels), np.ones(channels)
    if node.op_type == "Mul":
        return constant, zero
    if node.op_type == "Div":
        with np.errstate(divide="ignore"):
            return one / constant, zero
    return one, constant if node.op_type == "Add" else -constant


def _normalisation(graph: Graph, node: onnx.NodeProto) -> tuple[Values, Values] | None:
    parameters = node.input[1:5]
    if attribute(node, "training_mode", 0) or any(
        name not in graph.constants for name in parameters
    ):
        return None
    gamma, beta, mean, variance = (
        graph.constants.finite(name).astype(np.float64) for name in parameters
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
