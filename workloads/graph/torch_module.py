"""A graph of ONNX operators as a torch module: quantised, measured and trained as any other.

Operators that torch has are torch's; any other calls onnx's reference, and has no gradient.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.graph.graph import Graph, Step
from bfpsim.workloads.graph.operators import OnnxOperation, recurrent_cell
from bfpsim.workloads.graph.product import Contraction, Phased, Product, Windows, multiply_floats
from bfpsim.workloads.graph.torch_operators import OPERATORS, Context, Scaled
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.load import Shapes, load_graph

_TOLERANCE = 1e-3  # of the largest magnitude of an output
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN")
# What of a normalisation, or of a slope, is trained.
_TRAINED = {
    "BatchNormalization": (1, 2), "GroupNormalization": (1, 2), "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2), "PRelu": (1,), "RMSNormalization": (1,),
}  # fmt: skip


class OnnxModule(nn.Module):
    """A graph of ONNX operators; layers are submodules of the names that the network has.

    Its forward takes the graph's inputs in their order, and gives its one output, or a tuple of
    them. Weights and what norms learn are parameters, other constants are buffers; halves are
    float32.

    batch: the only first extent that it takes, or None if it takes any

    Raises WorkloadError for a graph that is not ONNX's, and for a product that is within a branch
    or a loop that data decide.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        self._steps: list[tuple[Step, str]] = []
        self._numbers: dict[str, str] = {}  # constant -> buffer or parameter
        self._scaled: dict[str, Scaled] = {}
        self._weights: dict[object, Any] = {}  # where they lie -> their parameter
        for step in graph.steps:
            self._steps.append((step, self._child(step)))
        self.batch: int | None = next(
            (own.shape[0] for own in graph.inputs.values() if own.shape), None
        )
        self.eval()
        if self._note_shapes(_example(graph, 0)) and self._takes_any_batch():
            self.batch = None

    def __new__(cls, graph: Graph) -> OnnxModule:
        """Return a module of a class of its own, whose forward has the inputs' names."""

        def forward(self: OnnxModule, *inputs: Tensor) -> Any:
            return self.compute(*inputs)

        names = _identifiers(graph.inputs)
        kind = Parameter.POSITIONAL_OR_KEYWORD
        parameters = [Parameter(name, kind) for name in ("self", *names)]
        forward.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        own = type(cls.__name__, (cls,), {"forward": forward, "__new__": _bare})
        return super().__new__(own)

    def compute(self, *inputs: Tensor) -> Any:
        """Return the graph's outputs, as the forward does."""
        values: dict[str, Any] = {
            name: _single(x) for name, x in zip(self._graph.inputs, inputs, strict=True)
        }
        for step, child in self._steps:
            outputs = self._run(step, child, [self._value(values, name) for name in step.inputs])
            values.update(zip(step.outputs, outputs, strict=False))
        found = [self._value(values, name) for name in self._graph.outputs]
        return found[0] if len(found) == 1 else tuple(found)

    def _run(self, step: Step, child: str, values: list[Any]) -> Sequence[Any]:
        operation = step.operation
        if isinstance(operation, Product):
            return (self.get_submodule(child)(*values),)
        assert isinstance(operation, OnnxOperation)
        if child:
            made: Sequence[Any] = self.get_submodule(child)(*values)
            return made
        scaled = self._scaled.get(step.outputs[0], Scaled())
        known = OPERATORS.get(operation.node.op_type) if _is_onnx(operation.node) else None
        if known is not None:
            node = operation.node
            by_name = dict(zip(step.inputs, values, strict=True))
            given = [by_name.get(name) for name in node.input]
            context = Context(node, operation.opsets.get("", 1), scaled, self._constant)
            found = known(context, *given)
            if found is not None:
                return found if isinstance(found, tuple) else (found,)
        return _by_reference(step, operation, values, scaled)

    def _value(self, values: Mapping[str, Any], name: str) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        # What is not here, a submodule has for itself.
        return getattr(self, self._numbers[name]) if name in self._numbers else None

    def _constant(self, name: str) -> Any:
        """Return a constant's value, None of what depends on an input."""
        return self._graph.constants.get(name, None)

    def _child(self, step: Step) -> str:
        """Add a step's parameters; return the submodule that it is, if it is one."""
        operation = step.operation
        if isinstance(operation, Product):
            made = _PRODUCT_MODULES[type(operation)](operation)
            self._share(made, operation)
            weighted = not isinstance(operation, Contraction) or operation.weights is not None
            self._store(step)
            return self._place(_layer_name(operation) if weighted else step.name, made)
        if not isinstance(operation, OnnxOperation):
            raise WorkloadError(
                f"network {self._graph.network.name!r}: is no graph of ONNX operators; allowed: "
                "that of an ONNX file"
            )
        node = operation.node
        if _is_onnx(node) and node.op_type in ("LSTM", "GRU", "RNN"):
            return self._place(step.name, _RecurrentModule(node, step.inputs, self._graph))
        inner = next((each for each in _within(node) if each.op_type in _PRODUCTS), None)
        if inner is not None:
            raise WorkloadError(
                f"{node.op_type} {step.name!r} has a {inner.op_type} within, which runs as data "
                "decide; allowed: products outside, as of a file exported for one way"
            )
        self._store(step, _TRAINED.get(node.op_type, ()))
        return ""

    def _share(self, module: nn.Module, product: Product) -> None:
        """Have layers whose weights are one array share one parameter."""
        own = product.filters if isinstance(product, Phased) else None
        if isinstance(product, Windows | Contraction) and product.weights is not None:
            own = product.weights.weight
        if own is not None:
            place = own.__array_interface__["data"][0], own.shape, own.strides
            module.weight = self._weights.setdefault(place, module.weight)

    def _store(self, step: Step, trained: Sequence[int] = ()) -> None:
        for place, name in enumerate(step.inputs):
            if name in self._graph.constants and name not in self._numbers:
                value = np.asarray(self._graph.constants[name])
                if value.dtype.kind in "OUS":
                    raise WorkloadError(
                        f"{step.kind} {step.name!r}: constant {name!r} is text; allowed: numbers"
                    )
                title = f"constant{len(self._numbers)}"
                tensor = _tensor(value)
                if place in trained and tensor.is_floating_point():
                    self.register_parameter(title, nn.Parameter(tensor))
                else:
                    self.register_buffer(title, tensor)
                self._numbers[name] = title

    def _place(self, name: str, module: nn.Module) -> str:
        """Add a submodule under a name, which may have dots; return its path."""
        *outer, last = [part or "_" for part in name.split(".")]
        parent: nn.Module = self
        path = []
        for part in outer:
            own = _free(parent, part, shared=True)
            if own not in parent._modules:
                parent.add_module(own, nn.Module())
            parent = parent.get_submodule(own)
            path.append(own)
        own = _free(parent, last, shared=False)
        if own in parent._modules:  # a container so far, of layers whose names begin with it
            for inner, each in parent.get_submodule(own).named_children():
                module.add_module(inner, each)
        parent.add_module(own, module)
        return ".".join([*path, own])

    # --- its batch --------------------------------------------------------------------------------

    def _takes_any_batch(self) -> bool:
        """Try two batches at once, noting which extents grow; whether each is as by itself."""
        extents = [own.shape[:1] for own in self._graph.inputs.values()]
        if not extents or any(extent != extents[0] or not extent for extent in extents):
            return False
        samples = [_example(self._graph, seed) for seed in (0, 1)]
        alone = dict(self._scaled)
        try:
            if self._alike(samples):
                return True
        except Exception:  # of no common class: the graph holds its batch as a constant
            pass
        self._scaled = alone
        return False

    def _alike(self, samples: Sequence[Sequence[Tensor]]) -> bool:
        """Return whether two batches at once give what each gives by itself."""
        both = [torch.cat(pair) for pair in zip(*samples, strict=True)]
        with torch.no_grad():
            together = self._grow(both)
            apart = [self.compute(*sample) for sample in samples]
        parts = (each if isinstance(each, tuple) else (each,) for each in apart)
        for whole, *own in zip(together, *parts, strict=True):
            expected = torch.cat([*own]) if own[0].ndim else own[0]
            if whole.shape != expected.shape or not _close(whole, expected):
                return False
        return True

    def _note_shapes(self, sample: Sequence[Tensor]) -> bool:
        """Note the shapes and types of each operator; False where made-up inputs do not pass."""
        try:
            self._note(sample)
        except Exception:  # of no common class: what values it takes, an operator decides
            return False
        return True

    def _note(self, sample: Sequence[Tensor]) -> None:
        values: dict[str, Any] = dict(zip(self._graph.inputs, sample, strict=True))
        with torch.no_grad():
            for step, child in self._steps:
                inputs = [self._value(values, name) for name in step.inputs]
                outputs = self._run(step, child, inputs)
                self._scaled[step.outputs[0]] = Scaled(
                    tuple(map(_shape, inputs)),
                    tuple(map(_shape, outputs)),
                    kinds=tuple(getattr(each, "dtype", torch.float32) for each in outputs),
                )
                values.update(zip(step.outputs, outputs, strict=False))

    def _grow(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run twice the batch, and note where it goes, operator by operator."""
        values: dict[str, Any] = dict(zip(self._graph.inputs, inputs, strict=True))
        for step, child in self._steps:
            given = [self._value(values, name) for name in step.inputs]
            scaled = self._scaled[step.outputs[0]]
            grown = tuple(map(_grown, scaled.before, given))
            self._scaled[step.outputs[0]] = scaled = replace(scaled, grown=grown)
            outputs = self._run(step, child, given)
            made = tuple(map(_grown, scaled.after, outputs))
            self._scaled[step.outputs[0]] = replace(scaled, made=made)
            values.update(zip(step.outputs, outputs, strict=False))
        return [self._value(values, name) for name in self._graph.outputs]


def onnx_module(
    path: str | Path, shapes: Shapes | None = None, sample: Sequence[int] | None = None
) -> OnnxModule:
    """Return an ONNX file as a module, its weights those of the file.

    shapes: as `load_graph` takes them
    sample: the shape of one sample; what an only input leaves open is that, in a batch of one

    Raises WorkloadError as `load_graph` and `OnnxModule`.
    """
    if shapes is None and sample is not None:
        shapes = _open_shape(Path(path), sample)
    return OnnxModule(load_graph(path, shapes=shapes))


def _open_shape(path: Path, sample: Sequence[int]) -> Shapes | None:
    """Return the shape that a sample gives an only input whose own is open."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # what is wrong with the file, its reader says
        return None
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        return None
    tensor = inputs[0].type.tensor_type
    closed = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
    return None if closed else {inputs[0].name: (1, *sample)}


def _bare(cls: type, *arguments: Any) -> Any:
    return nn.Module.__new__(cls)


def _identifiers(names: Iterable[str]) -> list[str]:
    """Return names as arguments can have them: any other character is an underscore."""
    found: list[str] = []
    for name in names:
        own = re.sub(r"\W", "_", name, flags=re.ASCII)
        own = f"x_{own}" if not own or own[0].isdigit() or iskeyword(own) or own == "self" else own
        while own in found:
            own += "_"
        found.append(own)
    return found


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _grown(shape: tuple[int, ...], value: Any) -> int | None:
    """Return the dimension along which a tensor has grown."""
    if not isinstance(value, Tensor):
        return None
    changed = [
        axis for axis, (one, two) in enumerate(zip(shape, value.shape, strict=True)) if one != two
    ]
    if len(changed) > 1:
        raise ValueError("several dimensions grow with the batch")
    return changed[0] if changed else None


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return bool((one == other).all())
    finite = other[other.isfinite()]
    most = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=_TOLERANCE * most + 1e-12, equal_nan=True)


