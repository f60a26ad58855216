"""Multiply-accumulates of ONNX operators that run on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from bfpsim.workloads.importers.onnx.file import attribute, is_onnx
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

# Convolution -> the place of its weights (filters, channels per group, ...) among its inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}
# Product -> the places of its factors.
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}


def host_macs(node: onnx.NodeProto, dims: Mapping[str, Dims], trips: int = 1) -> int:
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
    axis: int = attribute(scan, "scan_input_axes", [0] * scanned)[0]
    return dims[scan.input[len(scan.input) - scanned]][axis]


def _body_macs(body: onnx.GraphProto, outer: Mapping[str, Dims]) -> int:
    dims = dict(outer)
    for value in (*body.value_info, *body.input, *body.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            dims[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    dims.update({tensor.name: tuple(tensor.dims) for tensor in body.initializer})
    try:
        return sum(host_macs(node, dims) for node in body.node)
    except KeyError as missing:
        raise WorkloadError(
            f"subgraph {body.name!r}: the shape of tensor {missing} cannot be inferred"
        ) from None
