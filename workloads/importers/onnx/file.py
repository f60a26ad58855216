"""An ONNX file: read and checked, its weights set aside, its inputs given their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import checker, external_data_helper, helper, inliner, version_converter

from bfpsim.workloads.layer import WorkloadError, integer

LARGEST_SHAPE = 1024
"""Elements of the largest tensor that may say what shape another has; larger ones are weights."""

# Before opset 7 operands were broadcast by attributes, not by numpy's rules.
_OLDEST_OPSET = 7
_LARGEST_FILE = 2**31 - 1  # bytes, of any protobuf message


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model, and its initialisers beside it.

    model: its inputs have shapes, its functions are inlined, its weights have no data
    initialisers: all of the file's by name, with their data or where it lies
    folder: which the places of external data are relative to
    extents: of the dimensions that the file names
    """

    model: onnx.ModelProto
    initialisers: Mapping[str, onnx.TensorProto]
    folder: Path
    extents: Mapping[str, int]


def read_file(path: Path, shapes: Mapping[str, Sequence[int]]) -> OnnxFile:
    """Read and check a file; ``shapes`` is input name -> dims.

    Raises `WorkloadError` as `onnx.model.import_onnx` says.
    """
    model = _load(path)
    initialisers = {}
    for tensor in model.graph.initializer:
        whole = onnx.TensorProto()
        whole.CopyFrom(tensor)
        initialisers[tensor.name] = whole
        external = external_data_helper.uses_external_data(tensor)
        if math.prod(tensor.dims) > LARGEST_SHAPE:
            # Shape inference copies the model more than once: without its weights it is small.
            name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
            tensor.CopyFrom(onnx.TensorProto(name=name, dims=dims, data_type=kind))
        elif external:
            load_external(tensor, path.parent)
    extents = _set_inputs(model.graph, set(initialisers), shapes)
    try:
        if any(is_onnx(entry) and entry.version < _OLDEST_OPSET for entry in model.opset_import):
            _refuse_axes(model.graph)
            model = version_converter.convert_version(model, _OLDEST_OPSET)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except WorkloadError:
        raise
    except Exception as error:  # of no common class: onnx's C++ raises what it likes
        raise WorkloadError(f"cannot be converted: {one_line(error)}") from None
    return OnnxFile(model, initialisers, path.parent, extents)


def is_onnx(entry: onnx.NodeProto | onnx.OperatorSetIdProto) -> bool:
    """Return whether an operator, or a set of them, is ONNX's own."""
    return entry.domain in ("", "ai.onnx")