def _example(graph: Graph, seed: int) -> list[Tensor]:
    draw = np.random.default_rng(seed)
    return [
        _tensor(draw.normal(size=own.shape).astype(own.dtype))
        if own.dtype.kind in "fV"
        else torch.from_numpy(np.full(own.shape, seed, own.dtype))
        for own in graph.inputs.values()
    ]


# --- products ------------------------------------------------------------------------------------


class _WindowsModule(nn.Module):
    """A convolution of (N, C, L) or (N, C, H, W)."""

    def __init__(self, product: Windows) -> None:
        super().__init__()
        self._layer, weights = product.layer, product.weights
        self._own = weights is not None
        if weights is not None:
            self.weight = nn.Parameter(_tensor(weights.weight))
            self.bias = nn.Parameter(_tensor(weights.bias))

    def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
        layer = self._layer
        weight, bias = (self.weight, self.bias) if self._own else (*given, None)[:2]
        assert weight is not None
        top, bottom, left, right = layer.paddings
        line = x.ndim == 3
        sides = (left, right) if line else (left, right, top, bottom)
        own: tuple[int, ...] = (left,) if line else (top, left)
        if (top, left) != (bottom, right):
            x, own = F.pad(x, sides), (0,) * (x.ndim - 2)
        if line and weight.ndim == 4:
            weight = weight[:, :, 0]
        elif not line and weight.ndim == 3:
            weight = weight[:, :, None]
        convolve: Any = F.conv1d if line else F.conv2d
        window = (layer.strides, own, layer.dilations)
        stride, _, dilation = (each[-1:] if line else each for each in window)
        return convolve(x, weight, bias, stride, own, dilation, layer.G)  # type: ignore[no-any-return]


