"""What stands behind a layer and is folded into its weights: scales and shifts of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.importers.onnx.constants import all_finite
from bfpsim.workloads.importers.onnx.file import Dims, is_onnx
from bfpsim.workloads.importers.onnx.shapes import Graph
from bfpsim.workloads.layer import WorkloadError

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Folded:
    """``scale`` * x + ``shift`` per channel, or None if there is nothing to fold.

    tensors: the layer's own output, then that of each operator folded
    """

    tensors: tuple[str, ...]
    scale: Values | None
    shift: Values | None


def follow(graph: Graph, tensor: str, axis: int) -> Folded:
    """Return what can be folded into the layer that computes ``tensor``, channels on ``axis``.

    That is every batch normalisation, and every multiplication by, division by, addition and
    subtraction of a constant per channel, whose input nothing else reads. Raises `WorkloadError`
    if one multiplies by what is not finite, as a division by 0 does.
    """
    dims = graph.dims[tensor]
    scale, shift = None, None
    tensors = [tensor]
    while True:
        readers = graph.readers.get(tensors[-1], ())
        reader = readers[0] if len(readers) == 1 else None
        step = None if reader is None else _affine(graph, reader, tensors[-1], axis, dims)
        if reader is None or step is None:
            return Folded(tuple(tensors), scale, shift)
        _check_factors(reader, step[0])
        with np.errstate(over="ignore", invalid="ignore"):  # `layer_weights` refuses the result
            scale = step[0] if scale is None else scale * step[0]
            shift = step[1] if shift is None else shift * step[0] + step[1]
        tensors.append(reader.output[0])


def layer_weights(
    layer: str, weight: NDArray[Any], bias: NDArray[Any] | None, folded: Folded
) -> LayerWeights:
    """Return weights (filters, C, R, S) with a bias per filter, folded in float64, rounded once.

    Raises `WorkloadError` if a result is not finite in float32.
    """
    own = np.zeros(len(weight)) if bias is None else bias
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
        if folded.scale is not None and folded.shift is not None:
            weight = weight.astype(np.float64) * folded.scale[:, None, None, None]
            own = own.astype(np.float64) * folded.scale + folded.shift
        rounded = LayerWeights(_rounded(weight), _rounded(own))
    for part, values in (("weight", rounded.weight), ("bias", rounded.bias)):
        if not all_finite(values):
            raise WorkloadError(f"layer {layer!r}: its {part} is not finite in float32")
    return rounded


def _rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    # `asarray` keeps what is float32 already, so that weights which are one number stay one.
    return np.asarray(values, np.float32)


def _affine(
    graph: Graph, node: onnx.NodeProto, tensor: str, axis: int, dims: Dims
) -> tuple[Values, Values] | None:
    """Return the (scale, shift) that an operator applies to each channel of ``tensor``."""
    channels = dims[axis]
    if not is_onnx(node) or node.output[0] not in graph.dims:
        return None
    if node.op_type == "BatchNormalization":
        return _normalisation(graph, node) if axis == 1 and node.input[0] == tensor else None
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or graph.dims[node.output[0]] != dims:
        return None
    left, right = node.input
    other = right if left == tensor else left
    if other not in graph.constants or (other == left and node.op_type in ("Div", "Sub")):
        return None
    shape = (*(1 for _ in range(len(dims) - len(graph.dims[other]))), *graph.dims[other])
    if any(extent > 1 for place, extent in enumerate(shape) if place != axis):
        return None
    constant = np.broadcast_to(graph.constants.array(other).astype(np.float64).ravel(), channels)
    zero, one = np.zeros(channels), np.ones(channels)
    if node.op_type == "Mul":
        return constant, zero
    if node.op_type == "Div":
        with np.errstate(divide="ignore"):
            return one / constant, zero
    return one, constant if node.op_type == "Add" else -constant


def _check_factors(node: onnx.NodeProto, factors: Values) -> None:
    bad = factors[~np.isfinite(factors)]
    if bad.size:
        raise WorkloadError(
            f"{node.op_type} {node.output[0]!r}: multiplies a channel by {bad[0]}; allowed: "
            "finite factors, so no division by 0 and no variance below 0"
        )


def _normalisation(graph: Graph, node: onnx.NodeProto) -> tuple[Values, Values] | None:
    parameters = node.input[1:5]
    if graph.attribute(node, "training_mode", 0) or any(
        name not in graph.constants for name in parameters
    ):
        return None
    gamma, beta, mean, variance = (
        graph.constants.array(name).astype(np.float64) for name in parameters
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + graph.attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
