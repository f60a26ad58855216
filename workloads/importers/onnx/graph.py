"""The part of an ONNX graph that its outputs need, with every tensor's shape and the constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from bfpsim.workloads.importers.onnx.file import (
    LARGEST_SHAPE,
    OnnxFile,
    is_onnx,
    load_external,
    one_line,
    reads,
)
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

# What stands before each complaint of onnx's shape inference, with the operator's type.
_COMPLAINT = "(op_type:"
_RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip

# The evaluator knows no older ones; for int8 and uint8 they do the same.
_OLDEST_QUANTISERS = 19


@dataclass(frozen=True)
class Graph:
    """What is left of an ONNX graph when constants and what no output needs are gone.

    nodes: operators in execution order
    inputs, outputs: names of tensors that are no constants
    dims: tensor -> shape, constants included
    readers: tensor -> the operators that read it; the graph's outputs are read by `None`
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dims: Mapping[str, Dims]
    constants: Constants
    readers: Mapping[str, tuple[onnx.NodeProto | None, ...]]

    def dynamic(self, node: onnx.NodeProto) -> list[str]:
        """Return the operator's inputs that are no constants, in order."""
        return [name for name in node.input if name and name not in self.constants]


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

    def finite(self, name: str) -> NDArray[Any]:
        """Return the value of a constant that is multiplied or added, as `array` does.

        Raises `WorkloadError` if it holds NaN or Inf, too.
        """
        value = self.array(name)
        if not all_finite(value):
            raise WorkloadError(f"tensor {name!r} holds NaN or Inf")
        return value

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant's value; masks hold -Inf.

        Raises `WorkloadError`, naming the tensor, if it has no data or cannot be evaluated.
        """
        maker = self._makers.get(name)
        if name in self._stored:
            return self._initialiser(name)
        if maker is not None and maker.op_type == "ConstantOfShape":
            # All elements are one in memory: files without weights fill theirs in this way.
            fill = next((numpy_helper.to_array(a.t) for a in maker.attribute), np.float32(0))
            return np.broadcast_to(fill.reshape(()), tuple(self.array(maker.input[0])))
        return self._evaluate(name)

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

    def _evaluate(self, name: str) -> NDArray[Any]:
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
        inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
        outputs = [name for name in node.output if name]
        graph = helper.make_graph(
            [node], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in outputs]
        )
        opsets = self._opsets
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            opsets = {**opsets, "": max(opsets[""], _OLDEST_QUANTISERS)}
        values: Any = ReferenceEvaluator(graph, opsets=opsets).run(
            None, {value.name: feeds[value.name] for value in inputs}
        )
        feeds.update({name: np.asarray(value) for name, value in zip(outputs, values, strict=True)})

    def _shape(self, node: onnx.NodeProto) -> NDArray[Any]:
        dims = self._dims[node.input[0]]
        if node.op_type == "Size":
            return np.array(int(np.prod(dims)), np.int64)
        bounds: dict[str, int] = {a.name: a.i for a in node.attribute}
        return np.array(dims[bounds.get("start", 0) : bounds.get("end")], np.int64)


def resolve(file: OnnxFile) -> Graph:
    """Infer every shape.

    Where onnx's inference stops at a shape that is computed, the computation is evaluated and
    inference run again; where it knows no rule, the shape that the file declares is taken.
    Raises `WorkloadError` if there is none, or one is without elements.
    """
    declared = _drop_shapes(file)
    assumed: dict[str, onnx.ValueInfoProto] = {}
    file = _inline_attention(file)
    while True:
        model, reason = _infer(file.model)
        file = replace(file, model=model)
        dims = _shapes(model.graph)
        constants = Constants(file, dims)
        nodes, wanted = _live(model.graph, constants)
        unknown = [node for node in nodes if _unknown(node, wanted, dims)]
        if not unknown:
            return _graph(model.graph, nodes, dims, constants)
        blameless = [
            n for n in unknown if not is_onnx(n) or f"{_COMPLAINT}{n.op_type}" not in reason
        ]
        if not _store(model.graph, unknown, constants) and not _assume(
            blameless, declared, assumed
        ):
            raise WorkloadError(_refusal(len(model.graph.node), unknown, reason))
        _forget(model.graph, assumed.values())


def _drop_shapes(file: OnnxFile) -> dict[str, onnx.ValueInfoProto]:
    """Remove what the file says of shapes: it holds only for the inputs it was written for."""
    graph = file.model.graph
    declared = {}
    for value in (*graph.value_info, *graph.output):
        shape = value.type.tensor_type.shape
        extents = [file.extents.get(d.dim_param, d.dim_value) for d in shape.dim]
        if value.type.tensor_type.HasField("shape") and min(extents, default=1) > 0:
            kind = value.type.tensor_type.elem_type
            declared[value.name] = helper.make_tensor_value_info(value.name, kind, extents)
    _forget(graph, [])
    return declared


def _forget(graph: onnx.GraphProto, assumed: Iterable[onnx.ValueInfoProto]) -> None:
    """Leave no shape in the graph but its inputs' and those that are assumed."""
    del graph.value_info[:]
    graph.value_info.extend(assumed)
    inputs = {value.name for value in graph.input}
    for output in graph.output:
        if output.type.HasField("tensor_type") and output.name not in inputs:
            output.type.tensor_type.ClearField("shape")