class _PhasedModule(nn.Module):
    """A transposed convolution; what padding at its ends differs is cut off behind it."""

    def __init__(self, product: Phased) -> None:
        super().__init__()
        self._product = product
        self._own = product.filters is not None
        if product.filters is not None:
            self.weight = nn.Parameter(_tensor(product.filters))
            if product.bias is not None:
                self.bias = nn.Parameter(_tensor(product.bias))

    def forward(self, x: Tensor, *given: Tensor | None) -> Tensor:
        product = self._product
        own = (self.weight, getattr(self, "bias", None)) if self._own else (*given, None)[:2]
        weight, bias = own
        assert weight is not None
        line = x.ndim == 3
        if line and weight.ndim == 4:
            weight = weight[:, :, 0]
        top, bottom, left, right = product.padding
        window = (product.stride, (top, left), product.extra)
        stride, pad, extra = (each[-1:] if line else each for each in window)
        convolve: Any = F.conv_transpose1d if line else F.conv_transpose2d
        even = (top, left) == (bottom, right) and all(
            more < step for more, step in zip(extra, stride, strict=True)
        )
        if even:
            return convolve(x, weight, bias, stride, pad, extra, product.groups)  # type: ignore[no-any-return]
        whole = convolve(x, weight, None, stride, (0,) * len(stride), (0,) * len(stride),
                         product.groups)  # fmt: skip
        rows, cols = product.extra
        sides = [-left, cols - right] if line else [-left, cols - right, -top, rows - bottom]
        cut: Tensor = F.pad(whole, sides)
        return cut if bias is None else cut + bias.reshape(-1, *[1] * len(stride))


