"""Every tensor's type and shape in an ONNX graph, operator by operator in their order.

Inputs have shapes, so what is computed from shapes is known, too: it is evaluated where onnx's rule
for an operator needs it, and nowhere else. A rule never sees a shape that is none: the C++ behind
some of them ends the process. Branches that are decided take the place of their `If`; attention
and quantised operators are written out as the products that they are made of.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, inliner, numpy_helper, shape_inference

from bfpsim.workloads.importers.onnx.constants import Constants
from bfpsim.workloads.importers.onnx.file import (
    SAME_SHAPE,
    OnnxFile,
    attribute,
    is_onnx,
    one_line,
    reads,
)
from bfpsim.workloads.importers.onnx.quantised import written_in_floats
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

# Written out, these are products of tensors.
_PRODUCTS = ("Attention", "CausalConvWithState", "LinearAttention")
_WRITTEN_OUT = "bfpsim"  # the domain of functions that they are written out as
_BOOL, _INT = onnx.TensorProto.BOOL, onnx.TensorProto.INT64
_AXES = ("axes", "axis", "batch_axis", "perm", "time_axis")
_TERM = rb"(?:[A-Za-z ]|\.\.\.)*"
_EQUATION = re.compile(rb"%b(?:,%b)*(?:->%b)?" % (_TERM, _TERM, _TERM))
_FLOATS = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
_MOST_NODES = 2**18

Types = MutableMapping[str, onnx.TypeProto]


class Inference:
    """The types, shapes and constants of a graph, as far as they are known.

    nodes: operators so far, in execution order; what was written out is, and bodies have shapes
    types: tensor -> type; its shape may be left open
    dims: tensor -> shape, where it is known
    reasons: tensor -> why its shape is not known, where something more can be said than that
    """

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        self._opsets = [helper.make_opsetid("", file.opsets[""])]
        self._opsets += [entry for entry in file.model.opset_import if not is_onnx(entry)]
        self._declared = _declared(file)
        self._walked = count(1)
        self._made: MutableMapping[str, onnx.NodeProto] = ChainMap({})
        self.nodes: list[onnx.NodeProto] = []
        self.types: Types = ChainMap({})
        self.dims: MutableMapping[str, Dims] = ChainMap({})
        self.reasons: dict[str, str] = {}
        self.constants = Constants(file, self.dims)
        graph = file.model.graph
        for value in graph.input:
            self._know(value.name, value.type)
        for tensor in graph.initializer:
            self._know_tensor(tensor)
        for name, value in file.values.items():
            self.constants.keep(name, value)
        self.walk(graph.node)

    def walk(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Infer what operators compute, one after the other."""
        for node in nodes:
            if next(self._walked) > _MOST_NODES:
                raise WorkloadError(f"more than {_MOST_NODES} operators are refused")
            if is_onnx(node) and node.op_type == "If" and self._take_branch(node):
                continue
            if is_onnx(node) and node.op_type in _PRODUCTS and self._write_out(node):
                continue
            floats = written_in_floats(node, self.dims, self.types)
            if floats is not None:
                self._splice(floats, node)
                continue
            if is_onnx(node) and node.op_type == "CastLike":
                node = self._cast(node)
            self.nodes.append(node)
            self._made.update({name: node for name in node.output if name})
            self._infer(node)

    def _infer(self, node: onnx.NodeProto) -> None:
        shape = node.op_type in ("Shape", "Size") and is_onnx(node)
        if shape and node.input[0] in self.dims:
            self.constants.keep(node.output[0], _extents(node, self.dims[node.input[0]]))
            constant = True
        else:
            constant = not shape and self.constants.make(node)
        found, reason = self._attempt(node, compute=False)
        if not reason and not _has_bodies(node) and not self._complete(node, found):
            found, reason = self._attempt(node, compute=True)
        for name in filter(None, node.output):
            if name in found:
                reason = reason or _fault(name, found[name])
                if not reason:
                    self._know(name, found[name])
            if name not in self.dims and constant and name == node.output[0]:
                value = self.constants.shrunk(node)
                if value is not None:
                    self.constants.keep(name, value)
                    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                    self._know(name, helper.make_tensor_type_proto(kind, value.shape))
            if name not in self.dims and not reason and self._agrees(name):
                self._know(name, self._declared[name])
            if name not in self.dims:
                # Of what stands behind an unknown tensor, its reason is the reason.
                before = (self.reasons[read] for read in node.input if read in self.reasons)
                if reason := reason or next(before, ""):
                    self.reasons.setdefault(name, reason)

    def _attempt(
        self, node: onnx.NodeProto, *, compute: bool
    ) -> tuple[Mapping[str, onnx.TypeProto], str]:
        """Return what is found of an operator's outputs, and what is wrong with it, if anything."""
        read = dict.fromkeys(name for name in node.input if name)
        if any(name not in self.types for name in read):
            return {}, ""  # what stands before it is not known
        if is_onnx(node) and node.op_type in SAME_SHAPE:
            first, made = (next(iter(names), "") for names in (node.input, node.output))
            return {made: self.types[first]} if first and made else {}, ""
        if _has_bodies(node):
            before = len(self.reasons)
            found, reason = self._bodies(node)
            within = next(iter([*self.reasons.values()][before:]), "")
            return found, reason if self._complete(node, found) else reason or within
        domain = "" if is_onnx(node) else node.domain
        try:
            schema = defs.get_schema(node.op_type, self._file.opsets.get(domain, 1), domain)
        except defs.SchemaError:
            return {}, ""
        data = {}
        for name in read:
            value = self.constants.small(name, compute=compute)
            if value is not None and value.dtype.kind in "biuf":
                data[name] = numpy_helper.from_array(value, name)
        types = {name: self.types[name] for name in read}
        if wrong := _wrong_attribute(node, types.values()):
            return {}, wrong
        for singles in (False, True):
            if singles:
                types = {name: _single(kind) for name, kind in types.items()}
            try:
                return shape_inference.infer_node_outputs(
                    schema,
                    node,
                    types,
                    data,
                    opset_imports=self._opsets,
                    ir_version=self._file.model.ir_version,
                ), ""
            except Exception as error:  # of no common class: onnx's C++ raises what it likes
                name = next(filter(None, node.output), "")
                reason = f"{node.op_type} {name!r}: {one_line(error)}"
                if "unsupported type" not in reason:
                    break
        return {}, reason

    def _complete(self, node: onnx.NodeProto, found: Mapping[str, onnx.TypeProto]) -> bool:
        return all(name in found and _dims(found[name]) is not None for name in node.output if name)

    def _agrees(self, name: str) -> bool:
        """Return whether the file declares a shape that contradicts nothing that is known."""
        if name not in self._declared:
            return False
        known = self.types.get(name)
        if known is None or not known.tensor_type.HasField("shape"):
            return True
        own, said = known.tensor_type.shape.dim, self._declared[name].tensor_type.shape.dim
        return len(own) == len(said) and all(
            not one.HasField("dim_value") or one.dim_value == other.dim_value
            for one, other in zip(own, said, strict=True)
        )

    def _know(self, name: str, kind: onnx.TypeProto) -> None:
        self.types[name] = kind
        dims = _dims(kind)
        if dims is not None:
            self.dims[name] = dims

    def _know_tensor(self, tensor: onnx.TensorProto) -> None:
        self._know(tensor.name, helper.make_tensor_type_proto(tensor.data_type, tensor.dims))

    # --- what takes the place of an operator -----------------------------------------------------

    def _take_branch(self, node: onnx.NodeProto) -> bool:
        """Put the branch of a decided If in its place; return whether it is decided."""
        condition = self.constants.small(node.input[0])
        if condition is None or condition.size != 1:
            return False
        taken = "then_branch" if condition.reshape(()) else "else_branch"
        self._splice(attribute(node, taken, None), node)
        return True

    def _write_out(self, node: onnx.NodeProto) -> bool:
        """Put the products that an operator is made of in its place."""
        read = [name for name in dict.fromkeys(node.input) if name]
        if any(name not in self.types for name in read):
            return False
        try:
            model = inliner.inline_local_functions(self._written_out(node))
        except Exception as error:  # of no common class
            raise WorkloadError(
                f"{node.op_type} {node.output[0]!r} cannot be written out: {one_line(error)}"
            ) from None
        self._splice(model.graph, node)
        return True

    def _written_out(self, node: onnx.NodeProto) -> onnx.ModelProto:
        """Return a model of an operator as a call of the function that onnx writes it as."""
        opset = self._file.opsets[""]
        schema: Any = defs.get_schema(node.op_type, opset, "")  # its stubs lack what is used here
        body = onnx.FunctionProto.FromString(
            schema.get_context_dependent_function_with_opset_version(
                max(v for v in schema.context_dependent_function_opset_versions if v <= opset),
                node.SerializeToString(),
                [self.types[name].SerializeToString() if name else b"" for name in node.input],
            )
        )
        body.domain = _WRITTEN_OUT
        del body.opset_import[:]
        body.opset_import.extend(self._opsets[:1])
        call = onnx.NodeProto()
        call.CopyFrom(node)
        call.domain = _WRITTEN_OUT
        read = dict.fromkeys(name for name in node.input if name)
        graph = helper.make_graph(
            [call],
            "operator",
            [onnx.ValueInfoProto(name=name, type=self.types[name]) for name in read],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        return helper.make_model(
            graph,
            functions=[body],
            opset_imports=[*self._opsets[:1], helper.make_opsetid(_WRITTEN_OUT, 1)],
            ir_version=max(8, self._file.model.ir_version),
        )

    def _cast(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return a CastLike of a constant as the Cast that it is."""
        like = self.types.get(node.input[1])
        if node.input[0] not in self.constants or like is None:
            return node
        to = like.tensor_type.elem_type
        return helper.make_node("Cast", node.input[:1], node.output, node.name, to=to)

    def _splice(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """Walk a graph in an operator's place, its own tensors under names that are free."""
        made = [name for own in graph.node for name in own.output if name]
        made += [tensor.name for tensor in graph.initializer]
        # A branch has an output for each of its If's, what is written out for each that has a name.
        names = [name for name in node.output if name or node.op_type == "If"]
        outputs = [
            (output.name, name) for output, name in zip(graph.output, names, strict=False) if name
        ]
        new = {inner: name for inner, name in reversed(outputs) if inner in made}
        title, taken = node.name or outputs[0][1], {*node.output}
        for name in made:
            free, number = name, 2
            while name not in new and (
                free in taken or free in self.types or free in self._made or free in new
            ):
                free, number = f"{title}.{name}" + (f".{number}" if number > 2 else ""), number + 1
            if name not in new:
                taken.add(free)
                new[name] = free
        for tensor in graph.initializer:
            name = new.get(tensor.name, tensor.name)
            self.constants.store(tensor, name)
            self._know(name, helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
        self.walk(_renamed(own, new) for own in graph.node)
        self.walk(
            helper.make_node("Identity", [new.get(inner, inner)], [name])
            for inner, name in outputs
            if new.get(inner, inner) != name
        )

    # --- operators with graphs of their own ------------------------------------------------------

    def _bodies(self, node: onnx.NodeProto) -> tuple[Mapping[str, onnx.TypeProto], str]:
        if node.op_type == "If" and is_onnx(node):
            branches = [
                self._body(attribute(node, name, None), [])
                for name in ("then_branch", "else_branch")
            ]
            return self._merged(node, branches)
        if node.op_type == "Loop" and is_onnx(node):
            return self._loop(node), ""
        if node.op_type == "Scan" and is_onnx(node) and self._file.opsets[""] > 8:
            return self._scan(node), ""
        return {}, ""

    def _body(
        self, graph: onnx.GraphProto, inputs: Sequence[onnx.TypeProto]
    ) -> list[onnx.TypeProto | None]:
        """Infer a body's shapes, note them in it, and return its outputs' types."""
        inner = Inference.__new__(Inference)
        inner._file, inner._opsets = self._file, self._opsets
        inner._declared, inner.reasons, inner.nodes = {}, self.reasons, []
        inner._walked = self._walked
        inner._made = ChainMap({}, self._made)
        inner.types, inner.dims = ChainMap({}, self.types), ChainMap({}, self.dims)
        inner.constants = self.constants.within(inner.dims)
        for value, kind in zip(graph.input, inputs, strict=False):
            inner._know(value.name, kind)
        for tensor in graph.initializer:
            inner.constants.store(tensor)
            inner._know_tensor(tensor)
        inner.walk(list(graph.node))
        nodes = [onnx.NodeProto.FromString(own.SerializeToString()) for own in inner.nodes]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.value_info.extend(
            onnx.ValueInfoProto(name=name, type=inner.types[name])
            for node in nodes
            for name in node.output
            if name in inner.dims
        )
        for value, kind in zip(graph.input, inputs, strict=False):
            value.type.CopyFrom(kind)
        return [inner.types.get(output.name) for output in graph.output]

    def _merged(
        self, node: onnx.NodeProto, branches: Sequence[Sequence[onnx.TypeProto | None]]
    ) -> tuple[Mapping[str, onnx.TypeProto], str]:
        """Return the types that both branches give, and what decides if they give others."""
        found, reason = {}, ""
        for name, one, other in zip(node.output, *branches, strict=False):
            if one is None or other is None or not name:
                continue
            if _dims(one) is not None and _dims(one) == _dims(other):
                found[name] = one
            else:
                reason = f"If {name!r} has outputs of several shapes; {self._decides(node)}"
        return found, reason

    def _decides(self, node: onnx.NodeProto) -> str:
        """Say which inputs an If's condition depends on."""
        waiting, seen = [node.input[0]], {node.input[0]}
        while waiting:
            name = waiting.pop()
            maker = None if name in self.constants else self._made.get(name)
            new = [name for name in reads(maker) if name not in seen] if maker else []
            seen.update(new)
            waiting += new
        inputs = [
            value.name
            for value in self._file.model.graph.input
            if value.name in seen and value.name not in self.constants
        ]
        small = [name for name in inputs if math.prod(self.dims.get(name, ())) == 1]
        if small and len(small) == len(inputs):
            values = " ".join(f"--value {name}=1" for name in small)
            named = ", ".join(map(repr, small))
            return f"the value of input {named} decides: give it, as {values}"
        return f"data decide: {', '.join(map(repr, inputs)) or 'no input'}"

    def _loop(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        body = attribute(node, "body", None)
        carried = [self.types.get(name, onnx.TypeProto()) for name in node.input[2:]]
        scalar = [helper.make_tensor_type_proto(kind, ()) for kind in (_INT, _BOOL)]
        original = body.SerializeToString()
        for _ in range(2):
            outputs = self._body(body, [*scalar, *carried])
            after = outputs[1 : 1 + len(carried)]
            # What grows from step to step has no shape that holds for all.
            kept = [
                kind if kind == new else _open(kind)
                for kind, new in zip(carried, after, strict=True)
            ]
            if kept == carried:
                break
            carried = kept
            body.ParseFromString(original)
        found = dict(zip(node.output, carried, strict=False))
        trips = self.constants.small(node.input[0]) if node.input[0] else None
        known = not node.input[1] or self.constants.small(node.input[1]) is not None
        if trips is not None and known and _goes_on(body):
            rest = zip(node.output[len(carried) :], outputs[1 + len(carried) :], strict=False)
            for name, made in rest:
                dims = None if made is None else _dims(made)
                if made is not None and dims is not None:
                    shape = (int(trips.reshape(())), *dims)
                    kind = made.tensor_type.elem_type
                    found[name] = helper.make_tensor_type_proto(kind, shape)
        return {name: kind for name, kind in found.items() if name and kind.WhichOneof("value")}

    def _scan(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        body, scanned = attribute(node, "body", None), attribute(node, "num_scan_inputs", 1)
        if not 0 < scanned <= len(node.input) or any(n not in self.types for n in node.input):
            return {}
        states = [self.types[name] for name in node.input[: len(node.input) - scanned]]
        axes = attribute(node, "scan_input_axes", [0] * scanned)
        slices, steps = [], 0
        for name, axis in zip(node.input[len(states) :], axes, strict=True):
            dims = self.dims.get(name)
            if not dims:
                return {}
            place = axis % len(dims)
            steps, rest = dims[place], (*dims[:place], *dims[place + 1 :])
            kind = self.types[name].tensor_type.elem_type
            slices.append(helper.make_tensor_type_proto(kind, rest))
        outputs = self._body(body, [*states, *slices])
        made = outputs[len(states) :]
        places = attribute(node, "scan_output_axes", [0] * len(made))
        found = dict(zip(node.output, states, strict=False))
        for name, part, place in zip(node.output[len(states) :], made, places, strict=True):
            dims = None if part is None else _dims(part)
            if part is not None and dims is not None:
                at = place % (len(dims) + 1)
                found[name] = helper.make_tensor_type_proto(
                    part.tensor_type.elem_type, (*dims[:at], steps, *dims[at:])
                )
        return {name: kind for name, kind in found.items() if name}


def _single(kind: onnx.TypeProto) -> onnx.TypeProto:
    """Return a tensor's type with float32 in the place of other floats, which few opsets allow."""
    if kind.tensor_type.elem_type not in _FLOATS:
        return kind
    copy = onnx.TypeProto()
    copy.CopyFrom(kind)
    copy.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy


def _wrong_attribute(node: onnx.NodeProto, read: Iterable[onnx.TypeProto]) -> str:
    """Say which attribute onnx's rules would crash on or not end with.

    Such are axes far from those that there are, equations of Einsum that are none, and another
    number of outputs than there are.
    """
    ranks = [len(kind.tensor_type.shape.dim) for kind in read]
    for own in node.attribute:
        if own.name == "equation" and not _EQUATION.fullmatch(own.s):
            return f"{node.op_type} {node.output[0]!r}: equation {own.s!r} must be as ij,jk->ik"
        if own.name == "num_outputs" and own.i != len(node.output):
            return f"{node.op_type} {node.output[0]!r}: num_outputs={own.i} must be its outputs'"
        values = [*own.ints, own.i] if own.name in _AXES else []
        allowed = max(ranks, default=0) + max(1, len(own.ints))
        if any(abs(value) > allowed for value in values):
            name = next(filter(None, node.output), "")
            return f"{node.op_type} {name!r}: {own.name}={values[0]} is none of its axes"
    return ""


def _has_bodies(node: onnx.NodeProto) -> bool:
    return any(own.HasField("g") or own.graphs for own in node.attribute)


def _declared(file: OnnxFile) -> dict[str, onnx.TypeProto]:
    """Return the shapes that the file gives of its tensors, where they are whole.

    They hold for the inputs that it was written for: what can be inferred is.
    """
    declared = {}
    for value in (*file.model.graph.value_info, *file.model.graph.output):
        tensor = value.type.tensor_type
        extents = [file.extents.get(d.dim_param, d.dim_value) for d in tensor.shape.dim]
        if tensor.HasField("shape") and min(extents, default=1) > 0:
            declared[value.name] = helper.make_tensor_type_proto(tensor.elem_type, extents)
    return declared


def _dims(kind: onnx.TypeProto) -> Dims | None:
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _fault(name: str, kind: onnx.TypeProto) -> str:
    """Say that a tensor has an extent below 0, if it has."""
    extents = [dim.dim_value for dim in kind.tensor_type.shape.dim]
    if min(extents, default=0) >= 0:
        return ""
    return f"tensor {name!r} has shape {tuple(extents)}: every dimension must be >= 1"


def _open(kind: onnx.TypeProto) -> onnx.TypeProto:
    """Return a tensor's type without its shape."""
    if not kind.HasField("tensor_type"):
        return onnx.TypeProto()
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, None)


def _extents(node: onnx.NodeProto, dims: Dims) -> Any:
    if node.op_type == "Size":
        return np.array(math.prod(dims), np.int64)
    bounds: dict[str, int] = {a.name: a.i for a in node.attribute}
    return np.array(dims[bounds.get("start", 0) : bounds.get("end")], np.int64)


def _goes_on(body: onnx.GraphProto) -> bool:
    """Return whether a loop's body hands on the condition that it was given."""
    condition = body.output[0].name
    return any(
        own.op_type == "Identity" and [*own.input] == [body.input[1].name]
        for own in body.node
        if condition in own.output
    )


def _renamed(node: onnx.NodeProto, new: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of an operator with other names of tensors, in its subgraphs, too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new.get(name, name) for name in node.input]
    copy.output[:] = [new.get(name, name) for name in node.output]
    for own in copy.attribute:
        for graph in (*own.graphs, *([own.g] if own.HasField("g") else [])):
            inner = [_renamed(each, new) for each in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
            for output in graph.output:
                output.name = new.get(output.name, output.name)
    return copy
