"""Any torch module as a graph: what it computes, operation by operation, ready to be rewritten."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bfpsim.workloads.batch_norm import scale_and_shift
from bfpsim.workloads.importers.torch.export import aten, constants, export, first_line, written_out
from bfpsim.workloads.importers.torch.sites import Site, find_sites
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

__all__ = ["Captured", "Site", "capture"]

# Of the largest absolute value of an output: how far float32 may move it. Folding alone moves a
# deep network's outputs by some 1e-6 of it; a wrong operation moves them by far more.
TOLERANCE = 1e-4
# These compute what is within them, elsewhere or otherwise.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_COMPILED = "_orig_mod"  # what torch.compile's, of no public class, calls the module within
# Layer -> the axis of its weight that holds output channels; of a transposed one, per group.
_LAYERS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.linear.default: 0,
}


@dataclass(frozen=True)
class Captured:
    """A module in evaluation mode as an fx graph of functional ATen operations.

    module: computes what the module does, for inputs in the same order; its parameters are its
        own, trainable, and named as the module's. It contains no batch normalisation that could be
        folded, no dropout, and nothing written in place, so that any node may be replaced
    sites: its operations of multiply-accumulates, in execution order
    shapes: fx node -> shape of the tensor that it computes, for the inputs of the capture
    host_macs: fx node -> multiply-accumulates, of those that are no sites but have some; what
        depends on no input is computed once, before inference, and has none
    dynamic_batch: whether the inputs' first extent is free, or the one that was captured
    """

    module: fx.GraphModule
    sites: tuple[Site, ...]
    shapes: Mapping[str, Dims]
    host_macs: Mapping[str, int]
    dynamic_batch: bool


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
    """Return the module's graph; the module itself stays as it is.

    ``inputs`` are the forward's positional arguments, which fix ranks and extents, all but the
    first where the module allows it. Attention is written out as matmul, softmax, matmul; einsum,
    bmm, mm and addmm are ``matmul`` or ``linear``; batch normalisation is folded where it alone
    reads a layer's output.

    Wrappers (`unwrapped`) are taken off, and names are those without them. What is random in the
    forward draws the same numbers each time that it is run here.

    Raises `WorkloadError` if the module fails on the inputs, torch cannot export it, or the graph
    gives other outputs than the module.
    """
    original = copied(module)
    name = type(original).__name__
    if any(parameter.is_meta for parameter in original.parameters()):
        raise WorkloadError(f"module {name}: its parameters have no values (device meta)")
    expected = run(original, inputs)
    exported, dynamic = export(original, inputs)
    _name_types(exported.graph)
    _fold_batch_norm(exported)
    # A module of its own: what torch.export returns refuses `train()`, and keeps unread tensors.
    graph = fx.GraphModule(exported, exported.graph, name)
    recorder = _Recorder(graph)
    with torch.no_grad(), written_out(), _same_numbers():
        outputs = recorder.run(*(x.clone() for x in inputs))
    difference = _difference(expected, outputs, _precision(graph.graph))
    if difference:
        cause = _cause(original, inputs, expected, graph.graph)
        raise WorkloadError(f"module {name}: the captured graph's {difference}{cause}")
    sites = find_sites(graph.graph, recorder.shapes, original)
    none = {site.node for site in sites} | {node.name for node in constants(graph.graph)}
    host = {node: macs for node, macs in recorder.macs.items() if macs and node not in none}
    return Captured(graph, sites, recorder.shapes, host, dynamic)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what a module wraps that computes nothing itself.

    Such are DataParallel, DistributedDataParallel, torch.compile's and averaged models.
    """
    while True:
        if _COMPILED in module._modules:
            module = module.get_submodule(_COMPILED)
        elif isinstance(module, _WRAPPERS):
            module = module.module
        else:
            return module


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module in evaluation mode, without wrappers in it or around it.

    Tensors that were computed, as a pruned weight or an output that is kept, are values there; what
    has no copy, as a lock or an open file, is in both. Raises `WorkloadError` if it has no copy.
    """
    module = unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise WorkloadError(
            f"module {type(module).__name__} is TorchScript, which cannot be exported; allowed: "
            "the module that it was made from"
        )
    with _Detached():
        try:
            copy = deepcopy(module)
        except Exception:  # whatever an object's own copying raises
            try:
                copy = deepcopy(module, _shared(module))
            except Exception as error:  # likewise
                raise WorkloadError(
                    f"module {type(module).__name__}: cannot be copied: {first_line(error)}"
                ) from None
    for part in list(copy.modules()):
        for name, child in list(part.named_children()):
            setattr(part, name, unwrapped(child))
    return copy.eval()


def _shared(module: nn.Module) -> dict[int, Any]:
    """Return what copies of a module share with it, by identity: attributes without a copy."""
    shared: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if name.startswith("_") or isinstance(value, Tensor):
                continue
            try:
                deepcopy(value, {**shared})
            except Exception:  # whatever an object's own copying raises
                shared[id(value)] = value
    return shared


class _Detached(TorchFunctionMode):
    """Copies tensors that were computed from others, which torch refuses to copy, as values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return the module's outputs; raises `WorkloadError` if it fails on the inputs."""
    try:
        with torch.no_grad(), written_out(), _same_numbers():
            return module(*(x.clone() for x in inputs))  # a module may write into them
    except Exception as error:  # whatever a module's own code raises
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise WorkloadError(
            f"module {type(module).__name__}: fails on inputs of shape {shapes}: "
            f"{first_line(error)}"
        ) from None