class _ContractionModule(nn.Module):
    """A matrix product: a linear layer if its second factor is stored, else one of activations."""

    def __init__(self, product: Contraction) -> None:
        super().__init__()
        self._product = product
        if product.weights is not None:
            weight, bias = product.weights.weight, product.weights.bias
            self.weight = nn.Parameter(_tensor(weight).reshape(len(weight), -1))
            self.bias = nn.Parameter(_tensor(bias))

    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        product, letters = self._product, self._product.letters
        if product.weights is not None:
            rows = "".join(x for x in letters.left if x in letters.out)
            groups = [*rows, product.contracted]
            lines = _group(left, letters.left, groups)
            made = F.linear(lines, self.weight, self.bias)
            return _spread(
                made,
                product,
                groups[:-1],
                letters.columns,
                dict(zip(letters.left, left.shape, strict=False)),
            )
        assert right is not None
        for shape, axis in product.copies:
            sizes = [*shape]
            at = _unchanged(sizes, right)
            right = right.reshape(at).select(axis, 0)
        if product.copies:
            left = left.reshape(_unchanged([*product.left], left))
        batch = [*letters.batch]
        lefts = _group(left, letters.left, [*batch, letters.rows, product.contracted])
        rights = _group(right, letters.right, [*batch, product.contracted, letters.columns])
        made = torch.matmul(lefts, rights)
        extents = dict(zip(letters.left, left.shape, strict=True))
        return _spread(made, product, [*batch, letters.rows], letters.columns, extents)


