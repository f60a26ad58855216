"""An ONNX file: read and checked, its weights set aside, its inputs given their shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import checker, external_data_helper, helper, inliner, version_converter

from bfpsim.workloads.layer import WorkloadError, integer

LARGEST_SHAPE = 1024
"""Elements of the largest tensor that may say what shape another has; larger ones are weights."""

# Before opset 7 operands were broadcast by attributes, not by numpy's rules.
_OLDEST_OPSET = 7
_LARGEST_FILE = 2**31 - 1  # bytes, of any protobuf message


_OPEN = -1  # an extent that some exporters write where they should name one; or "?" as its name
# Of the graph when its functions are written out, which they may be again and again.
_MOST_NODES = 2**17
_MOST_BYTES = 2**28
_DEEPEST = 64  # function within function

# These have their input's shape, which onnx's rules leave open; at some opsets its checker refuses
# what exporters write there.
SAME_SHAPE = ("GroupNormalization", "MeanVarianceNormalization")
_UNCHECKED = "bfpsim"  # a domain whose operators onnx does not check

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model, and its initialisers beside it.

    model: its inputs have shapes, its functions are inlined, its weights have no data
    initialisers: all of the file's by name, with their data or where it lies
    folders: which the places of external data are relative to, the likeliest first
    extents: of the dimensions that the file names
    values: of inputs that have a fixed one
    """

    model: onnx.ModelProto
    initialisers: Mapping[str, onnx.TensorProto]
    folders: Sequence[Path]
    extents: Mapping[str, int]
    values: Values

    @property
    def opsets(self) -> dict[str, int]:
        """Domain -> version of the operators."""
        opsets = {entry.domain: entry.version for entry in self.model.opset_import}
        opsets.setdefault("", opsets.get("ai.onnx", 1))
        return opsets


def read_file(path: Path, shapes: Mapping[str, Sequence[int]], values: Values) -> OnnxFile:
    """Read and check a file; ``shapes`` is input name -> dims, ``values`` input name -> value.

    Raises `WorkloadError` as `onnx.model.import_onnx` says.
    """
    model = _load(path)
    # Data lie beside the file, or beside what a link of that name leads to.
    folders = list(dict.fromkeys((path.parent, path.resolve().parent)))
    initialisers = {}
    for tensor in model.graph.initializer:
        whole = onnx.TensorProto()
        whole.CopyFrom(tensor)
        initialisers[tensor.name] = whole
        if math.prod(tensor.dims) > LARGEST_SHAPE:
            # What inlines functions copies the model: without its weights it is small.
            name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
            tensor.CopyFrom(onnx.TensorProto(name=name, dims=dims, data_type=kind))
    for tensor in _tensors(model.graph):
        if external_data_helper.uses_external_data(tensor):
            load_external(tensor, folders)
    known = _set_values(model.graph, set(initialisers), values)
    extents = _set_inputs(model.graph, set(initialisers), shapes)
    _check_expansion(model)
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
    return OnnxFile(model, initialisers, folders, extents, known)


def is_onnx(entry: onnx.NodeProto | onnx.OperatorSetIdProto) -> bool:
    """Return whether an operator, or a set of them, is ONNX's own."""
    return entry.domain in ("", "ai.onnx")


def load_external(tensor: onnx.TensorProto, folders: Sequence[Path]) -> None:
    """Give a tensor the data that lie in a file of their own; `WorkloadError` if they do not.

    The file must lie in one of the folders or below; it may be a link to anywhere, as in caches of
    downloaded models. onnx's own function follows no links.
    """
    owner = f"tensor {tensor.name!r}"
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise WorkloadError(
            f"{owner}: its external data are said to be at {location!r}; allowed: a file beside "
            "the model or below"
        )
    file = next((file for f in folders if (file := f / location).is_file()), None)
    if file is None:
        raise WorkloadError(
            f"{owner}: its external data cannot be read: there is no file "
            f"{str(folders[0] / location)!r}; it must lie beside the model, under that name"
        )
    try:
        size, offset = file.stat().st_size, int(place.get("offset") or 0)
        length = int(place["length"]) if place.get("length") else max(0, size - offset)
    except ValueError:
        raise WorkloadError(f"{owner}: offset and length of its data must be numbers") from None
    if offset < 0 or not 0 <= length <= size - offset:
        raise WorkloadError(
            f"{owner}: its external data are {length} bytes from {offset} on of {location!r}, "
            f"which has {size}"
        )
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
    except OSError as error:
        raise WorkloadError(
            f"{owner}: its external data cannot be read: {error.strerror}"
        ) from None
    tensor.ClearField("data_location")
    del tensor.external_data[:]


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
        _check(model)
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


