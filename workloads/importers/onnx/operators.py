"""ONNX operators between layers: ReLU, sums, concatenations, pooling, and what only renames axes.

Each function appends what an operator is and says whether it could: what it could not is the
host's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from bfpsim.workloads.graph.operators import OnnxOperation
from bfpsim.workloads.importers.draft import Draft, Names
from bfpsim.workloads.importers.onnx.file import attribute, is_onnx, needs
from bfpsim.workloads.importers.onnx.graph import Graph
from bfpsim.workloads.importers.view import Arrangement, View
from bfpsim.workloads.layer import Pair, Shape, WorkloadError, span
from bfpsim.workloads.node import Pool

_AUTO_PADS = ("NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID")


class OperatorDraft(Draft[str]):
    """A network drafted from an ONNX graph, its nodes named as the graph's operators are.

    Names that are made up avoid theirs.

    matrices: constants as layers multiply by them, which those that share one share
    """

    def __init__(self, name: str, graph: Graph) -> None:
        operators = (node.name for node in graph.nodes)
        super().__init__(name, Names(operators, mark=".", first=2), "transpose")
        self.graph = graph
        self.matrices: dict[object, NDArray[Any]] = {}

    def operator(self, node: onnx.NodeProto) -> None:
        """Note an operator that is no product as an operation of the graph."""
        read = tuple(dict.fromkeys(name for name in needs(node) if name))
        run = OnnxOperation(node, read, self.graph.opsets, self.graph.constants)
        title = node.name or next(filter(None, node.output))
        kind = node.op_type if is_onnx(node) else f"{node.domain}.{node.op_type}"
        self.step(title, kind, read, node.output, run)

    def title(self, node: onnx.NodeProto) -> str:
        """Return a node's name for an operator: its own, or its first output's."""
        return self.claim(node.name if node.name.strip() else next(filter(None, node.output)))

    def claim(self, name: str) -> str:
        """Return a name of the file's for a node."""
        return self.names.claim(name if name.strip() else "unnamed")

    def inputs(self, node: onnx.NodeProto) -> list[View] | None:
        """Return an operator's inputs, or None if some are constants."""
        views = [self.views[name] for name in node.input if name in self.views]
        return views if len(views) == len(node.input) else None

    def bind(self, node: onnx.NodeProto, view: View | None) -> bool:
        """Have a view be an operator's output; return whether there is one."""
        if view is not None:
            self.views[node.output[0]] = view
        return view is not None