def _name_types(graph: fx.Graph) -> None:
    """Have what takes the type of another tensor name the type, and so depend on no values."""
    for node in graph.find_nodes(op="call_function", target=aten.type_as.default):
        node.target, node.args = aten.to.dtype, (node.args[0], node.args[1].meta["val"].dtype)


class _Recorder(fx.Interpreter):
    """Runs a graph, and notes the shape of each tensor and the multiply-accumulates behind it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, Dims] = {}
        self.macs: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False, custom_mapping=_MORE_FLOPS) as counter:
            value = super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        self.macs[n.name] = counter.get_total_flops() // 2 + _composite_macs(n.target, args)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


@contextmanager
def _same_numbers() -> Iterator[None]:
    """Have what is random draw the same numbers each time, and leave torch's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _precision(graph: fx.Graph) -> torch.dtype:
    """Return the narrowest type of floats that a graph computes in, float32 at the narrowest."""
    types = {torch.float32}
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point():
            types.add(value.dtype)
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def _difference(expected: Any, outputs: Any, dtype: torch.dtype) -> str:
    """Say which output differs by more than computing in ``dtype`` explains, if one does."""
    tolerance = max(TOLERANCE, 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 0.0)
    pairs = zip(tree_leaves(expected), tree_leaves(outputs), strict=True)
    for number, (one, other) in enumerate(pairs):
        if not isinstance(one, Tensor):
            continue
        finite = one[one.isfinite()].double().abs()
        largest = float(finite.max()) if len(finite) else 0.0
        allowed = tolerance * largest if one.is_floating_point() else 0.0
        one, other = one.double(), other.double()
        if not torch.allclose(other, one, rtol=0, atol=allowed, equal_nan=True):
            return (
                f"output {number} differs from the module's "
                f"by {float((one - other).abs().max()):.3g}; allowed: {allowed:.3g}"
            )
    return ""


def _cause(module: nn.Module, inputs: tuple[Tensor, ...], expected: Any, graph: fx.Graph) -> str:
    """Say why a graph's outputs are not the module's, if that can be told."""
    again = run(module, inputs)
    if _difference(expected, again, torch.float32):
        return ": its forward gives other outputs each time that it runs on the same inputs"
    dtype = _precision(graph)
    if dtype != torch.float32:
        return f": it computes in {dtype}; a float32 module has none of its rounding"
    return ""