def _inline_attention(file: OnnxFile) -> OnnxFile:
    """Write attention out as the products that it is made of."""
    if not any(n.op_type == "Attention" and is_onnx(n) for n in file.model.graph.node):
        return file
    model, _ = _infer(file.model)  # which products they are depends on ranks
    try:
        model = inliner.inline_selected_functions(
            model, [("", "Attention")], inline_schema_functions=True
        )
    except Exception as error:  # of no common class
        raise WorkloadError(f"Attention cannot be written out: {one_line(error)}") from None
    return replace(file, model=model)


def _infer(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return the model with shapes, and what strict inference found wrong with it, if anything."""
    reason = ""
    for strict in (True, False):
        try:
            return shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True), reason
        except shape_inference.InferenceError as error:
            reason = one_line(error)
        except Exception as error:  # of no common class: onnx's C++ raises what it likes
            reason = one_line(error)
            break
    raise WorkloadError(f"shapes cannot be inferred: {reason}")


def _shapes(graph: onnx.GraphProto) -> dict[str, Dims]:
    dims = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            dims[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    dims.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    return dims


def _live(
    graph: onnx.GraphProto, constants: Constants
) -> tuple[tuple[onnx.NodeProto, ...], set[str]]:
    """Return the operators that outputs depend on, but constants' own, and the tensors read."""
    wanted = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(name in wanted and name not in constants for name in node.output):
            nodes.append(node)
            wanted.update(reads(node))
    return tuple(reversed(nodes)), wanted


def _unknown(node: onnx.NodeProto, wanted: set[str], dims: Mapping[str, Dims]) -> list[str]:
    """Return the operator's outputs that are read but have no shape yet."""
    return [name for name in node.output if name in wanted and name not in dims]


def _store(graph: onnx.GraphProto, unknown: list[onnx.NodeProto], constants: Constants) -> bool:
    """Store what is computed of constants for operators without an output shape; False if nothing.

    Such an operator may say its output's shape by its value, which inference could not see.
    """
    stored = {tensor.name for tensor in graph.initializer}
    changed = False
    for name in dict.fromkeys(name for node in unknown for name in node.input):
        if name in constants and name not in stored:
            array = constants.array(name)
            maker = next(node for node in graph.node if name in node.output)
            if array.size <= LARGEST_SHAPE and len(maker.output) == 1:
                graph.initializer.append(numpy_helper.from_array(array, name))
                graph.node.remove(maker)
                changed = True
    return changed


def _assume(
    unknown: list[onnx.NodeProto],
    declared: Mapping[str, onnx.ValueInfoProto],
    assumed: dict[str, onnx.ValueInfoProto],
) -> bool:
    """Take what the file declares of outputs of unknown shape; False if that is nothing new."""
    names = [name for node in unknown for name in node.output]
    new = {name: declared[name] for name in names if name in declared and name not in assumed}
    assumed.update(new)
    return bool(new)


def _refusal(total: int, unknown: list[onnx.NodeProto], reason: str) -> str:
    """Say which operators have no output shape, but not those that only stand behind them."""
    lost = {name for node in unknown for name in node.output}
    first = [n for n in unknown if not is_onnx(n) or not lost.intersection(reads(n))]
    counts = Counter(n.op_type if is_onnx(n) else f"{n.op_type} ({n.domain})" for n in first)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    # What one operator lacks, those behind it lack too: only the first complaint says something.
    because = ": " + _COMPLAINT.join(reason.split(_COMPLAINT)[:2]).strip() if reason else ""
    return (
        f"the output shapes of {named} cannot be inferred, {len(first)} of the graph's {total} "
        f"nodes ({100 * len(first) / total:.1f}%){because}"
    )


def _graph(
    graph: onnx.GraphProto,
    nodes: tuple[onnx.NodeProto, ...],
    dims: dict[str, Dims],
    constants: Constants,
) -> Graph:
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
    return Graph(nodes, tuple(inputs), tuple(outputs), dims, constants, readers)


def all_finite(values: NDArray[Any]) -> bool:
    """Return whether no element is NaN or Inf; anything but floats is finite."""
    if values.dtype.kind != "f":
        return True
    # Without a temporary array: the float64 sum of anything narrower is finite exactly then.
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float64)))