def _check(model: onnx.ModelProto) -> None:
    """Check what the standard demands, but for three things that onnx's checker is too strict in.

    It demands known shapes of in- and outputs, refuses `SAME_SHAPE` at some opsets, and asks where
    external data lie, but follows no links there.
    """
    bare = [
        value.type.tensor_type
        for value in (*model.graph.input, *model.graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    nodes = [*_nodes(model.graph), *(own for f in model.functions for own in f.node)]
    same = [own for own in nodes if is_onnx(own) and own.op_type in SAME_SHAPE]
    domains = [own.domain for own in same]
    external = [*filter(external_data_helper.uses_external_data, _tensors(model.graph))]
    places = [(list(tensor.dims), list(tensor.external_data)) for tensor in external]
    for tensor in bare:
        tensor.shape.SetInParent()
    for own in same:
        own.domain = _UNCHECKED
    for stored in external:
        stored.dims[:] = [0]
        stored.ClearField("data_location")
        del stored.external_data[:]
    model.opset_import.append(helper.make_opsetid(_UNCHECKED, 1))
    try:
        checker.check_model(model)
    finally:
        del model.opset_import[-1]
        for tensor in bare:
            tensor.ClearField("shape")
        for own, domain in zip(same, domains, strict=True):
            own.domain = domain
        for stored, (dims, entries) in zip(external, places, strict=True):
            stored.dims[:] = dims
            stored.data_location = onnx.TensorProto.EXTERNAL
            stored.external_data.extend(entries)


def _check_expansion(model: onnx.ModelProto) -> None:
    """Refuse functions that call each other so often that the graph does not end, or nearly."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}  # operators, bytes

    def size(nodes: Iterable[onnx.NodeProto], outer: tuple[str, ...]) -> tuple[int, int]:
        count, weight = 0, 0
        for node in nodes:
            key = node.domain, node.op_type, node.overload
            if key in functions and key not in sizes:
                if node.op_type in outer or len(outer) > _DEEPEST:
                    raise WorkloadError(
                        f"function {node.op_type!r} calls itself, or lies within more than "
                        f"{_DEEPEST} others"
                    )
                body = (each for own in functions[key].node for each in (own, *_within(own)))
                sizes[key] = size(body, (*outer, node.op_type))
            more, bytes_ = sizes.get(key, (1, node.ByteSize()))
            count, weight = count + more, weight + bytes_
        return count, weight

    if not functions:
        return
    count, weight = size(_nodes(model.graph), ())
    if count > _MOST_NODES or weight > _MOST_BYTES:
        raise WorkloadError(
            f"its functions, written out, are {count} operators of {weight} bytes; allowed: "
            f"{_MOST_NODES} of {_MOST_BYTES}"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield a graph's operators, those of subgraphs included."""
    for node in graph.node:
        yield node
        yield from _within(node)


def _within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for graph in _subgraphs(node):
        yield from _nodes(graph)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for own in node.attribute:
        if own.HasField("g"):
            yield own.g
        yield from own.graphs


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield a graph's tensors: initialisers and attributes, those of subgraphs included."""
    yield from graph.initializer
    for node in _nodes(graph):
        for own in node.attribute:
            if own.HasField("t"):
                yield own.t
            yield from own.tensors
        for inner in _subgraphs(node):
            yield from inner.initializer


def _set_values(graph: onnx.GraphProto, initialised: set[str], values: Values) -> Values:
    """Return the given values in their inputs' types; those are no inputs any more."""
    inputs = {value.name: value for value in graph.input if value.name not in initialised}
    known = {}
    for name, given in values.items():
        if name not in inputs:
            raise WorkloadError(f"input {name!r} is unknown, must be one of {', '.join(inputs)}")
        tensor = inputs[name].type.tensor_type
        signature = _signature(inputs[name])
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        value = np.asarray(given)
        fits = len(tensor.shape.dim) in (value.ndim, 1) or not tensor.HasField("shape")
        if not fits or value.dtype.kind not in "biuf":
            raise WorkloadError(
                f"input {name!r}: value of shape {value.shape} must be numbers of {signature}"
            )
        if value.ndim == 0 and len(tensor.shape.dim) == 1:
            value = value.reshape(1)
        with np.errstate(invalid="ignore", over="ignore"):
            known[name] = value.astype(kind)
        if not np.array_equal(known[name].astype(np.float64), value.astype(np.float64)):
            raise WorkloadError(f"input {name!r}: value {given!r} must be of type {kind}")
        tensor.CopyFrom(helper.make_tensor_type_proto(tensor.elem_type, value.shape).tensor_type)
    return known


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
        for dim in value.type.tensor_type.shape.dim:
            if (dim.HasField("dim_value") and dim.dim_value == _OPEN) or dim.dim_param == "?":
                dim.Clear()
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


def needs(node: onnx.NodeProto) -> list[str]:
    """Return what an operator reads, "" where an input is left out, then what its bodies read.

    Of bodies it is what is made around them alone.
    """
    names = [*node.input]
    for own in node.attribute:
        for graph in (*own.graphs, *([own.g] if own.HasField("g") else [])):
            inner = {value.name for value in graph.input} | {t.name for t in graph.initializer}
            for each in graph.node:
                names += [name for name in needs(each) if name and name not in inner]
                inner.update(each.output)
            made = (output.name for output in graph.output)
            names += [name for name in made if name not in inner]
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