def load_external(tensor: onnx.TensorProto, folder: Path) -> None:
    """Give a tensor the data that lie in a file of their own; `WorkloadError` if they do not."""
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:  # likewise
        raise WorkloadError(
            f"tensor {tensor.name!r}: its external data cannot be read: {one_line(error)}"
        ) from None


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks and what follows a blank line."""
    return " ".join(str(error).strip().split("\n\n")[0].split())


def _load(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise WorkloadError(
                f"is {size} bytes, must be at most {_LARGEST_FILE}: larger weights must be "
                "external data"
            )
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
        _check(model, path)
    except OSError as error:
        raise WorkloadError(f"cannot be read: {error.strerror}") from None
    except DecodeError:
        raise WorkloadError("is no ONNX model, or is cut off") from None
    except (checker.ValidationError, UnicodeDecodeError) as error:  # the latter of its message
        raise WorkloadError(f"is no valid ONNX model: {one_line(error)}") from None
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise WorkloadError(f"initialiser {name!r} is sparse, must be dense")
    return model


def _refuse_axes(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if {"broadcast", "axis"} <= {own.name for own in node.attribute}:
            # The converter puts the axes of extent 1 in the wrong place.
            raise WorkloadError(
                f"{node.op_type} {node.output[0]!r} is broadcast along an axis, as before opset "
                f"{_OLDEST_OPSET}: must be converted to that or a later one"
            )


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Check what the standard demands, but not that it is known which shapes in- and outputs have.

    Where external data lie is known for files alone, so models that have some must have shapes too.
    """
    bare = [
        value.type.tensor_type
        for value in (*model.graph.input, *model.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    if not bare or any(map(external_data_helper.uses_external_data, model.graph.initializer)):
        checker.check_model(str(path))
        return
    for tensor in bare:
        tensor.shape.SetInParent()
    checker.check_model(model)
    for tensor in bare:
        tensor.ClearField("shape")


def _set_inputs(
    graph: onnx.GraphProto, initialised: set[str], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Write the given shapes into the graph; return the extents of named dimensions."""
    inputs = [value for value in graph.input if value.name not in initialised]
    names = [value.name for value in inputs]
    for name in shapes:
        if name not in names:
            raise WorkloadError(f"input {name!r} is unknown, must be one of {', '.join(names)}")
    extents: dict[str, int] = {}
    for value in inputs:
        if value.type.WhichOneof("value") != "tensor_type":
            raise WorkloadError(f"input {value.name!r} must be a tensor")
        if value.name in shapes:
            _set_shape(value, shapes[value.name], extents)
    used = {name for node in graph.node for name in reads(node)}
    used.update(output.name for output in graph.output)
    requests = [
        line for value in inputs if value.name in used if (line := _request(value, extents))
    ]
    if requests:
        raise WorkloadError("; ".join(requests))
    return extents


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that an operator reads, those that its subgraphs mention included."""
    names = [name for name in node.input if name]
    for own in node.attribute:
        for graph in (*own.graphs, *([own.g] if own.HasField("g") else [])):
            names += [output.name for output in graph.output]
            names += [name for inner in graph.node for name in reads(inner)]
    return names


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an operator's attribute, text as str, or the default if it is left out."""
    for own in node.attribute:
        if own.name == name:
            value = helper.get_attribute_value(own)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _set_shape(value: onnx.ValueInfoProto, dims: Sequence[int], extents: dict[str, int]) -> None:
    tensor, owner = value.type.tensor_type, f"input {value.name!r}"
    sizes = [integer(owner, "shape", extent) for extent in dims]
    text = "x".join(map(str, sizes))
    if not tensor.HasField("shape"):
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in sizes)
    signature = _signature(value)
    if len(sizes) != len(tensor.shape.dim):
        raise WorkloadError(
            f"{owner}: shape {text} must have the {len(tensor.shape.dim)} dimensions {signature}"
        )
    for dim, size in zip(tensor.shape.dim, sizes, strict=True):
        if dim.dim_param and extents.setdefault(dim.dim_param, size) != size:
            raise WorkloadError(
                f"{owner}: shape {text} gives dimension {dim.dim_param!r} {size}, "
                f"must be {extents[dim.dim_param]} as before"
            )
        if dim.HasField("dim_value") and dim.dim_value != size:
            raise WorkloadError(f"{owner}: shape {text} must agree with {signature}")
        dim.dim_value = size


def _request(value: onnx.ValueInfoProto, extents: Mapping[str, int]) -> str:
    """Return what must be asked for an input's shape, or nothing; known extents are set."""
    tensor, owner = value.type.tensor_type, f"input {value.name!r}"
    if not tensor.HasField("shape"):
        return f"{owner} has no shape; give it, as {value.name}=1x3x224x224"
    signature, unknown, example = _signature(value), [], []
    for dim in tensor.shape.dim:
        if dim.dim_param in extents:
            dim.dim_value = extents[dim.dim_param]
        if not dim.HasField("dim_value"):
            unknown.append(repr(dim.dim_param or "?"))
        elif dim.dim_value < 1:
            raise WorkloadError(f"{owner} has shape {signature}: every dimension must be >= 1")
        example.append(str(dim.dim_value or 1))
    if not unknown:
        return ""
    are = "dimension {} is" if len(unknown) == 1 else "dimensions {} are"
    return (
        f"{owner} has shape {signature}: {are.format(', '.join(unknown))} dynamic; "
        f"give its shape, as {value.name}={'x'.join(example)}"
    )


def _signature(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    extents = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    return f"({', '.join(extents)})"
