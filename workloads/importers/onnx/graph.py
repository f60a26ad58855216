"""The part of an ONNX graph that its outputs need, with every tensor's shape and the constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bfpsim.workloads.importers.onnx.constants import Constants
from bfpsim.workloads.importers.onnx.file import OnnxFile, is_onnx, reads
from bfpsim.workloads.importers.onnx.shapes import Inference
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError


@dataclass(frozen=True)
class Graph:
    """What is left of an ONNX graph when constants and what no output needs are gone.

    nodes: operators in execution order
    inputs, outputs: names of tensors that are no constants
    dims: tensor -> shape, constants included
    types: tensor -> type
    opsets: domain -> version of the operators
    readers: tensor -> the operators that read it; the graph's outputs are read by `None`
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dims: Mapping[str, Dims]
    types: Mapping[str, onnx.TypeProto]
    opsets: Mapping[str, int]
    constants: Constants
    readers: Mapping[str, tuple[onnx.NodeProto | None, ...]]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a tensor's elements, as numpy has it."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.types[name].tensor_type.elem_type))

    def dynamic(self, node: onnx.NodeProto) -> list[str]:
        """Return the operator's inputs that are no constants, in order."""
        return [name for name in node.input if name and name not in self.constants]


class _Known(dict[str, Dims]):
    """Tensor -> shape; what is read but not known is a fault of the file's."""

    def __missing__(self, name: str) -> Dims:
        raise WorkloadError(
            f"tensor {name!r} is read but has no known shape"
            if name
            else "an operator lacks an input that it must have"
        )


def resolve(file: OnnxFile) -> Graph:
    """Infer every shape, and leave out what no output needs.

    Raises `WorkloadError` if a shape that is needed is not known, or is without elements.
    """
    known = Inference(file)
    outputs = [output.name for output in file.model.graph.output]
    nodes, wanted = _live(known.nodes, outputs, known.constants)
    unknown = [
        node
        for node in nodes
        if any(name in wanted and name not in known.dims for name in node.output)
    ]
    if unknown:
        raise WorkloadError(_refusal(len(known.nodes), unknown, known.reasons))
    return _graph(file, nodes, known)


def _live(
    graph: Sequence[onnx.NodeProto], outputs: Sequence[str], constants: Constants
) -> tuple[tuple[onnx.NodeProto, ...], set[str]]:
    """Return the operators that outputs depend on, but constants' own, and the tensors read."""
    wanted = {*outputs}
    nodes = []
    for node in reversed(graph):
        if any(name in wanted and name not in constants for name in node.output):
            nodes.append(node)
            wanted.update(reads(node))
    return tuple(reversed(nodes)), wanted


def _refusal(total: int, unknown: list[onnx.NodeProto], reasons: Mapping[str, str]) -> str:
    """Say which operators have no output shape, but not those that only stand behind them."""
    lost = {name for node in unknown for name in node.output}
    first = [node for node in unknown if not lost.intersection(reads(node))]
    counts = Counter(n.op_type if is_onnx(n) else f"{n.op_type} ({n.domain})" for n in first)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    because = next((f": {reasons[n]}" for node in first for n in node.output if n in reasons), "")
    return (
        f"the output shapes of {named} cannot be inferred, {len(first)} of the graph's {total} "
        f"nodes ({100 * len(first) / total:.1f}%){because}"
    )


def _graph(file: OnnxFile, nodes: tuple[onnx.NodeProto, ...], known: Inference) -> Graph:
    graph, dims, constants = file.model.graph, _Known(known.dims), known.constants
    readers: dict[str, tuple[onnx.NodeProto | None, ...]] = {}
    for node in nodes:
        for name in dict.fromkeys(reads(node)):
            readers[name] = (*readers.get(name, ()), node)
            if name in constants and name not in dims:
                dims[name] = constants.array(name).shape
            elif name in dims and name not in constants and 0 in dims[name]:
                raise WorkloadError(
                    f"tensor {name!r} has shape {dims[name]}: every dimension must be >= 1"
                )
    outputs = [output.name for output in graph.output if output.name not in constants]
    if not outputs:
        raise WorkloadError("no output depends on an input")
    for name in outputs:
        readers[name] = (*readers.get(name, ()), None)
    inputs = [v.name for v in graph.input if v.name in readers and v.name not in constants]
    return Graph(nodes, (*inputs,), (*outputs,), dims, known.types, file.opsets, constants, readers)