def _unchanged(shape: list[int], value: Tensor) -> list[int]:
    """Return a shape to split a tensor to, whose first extent may have grown."""
    return [-1, *shape[1:]] if shape else shape


def _group(values: Tensor, letters: str, groups: Sequence[str]) -> Tensor:
    """Return a tensor with a dimension for each group of letters."""
    order = [letters.index(x) for group in groups for x in group]
    rest = [axis for axis in range(values.ndim) if axis not in order]
    moved = values if order + rest == list(range(values.ndim)) else values.permute(order + rest)
    if not rest and all(len(group) == 1 for group in groups):
        return moved
    extents = dict(zip(letters, values.shape, strict=True))
    return moved.reshape([math.prod(extents[x] for x in group) for group in groups])


def _spread(
    made: Tensor,
    product: Contraction,
    groups: Sequence[str],
    columns: str,
    extents: Mapping[str, Any],
) -> Tensor:
    """Return a product's result with its dimensions as they are wanted."""
    letters = product.letters
    right = dict(zip(letters.right, product.right, strict=True))
    flat = "".join(groups) + columns
    sizes = [extents[x] if x in extents else right[x] for x in flat]
    if any(len(group) != 1 for group in groups) or len(columns) != 1:
        made = made.reshape(sizes)
    order = [flat.index(x) for x in letters.out]
    if order != sorted(order):
        made = made.permute(order)
    if len(product.out) != made.ndim:
        made = made.reshape([-1, *product.out[1:]])
    return made


class _RecurrentModule(nn.Module):
    """A recurrent operator, whose products are linear layers, one for each step."""

    def __init__(self, node: onnx.NodeProto, inputs: Sequence[str], graph: Graph) -> None:
        super().__init__()
        own = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        own = {n: v.decode() if isinstance(v, bytes) else v for n, v in own.items()}
        if "activations" in own:
            own["activations"] = [each.decode() for each in own["activations"]]
        self._cell = recurrent_cell(node.op_type, own)
        self._inputs, self._node = [*node.input], node
        self._reads = tuple(inputs)
        for place, name in enumerate(self._inputs):
            if name and name in graph.constants:
                value = _tensor(np.asarray(graph.constants[name]))
                title = _PLACES[place]
                if place in (1, 2, 3) and value.is_floating_point():
                    self.register_parameter(title, nn.Parameter(value))
                else:
                    self.register_buffer(title, value)

    def forward(self, *values: Any) -> tuple[Any, ...]:
        given = dict(zip(self._reads, values, strict=True))
        read = [
            getattr(self, _PLACES[place]) if hasattr(self, _PLACES[place]) else given.get(name)
            for place, name in enumerate(self._inputs)
        ]

        def product(name: str, rows: Tensor, matrix: Tensor) -> Tensor:
            return F.linear(rows, matrix)

        outputs = self._cell.run(torch, read, product)
        return tuple(outputs[: len(self._node.output)])


_PLACES = ("x", "input_weight", "hidden_weight", "bias", "lengths", "initial", "cell", "peepholes")
_PRODUCT_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    Windows: _WindowsModule, Phased: _PhasedModule, Contraction: _ContractionModule,
}  # fmt: skip


def _layer_name(product: Product) -> str:
    if isinstance(product, Phased):
        name = product.phases[0][1].name
        return name.rpartition(".phase")[0] or name
    assert isinstance(product, Windows | Contraction)
    return product.layer.name


