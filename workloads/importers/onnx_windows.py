"""Windows of ONNX convolutions and pooling: their attributes as (rows, columns).

One dimension lies along the columns, in a map of one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from workloads.importers.onnx_shapes import Graph
from workloads.layer import Pair, Shape, span


def pair(extents: Sequence[int], single: int = 1) -> Pair:
    """Return (rows, columns) of one or two extents; the row that is none has ``single``."""
    rows, cols = (single, *extents) if len(extents) == 1 else extents
    return rows, cols


def pairs(graph: Graph, node: onnx.NodeProto, name: str, default: int = 1) -> Pair:
    """Return an attribute with one value per axis, each ``default`` if it is left out."""
    spatial = len(graph.dims[node.output[0]]) - 2
    return pair(graph.attribute(node, name, [default] * spatial), default)


def paddings(
    graph: Graph,
    node: onnx.NodeProto,
    extents: Pair,
    kernel: Pair,
    strides: Pair,
    dilations: Pair = (1, 1),
) -> Shape:
    """Return the padding (top, bottom, left, right) that ``auto_pad`` or ``pads`` gives."""
    auto = graph.attribute(node, "auto_pad", "NOTSET")
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
