"""Windows of ONNX convolutions and pooling: their attributes as (rows, columns).

One dimension lies along the columns, in a map of one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.layer import Pair, Shape, WorkloadError, span

_AUTO_PADS = ("NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID")


def pair(extents: Sequence[int], single: int = 1) -> Pair:
    """Return (rows, columns) of one or two extents; the row that is none has ``single``."""
    rows, cols = (single, *extents) if len(extents) == 1 else extents
    return rows, cols


def pairs(graph: Graph, node: onnx.NodeProto, name: str, default: int = 1) -> Pair:
    """Return an attribute with one value per axis, each ``default`` if it is left out."""
    spatial = len(graph.dims[node.output[0]]) - 2
    return pair(graph.attribute(node, name, [default] * spatial), default)


def kernel_of(graph: Graph, node: onnx.NodeProto) -> Pair:
    """Return the window of a convolution, its weight's; `WorkloadError` if it is told otherwise."""
    extents = graph.dims[node.input[1]][2:]
    told = graph.attribute(node, "kernel_shape", extents)
    if tuple(told) != extents:
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: kernel_shape={list(told)} must be "
            f"{list(extents)}, as its weight {node.input[1]!r} has"
        )
    return pair(extents)


def auto_pad(graph: Graph, node: onnx.NodeProto) -> str:
    """Return the attribute ``auto_pad``; `WorkloadError` if it is none that ONNX knows."""
    auto = str(graph.attribute(node, "auto_pad", "NOTSET"))
    if auto not in _AUTO_PADS:
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: auto_pad={auto!r} must be one of "
            f"{', '.join(_AUTO_PADS)}"
        )
    return auto


def paddings(
    graph: Graph,
    node: onnx.NodeProto,
    extents: Pair,
    kernel: Pair,
    strides: Pair,
    dilations: Pair = (1, 1),
) -> Shape:
    """Return the padding (top, bottom, left, right) that ``auto_pad`` or ``pads`` gives."""
    auto = auto_pad(graph, node)
    if auto == "VALID":
        return 0, 0, 0, 0
    if auto == "NOTSET":
        pads = graph.attribute(node, "pads", (0, 0, 0, 0))
        return (0, 0, pads[0], pads[1]) if len(pads) == 2 else (pads[0], pads[2], pads[1], pads[3])
    sides: list[int] = []
    for extent, taps, step, dilation in zip(extents, kernel, strides, dilations, strict=True):
        outputs = -(-extent // step)
        total = max(0, (outputs - 1) * step + span(taps, dilation) - extent)
        less, more = total // 2, total - total // 2
        sides += (less, more) if auto == "SAME_UPPER" else (more, less)
    return sides[0], sides[1], sides[2], sides[3]