# --- the reference -------------------------------------------------------------------------------


def _by_reference(
    step: Step, operation: OnnxOperation, values: Sequence[Any], scaled: Scaled
) -> Sequence[Any]:
    """Return an operator's outputs as onnx's reference gives them."""
    present = [
        (name, value) for name, value in zip(step.inputs, values, strict=True) if value is not None
    ]
    source = next((place for place, axis in enumerate(scaled.grown) if axis is not None), -1)
    axis = scaled.grown[source] if source >= 0 else None
    record = {
        "node": operation.node.SerializeToString().decode("latin-1"),
        "opsets": dict(operation.opsets),
        "reads": [name for name, _ in present],
        "outputs": [
            (list(shape), str(kind).removeprefix("torch."), made)
            for shape, kind, made in zip(
                scaled.after, scaled.kinds, scaled.made or [None] * len(scaled.after), strict=True
            )
        ],
        "grown": None if axis is None else (source, axis, scaled.before[source][axis]),
    }
    return torch.ops.bfpsim.reference([value for _, value in present], json.dumps(record))  # type: ignore[no-any-return]


def _reference(values: list[Tensor], operator: str) -> list[Tensor]:
    """Run an ONNX operator as onnx's reference does; ``operator`` says which, in JSON."""
    record = json.loads(operator)
    node = onnx.NodeProto.FromString(record["node"].encode("latin-1"))
    run = OnnxOperation(node, tuple(record["reads"]), record["opsets"])
    arrays = [value.detach().cpu().numpy() for value in values]
    outputs = run.bind(multiply_floats)(*arrays)
    device = values[0].device if values else torch.device("cpu")
    return [torch.zeros(0) if value is None else _tensor(value).to(device) for value in outputs]


def _reference_shapes(values: list[Tensor], operator: str) -> list[Tensor]:
    """Return tensors without data of the shapes and types that the operator gives."""
    record = json.loads(operator)
    grown, found = record["grown"], []
    for shape, kind, made in record["outputs"]:
        extents: list[Any] = [*shape]
        if grown is not None and made is not None:
            place, axis, size = grown
            extents[made] = extents[made] // size * values[place].shape[axis]
        found.append(values[0].new_empty(extents, dtype=getattr(torch, kind)))
    return found


def _note_operator(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.operator = inputs[1]


def _no_gradient(ctx: Any, *grads: Any) -> Any:
    node = onnx.NodeProto.FromString(json.loads(ctx.operator)["node"].encode("latin-1"))
    title = node.name or next(filter(None, node.output))
    raise WorkloadError(
        f"{node.op_type} {title!r} is onnx's reference, without a gradient; allowed: to train what "
        "stands behind it alone, with requires_grad_(False) of the rest"
    )


# Not `torch.library.custom_op`, whose first call takes seconds.
torch.library.define("bfpsim::reference", "(Tensor[] values, str operator) -> Tensor[]")
torch.library.impl("bfpsim::reference", ("cpu", "cuda"), _reference)
torch.library.register_fake("bfpsim::reference", _reference_shapes)
torch.library.register_autograd("bfpsim::reference", _no_gradient, setup_context=_note_operator)


# --- values --------------------------------------------------------------------------------------


def _tensor(array: Any) -> Tensor:
    """Return an array as a tensor, float32 in the place of halves."""
    values = np.asarray(array)
    if values.dtype.kind == "V" or values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int64)
    return torch.from_numpy(np.array(values, copy=True))


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _is_onnx(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for own in node.attribute:
        for graph in (*own.graphs, *([own.g] if own.HasField("g") else [])):
            for each in graph.node:
                yield each
                yield from _within(each)


def _free(parent: nn.Module, name: str, *, shared: bool) -> str:
    """Return a name under which a submodule may be; a container may be there already."""
    own = name
    while (own not in parent._modules and hasattr(parent, own)) or (
        own in parent._modules and not shared and type(parent._modules[own]) is not nn.Module
    ):
        own += "_"
    return own