@dataclass(frozen=True)
class _Pair:
    """A layer whose output a batch normalisation alone reads."""

    layer: fx.Node
    norm: fx.Node

    @property
    def parameters(self) -> tuple[object, ...]:
        """What both read besides the layer's input; equal where the same two modules run again."""
        layer = self.layer.args[1:]
        return (*map(str, layer), *map(str, self.norm.args[1:]))


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold every batch normalisation that alone reads a layer's output into the layer, in place.

    With scale = gamma / sqrt(variance + epsilon), a filter is multiplied by its channel's scale,
    and the bias becomes (bias - mean) * scale + beta; in float64, rounded once. Weight and bias
    stay parameters of the layer's names, or become one (``conv.bias``). A layer that runs several
    times is folded if the same normalisation follows each time; one whose weight is computed, or
    read by others too, is not.
    """
    pairs: dict[fx.Node, list[_Pair]] = {}
    for node in module.graph.nodes:
        pair = _pair(node)
        if pair is not None:
            weight = pair.layer.args[1]
            assert isinstance(weight, fx.Node)
            pairs.setdefault(weight, []).append(pair)
    for weight, together in pairs.items():
        alike = len({pair.parameters for pair in together}) == 1
        bias = together[0].layer.args[2]
        readers = set(weight.users) | (set(bias.users) if isinstance(bias, fx.Node) else set())
        exists = bias is None and hasattr(*_owner(module, _bias_name(together[0].layer, weight)))
        if alike and not exists and readers == {pair.layer for pair in together}:
            _fold(module, weight, together)
    module.graph.eliminate_dead_code()


def _pair(norm: fx.Node) -> _Pair | None:
    if norm.target != aten.batch_norm.default or norm.args[5]:
        return None
    layer, *statistics = norm.args[:5]
    if not isinstance(layer, fx.Node) or layer.target not in _LAYERS or len(layer.users) > 1:
        return None
    # Statistics on axis 1 are the features' only of a linear layer that gives (N, features).
    if layer.target == aten.linear.default and layer.meta["val"].ndim != 2:
        return None
    read = [*layer.args[1:3], *statistics]
    if any(each is not None and getattr(each, "op", "") != "get_attr" for each in read):
        return None
    return None if statistics[2] is None else _Pair(layer, norm)


def _fold(module: fx.GraphModule, weight: fx.Node, pairs: list[_Pair]) -> None:
    layer = pairs[0].layer
    own_args: tuple[Any, ...] = layer.args
    norm_args: tuple[Any, ...] = pairs[0].norm.args
    gamma, beta, mean, variance, *_, eps, _ = (
        _values(module, x) if isinstance(x, fx.Node) else x for x in norm_args[1:]
    )
    own = _values(module, weight)
    bias = None if own_args[2] is None else _values(module, own_args[2])
    scale, shift = scale_and_shift(gamma, beta, mean, variance, float(eps), bias)
    if _LAYERS[layer.target] == 1:
        # (channels in, K per group, ...): each group's inputs have the group's scales.
        grouped = own.reshape(own_args[6], -1, *own.shape[1:])
        per_filter = scale.reshape(own_args[6], 1, -1, *[1] * (own.ndim - 2))
        folded = (grouped * per_filter).reshape(own.shape)
    else:
        folded = own * scale.reshape(-1, *[1] * (own.ndim - 1))
    name = _bias_name(layer, weight)
    old = _tensor(module, str(weight.target))
    for target, values in ((str(weight.target), folded), (name, shift)):
        part, own_name = _owner(module, target)
        if hasattr(part, own_name):
            delattr(part, own_name)
        new = nn.Parameter(values.to(old.dtype), requires_grad=old.requires_grad)
        part.register_parameter(own_name, new)
    for pair in pairs:
        if pair.layer.args[2] is None:
            with module.graph.inserting_before(pair.layer):
                read = module.graph.get_attr(name)
            pair.layer.args = (*pair.layer.args[:2], read, *pair.layer.args[3:])
        pair.norm.replace_all_uses_with(pair.layer)


def _values(module: fx.GraphModule, node: fx.Node) -> Tensor:
    return _tensor(module, str(node.target)).detach().double()


def _bias_name(layer: fx.Node, weight: fx.Node) -> str:
    bias = layer.args[2]
    if isinstance(bias, fx.Node):
        return str(bias.target)
    stem = str(weight.target)
    return f"{stem.removesuffix('weight')}bias" if stem.endswith("weight") else f"{stem}_bias"


def _tensor(module: fx.GraphModule, name: str) -> Tensor:
    tensor = getattr(*_owner(module, name))
    assert isinstance(tensor, Tensor)
    return tensor


def _owner(module: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return module.get_submodule(path), own


def _vector_flops(left: Dims, right: Dims, *_: Any, out_shape: Dims, **__: Any) -> int:
    return 2 * math.prod(left)


def _added_flops(added: Dims, left: Dims, right: Dims, *_: Any, **__: Any) -> int:
    return 2 * math.prod(left) * math.prod(right[2:])


def _tbc_flops(x: Dims, weight: Dims, *_: Any, out_shape: Dims, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[:2])


def _distance_flops(x: Dims, *others: Any, out_shape: Dims, **__: Any) -> int:
    """One product per pair and element; sums and maxima of differences have none."""
    p = next((other for other in others if isinstance(other, float)), 2.0)
    return 0 if p in (0, 1, math.inf) else 2 * math.prod(out_shape) * x[-1]


def _bilinear_flops(left: Dims, weight: Dims, *_: Any, out_shape: Dims, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _recurrent_flops(x: Dims, inner: Dims, hidden: Dims, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(inner) + math.prod(hidden))


# Operator -> its formula, from the shapes of its arguments, where torch has none: 2 per product.
_MORE_FLOPS: dict[Any, Callable[..., int]] = {
    aten.mv: _vector_flops,
    aten.dot: _vector_flops,
    aten.vdot: _vector_flops,
    aten.addmv: _added_flops,
    aten.addbmm: _added_flops,
    aten.conv_tbc: _tbc_flops,
    aten._cdist_forward: _distance_flops,
    aten._euclidean_dist: _distance_flops,
    aten._pdist_forward: _distance_flops,
    aten._trilinear: _bilinear_flops,
    aten.mkldnn_rnn_layer: _recurrent_flops,
}


def _composite_macs(operation: Any, operands: Sequence[Any]) -> int:
    """Return the multiply-accumulates of an operation that torch makes products and sums of."""
    if operation != aten.linalg_vecdot.default:
        return 0
    shapes = (x.shape for x in operands[:2])
    return math.prod(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