def relu(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a Relu."""
    return draft.bind(node, draft.relu(draft.title(node), draft.views[node.input[0]]))


def same(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Let an operator's output be its input, as Identity's and, but in training, Dropout's is."""
    if draft.graph.readers.get("".join(node.output[1:2])):
        return False  # Dropout's mask
    if len(node.input) > 2 and node.input[2]:
        constants, training = draft.graph.constants, node.input[2]
        if training not in constants or constants.array(training).any():
            return False
    return draft.bind(node, draft.views.get(node.input[0]))


def expand(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Let an Expand be its input where that has its shape already."""
    view = draft.views.get(node.input[0])
    same = view is not None and view.shape == draft.graph.dims[node.output[0]]
    return same and draft.bind(node, view)


def add(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append an Add or Sum of activations of one shape."""
    views, dims = draft.inputs(node), draft.graph.dims[node.output[0]]
    if not views or any(view.shape != dims for view in views):
        return False
    if len(views) == 1:
        return draft.bind(node, views[0])
    return draft.bind(node, draft.add(draft.title(node), views))


def concat(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a Concat of activations along the axis that holds their channels."""
    views = draft.inputs(node)
    if not views or len(views) == 1:
        return draft.bind(node, views[0] if views else None)
    dim = axis(node, len(views[0].dims), 1)
    if views[0].c != views[0].dims[dim]:
        return False
    draft.bind(node, draft.concat(draft.title(node), views, dim))
    if len({*node.input}) == 1:
        joined = draft.views[node.output[0]]
        draft.repeat(joined, views[0], dim, len(views), apart=True)
    return True


def transpose(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Give the axes of a tensor their new places: nothing moves."""
    view = draft.views[node.input[0]]
    return draft.bind(node, view.permute(permutation(node, len(view.dims))))


def reshape(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Split and merge axes that lie together; what else there is to do is the host's."""
    view = draft.views.get(node.input[0])
    if view is None:
        return False
    dims = draft.graph.dims[node.output[0]]
    if math.prod(dims) != math.prod(view.shape):
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: shape {dims} must have the elements of "
            f"{view.shape}"
        )
    view = view.reshape(dims)
    return draft.bind(node, view if view is not None and view.whole else None)


def max_pool(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a MaxPool whose windows are a `Pool`'s.

    Windows are fixed by the padding before them and their number: what lies behind never wins. So
    uneven padding is none, or the `Pool`'s ``ceil``, if that gives as many.
    """
    view, dims = draft.views[node.input[0]], draft.graph.dims[node.output[0]]
    if len(dims) not in (3, 4) or any(name in draft.graph.readers for name in node.output[1:]):
        return False
    kernel, strides = pairs(draft, node, "kernel_shape"), pairs(draft, node, "strides")
    extents, outputs = pixels(view.shape), pixels(dims)
    top, _, left, _ = paddings(node, extents, kernel, strides)
    if pairs(draft, node, "dilations") != (1, 1) or min(top, left) < 0:
        return False
    for ceil in (False, True):
        pool = Pool(kernel, strides, (top, left), ceil)
        fits = 2 * top <= kernel[0] and 2 * left <= kernel[1]
        if fits and pool.outputs(extents) == outputs:
            return draft.bind(node, draft.max_pool(draft.title(node), view, pool))
    return False


def global_max_pool(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a GlobalMaxPool: one window."""
    view = draft.views[node.input[0]]
    _, H, W, _ = Arrangement.channels_first(len(view.dims)).shape(view.shape)
    return draft.bind(node, draft.max_pool(draft.title(node), view, Pool((H, W), (1, 1))))


def average_pool(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append an AveragePool or GlobalAveragePool that averages the whole map, and nothing else."""
    view = draft.views[node.input[0]]
    if node.op_type == "AveragePool" and not _covers(draft, node, view):
        return False
    return draft.bind(node, draft.average_pool(draft.title(node), view))


def _covers(draft: OperatorDraft, node: onnx.NodeProto, view: View) -> bool:
    """Return whether a pooling has one window, which holds the map and no more."""
    dims = draft.graph.dims[node.output[0]]
    if len(dims) not in (3, 4) or math.prod(dims[2:]) != 1:
        return False
    kernel, extents = pairs(draft, node, "kernel_shape"), pixels(view.shape)
    top, _, left, _ = paddings(node, extents, kernel, pairs(draft, node, "strides"))
    if kernel[0] - top < extents[0] or kernel[1] - left < extents[1]:
        return False
    # Padding that is not counted is as if it were not there.
    plain = kernel == extents or not attribute(node, "count_include_pad", 0)
    return plain and pairs(draft, node, "dilations") == (1, 1)


def reduce_mean(draft: OperatorDraft, node: onnx.NodeProto) -> bool:
    """Append a ReduceMean over the whole map."""
    view, axes = draft.views.get(node.input[0]), attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        if node.input[1] not in draft.graph.constants:
            return False
        axes = draft.graph.constants.array(node.input[1]).tolist()
    if view is None or not axes:
        return False
    gone = [dim % len(view.dims) for dim in axes]
    if {axis for dim in gone for axis in view.dims[dim]} != {*view.map}:
        return False
    keep = bool(attribute(node, "keepdims", 1))
    return draft.bind(node, draft.mean(draft.title(node), view, gone, keep=keep))


def axis(node: onnx.NodeProto, rank: int, default: int) -> int:
    """Return the attribute ``axis``, counted from the front."""
    return int(attribute(node, "axis", default)) % max(1, rank)


def permutation(node: onnx.NodeProto, rank: int) -> list[int]:
    """Return the attribute ``perm``; `WorkloadError` if it is no order of the axes."""
    order = list(attribute(node, "perm", list(reversed(range(rank)))))
    if sorted(order) != list(range(rank)):
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: perm={order} must be an order of the {rank} axes"
        )
    return order


def pixels(dims: Sequence[int], single: int = 1) -> Pair:
    """Return (rows, columns) of a map (N, C, ...); the row that is none has ``single``."""
    rows, cols = (single, *dims[2:]) if len(dims) == 3 else dims[2:]
    return rows, cols


def pairs(draft: OperatorDraft, node: onnx.NodeProto, name: str, default: int = 1) -> Pair:
    """Return an attribute with a value per dimension of the map, ``default`` if left out."""
    spatial = len(draft.graph.dims[node.output[0]]) - 2
    return pixels((0, 0, *attribute(node, name, [default] * spatial)), default)


def auto_pad(node: onnx.NodeProto) -> str:
    """Return the attribute ``auto_pad``; `WorkloadError` if it is none that ONNX knows."""
    auto = str(attribute(node, "auto_pad", "NOTSET"))
    if auto not in _AUTO_PADS:
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: auto_pad={auto!r} must be one of "
            f"{', '.join(_AUTO_PADS)}"
        )
    return auto


def paddings(
    node: onnx.NodeProto, extents: Pair, kernel: Pair, strides: Pair, dilations: Pair = (1, 1)
) -> Shape:
    """Return the padding (top, bottom, left, right) that ``auto_pad`` or ``pads`` gives."""
    auto = auto_pad(node)
    if auto == "VALID":
        return 0, 0, 0, 0
    if auto == "NOTSET":
        pads = attribute(node, "pads", (0, 0, 0, 0))
        return (0, 0, pads[0], pads[1]) if len(pads) == 2 else (pads[0], pads[2], pads[1], pads[3])
    sides: list[int] = []
    for extent, taps, step, dilation in zip(extents, kernel, strides, dilations, strict=True):
        outputs = -(-extent // step)
        total = max(0, (outputs - 1) * step + span(taps, dilation) - extent)
        less, more = total // 2, total - total // 2
        sides += (less, more) if auto == "SAME_UPPER" else (more, less)
    return sides[0], sides[1], sides[2], sides[3]
