"""ONNX models made by hand, and an execution of what they are imported as, in float64."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import Node
from bfpsim.workloads.importers.draft import Imported

Values = NDArray[np.float64]
Host = Callable[[Node, list[Values]], Values]

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""Networks without their weights that the onnx package ships."""

TORCH = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
"""Modules that PyTorch exported, each with an input and the output that PyTorch had for it."""


class Model:
    """A model that grows by an operator at a time; tensors are float64 unless said otherwise."""

    def __init__(self, opset: int = 17, kind: int = TensorProto.DOUBLE) -> None:
        self.opset, self.kind = opset, kind
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []

    def input(self, name: str, *dims: int | str | None, kind: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, dims))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.initialisers)}"
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.kind))
        self.initialisers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        made = list(outputs) or [f"t{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, made, **attributes))
        return made[0]

    def proto(self, *outputs: str, **dims: Sequence[int | str]) -> onnx.ModelProto:
        """The model; outputs whose shape is not given have the one that onnx infers, if any."""
        declared = [
            helper.make_tensor_value_info(name, self.kind, dims[name])
            if name in dims
            else onnx.ValueInfoProto(name=name)
            for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, declared, self.initialisers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("own", 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=8, functions=self.functions
        )
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        known = {value.name: value for value in (*inferred.output, *inferred.input)}
        for output in model.graph.output:
            output.CopyFrom(known[output.name])
            if not output.type.HasField("tensor_type"):
                output.type.tensor_type.elem_type = self.kind
        return model

    def save(self, path: Path, *outputs: str, **dims: Sequence[int | str]) -> Path:
        onnx.save(self.proto(*outputs, **dims), str(path))
        return path


class MaxPool(OpRun):
    """The maximum of each window's elements that are there; onnx's own errs with padding."""

    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=0, dilations=None, kernel_shape=None, pads=None,
             storage_order=None, strides=None):  # fmt: skip
        spatial = x.ndim - 2
        strides, pads = strides or [1] * spatial, pads or [0] * 2 * spatial
        node = helper.make_node(
            "MaxPool", ["x"], ["y"], ceil_mode=ceil_mode, kernel_shape=kernel_shape, pads=pads,
            strides=strides,
        )  # fmt: skip
        image = helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)
        y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None] * x.ndim)
        graph = onnx.shape_inference.infer_shapes(
            helper.make_model(
                helper.make_graph([node], "pool", [image], [y]),
                opset_imports=[helper.make_opsetid("", 22)],  # before, ceil_mode had one too many
            )
        ).graph
        out = np.empty([dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim])
        for place in np.ndindex(*out.shape[2:]):
            starts = [i * s - p for i, s, p in zip(place, strides, pads[:spatial], strict=True)]
            window = tuple(
                slice(max(0, start), max(0, start + taps))
                for start, taps in zip(starts, kernel_shape, strict=True)
            )
            elements = x[(slice(None), slice(None), *window)]
            out[(slice(None), slice(None), *place)] = elements.max(axis=tuple(range(2, x.ndim)))
        return (out,)


def evaluate(proto: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The model's outputs by onnx's reference evaluator."""
    return ReferenceEvaluator(proto, new_ops=[MaxPool]).run(None, dict(feeds))


def whole(rng: random.Random, *shape: int, largest: int = 3) -> Values:
    """Small whole numbers: sums and products of them are exact in float64, in any order."""
    count = int(np.prod(shape))
    return np.array([rng.randint(-largest, largest) for _ in range(count)], float).reshape(shape)


def nhwc(values: NDArray[Any]) -> Values:
    """(N, C, H, W), (N, C, L) or (N, C) as a node has it: (N, H, W, C)."""
    array = np.asarray(values, np.float64)
    if array.ndim == 4:
        return array.transpose(0, 2, 3, 1)
    if array.ndim == 3:
        return array.transpose(0, 2, 1)[:, None]
    return array[:, None, None]


def execute(
    imported: Imported, feeds: Mapping[str, Values], host: Mapping[str, Host] | None = None
) -> dict[str, Values]:
    """Every node's output (N, H, W, C), convolutions by torch; ``host`` by function."""
    values: dict[str, Values] = {}
    for node in imported.network.nodes:
        sources = [values[name] for name in node.inputs]
        if node.op == "input":
            values[node.name] = np.asarray(feeds[node.name], np.float64)
        elif node.layer is not None:
            values[node.name] = _convolved(imported, node, sources[0])
        elif node.op == "relu":
            values[node.name] = np.maximum(sources[0], 0)
        elif node.op == "add":
            values[node.name] = np.sum(sources, axis=0)
        elif node.op == "concat":
            values[node.name] = np.concatenate(sources, axis=3)
        elif node.op == "avgpool":
            values[node.name] = sources[0].mean(axis=(1, 2), keepdims=True)
        elif node.op == "maxpool":
            pool = node.pool
            image = torch.from_numpy(np.ascontiguousarray(sources[0].transpose(0, 3, 1, 2)))
            pooled = F.max_pool2d(image, pool.kernel, pool.stride, pool.padding, 1, pool.ceil)
            values[node.name] = pooled.numpy().transpose(0, 2, 3, 1)
        else:
            values[node.name] = (host or {})[node.function](node, sources)
        assert values[node.name].shape == imported.network.shape(node.name), node.name
    return values


def _convolved(imported: Imported, node: Node, source: Values) -> Values:
    layer, own = node.layer, imported.weights[node.name]
    assert own.weight.dtype == own.bias.dtype == np.float32
    assert own.weight.shape == layer.weight_shape
    top, bottom, left, right = layer.paddings
    image = F.pad(torch.from_numpy(source.transpose(0, 3, 1, 2).copy()), (left, right, top, bottom))
    weight, bias = (torch.from_numpy(np.array(part, np.float64)) for part in (own.weight, own.bias))
    output = F.conv2d(image, weight, bias, layer.strides, 0, layer.dilations, layer.G)
    return output.numpy().transpose(0, 2, 3, 1)
