"""Tensors of an ONNX graph that no input changes, evaluated when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bfpsim.workloads.importers.onnx.file import Dims, OnnxFile, is_onnx, load_external, one_line
from bfpsim.workloads.layer import WorkloadError

_RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip

# The evaluator knows no older ones; for int8 and uint8 they do the same.
_OLDEST_QUANTISERS = 19


def all_finite(values: NDArray[Any]) -> bool:
    """Return whether no element is NaN or Inf; anything but floats is finite."""
    if values.dtype.kind != "f":
        return True
    # Without a temporary array: the float64 sum of anything narrower is finite exactly then.
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float64)))


class Constants:
    """Initialisers and what is computed from them alone, or from known shapes.

    dims: the shapes known so far, by tensor
    """

    def __init__(self, file: OnnxFile, dims: Mapping[str, Dims]) -> None:
        self._file, self._dims = file, dims
        graph = file.model.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._makers: dict[str, onnx.NodeProto] = {}
        self._opsets = {entry.domain: entry.version for entry in file.model.opset_import}
        self._opsets.setdefault("", self._opsets.get("ai.onnx", 1))
        for node in graph.node:
            if self._is_constant(node):
                self._makers.update(dict.fromkeys(node.output, node))

    def __contains__(self, name: str) -> bool:
        return name in self._stored or name in self._makers

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant's value.

        Raises `WorkloadError`, naming the tensor, if it has no data, holds NaN or Inf, or cannot
        be evaluated.
        """
        maker = self._makers.get(name)
        if name in self._stored:
            value = self._initialiser(name)
        elif maker is not None and maker.op_type == "ConstantOfShape":
            # All elements are one in memory: files without weights fill theirs in this way.
            fill = next((numpy_helper.to_array(a.t) for a in maker.attribute), np.float32(0))
            value = np.broadcast_to(fill.reshape(()), tuple(self.array(maker.input[0])))
        else:
            value = self._evaluated(name)
        if not all_finite(value):
            raise WorkloadError(f"tensor {name!r} holds NaN or Inf")
        return value

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        if not is_onnx(node) or any(a.HasField("g") or a.graphs for a in node.attribute):
            return False
        if node.op_type in ("Shape", "Size"):
            return node.input[0] in self._dims
        read = [name for name in node.input if name]
        if node.op_type in _RANDOM or not (read or node.op_type == "Constant"):
            return False
        return all(name in self for name in read)

    def _initialiser(self, name: str) -> NDArray[Any]:
        tensor = self._file.initialisers.get(name, self._stored[name])
        if external_data_helper.uses_external_data(tensor):
            stored, tensor = tensor, onnx.TensorProto()
            tensor.CopyFrom(stored)
            load_external(tensor, self._file.folder)
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise WorkloadError(f"tensor {name!r} cannot be read: {one_line(error)}") from None

    def _evaluated(self, name: str) -> NDArray[Any]:
        """Run the part of the graph that makes a constant."""
        nodes: dict[int, onnx.NodeProto] = {}
        feeds: dict[str, NDArray[Any]] = {}
        waiting, seen = [name], {name}
        while waiting:
            wanted = waiting.pop()
            maker = self._makers.get(wanted)
            if wanted in self._stored or maker is None:
                feeds[wanted] = self._initialiser(wanted)
            elif maker.op_type in ("Shape", "Size"):
                feeds[wanted] = self._shape(maker)
            else:
                nodes[id(maker)] = maker
                new = [source for source in maker.input if source and source not in seen]
                seen.update(new)
                waiting += new
        try:
            for place in dict.fromkeys(map(id, self._makers.values())):  # in the graph's order
                if place in nodes:
                    self._run(nodes[place], feeds)
        except Exception as error:  # evaluators of operators raise what they like
            raise WorkloadError(
                f"tensor {name!r} is constant but cannot be evaluated: {one_line(error)}"
            ) from None
        return feeds[name]

    def _run(self, node: onnx.NodeProto, feeds: dict[str, NDArray[Any]]) -> None:
        read = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
        made = [name for name in node.output if name]
        graph = helper.make_graph(
            [node], "constant", read, [onnx.ValueInfoProto(name=name) for name in made]
        )
        opsets = self._opsets
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            opsets = {**opsets, "": max(opsets[""], _OLDEST_QUANTISERS)}
        values: Any = ReferenceEvaluator(graph, opsets=opsets).run(
            None, {value.name: feeds[value.name] for value in read}
        )
        feeds.update({name: np.asarray(value) for name, value in zip(made, values, strict=True)})

    def _shape(self, node: onnx.NodeProto) -> NDArray[Any]:
        dims = self._dims[node.input[0]]
        if node.op_type == "Size":
            return np.array(int(np.prod(dims)), np.int64)
        bounds: dict[str, int] = {a.name: a.i for a in node.attribute}
        return np.array(dims[bounds.get("start", 0) : bounds.get("end")], np.int64)
