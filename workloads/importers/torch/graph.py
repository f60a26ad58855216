"""Any torch module as a graph: what it computes, operation by operation, ready to be rewritten."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bfpsim.workloads.importers.torch.export import aten, constants, export, first_line, written_out
from bfpsim.workloads.importers.torch.fold import fold_batch_norm
from bfpsim.workloads.importers.torch.hooks import MORE_FLOPS, composite_macs
from bfpsim.workloads.importers.torch.sites import Extents, Site, find_sites
from bfpsim.workloads.layer import WorkloadError

__all__ = ["Captured", "Site", "capture"]

# Of the largest absolute value of an output: how far float32 may move it. Folding alone moves a
# deep network's outputs by some 1e-6 of it; a wrong operation moves them by far more.
TOLERANCE = 1e-4


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
    shapes: Mapping[str, Extents]
    host_macs: Mapping[str, int]
    dynamic_batch: bool


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
    """Return the module's graph; the module itself stays as it is.

    ``inputs`` are the forward's positional arguments, which fix ranks and extents, all but the
    first where the module allows it. Attention is written out as matmul, softmax, matmul; einsum,
    bmm, mm and addmm are ``matmul`` or ``linear``; batch normalisation is folded where it alone
    reads a layer's output (`torch_fold`).

    Raises `WorkloadError` if the module fails on the inputs, torch cannot export it, or the graph
    gives other outputs than the module.
    """
    name = type(module).__name__
    if any(parameter.is_meta for parameter in module.parameters()):
        raise WorkloadError(f"module {name}: its parameters have no values (device meta)")
    original = copied(module)
    expected = run(original, inputs)
    exported, dynamic = export(original, inputs)
    _name_types(exported.graph)
    fold_batch_norm(exported)
    # A module of its own: what torch.export returns refuses `train()`, and keeps unread tensors.
    graph = fx.GraphModule(exported, exported.graph, name)
    recorder = _Recorder(graph)
    with torch.no_grad(), written_out():
        outputs = recorder.run(*(x.clone() for x in inputs))
    _compare(name, expected, outputs)
    sites = find_sites(graph.graph, recorder.shapes, original)
    none = {site.node for site in sites} | {node.name for node in constants(graph.graph)}
    host = {node: macs for node, macs in recorder.macs.items() if macs and node not in none}
    return Captured(graph, sites, recorder.shapes, host, dynamic)


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module in evaluation mode; raises `WorkloadError` if it has none."""
    try:
        return copy.deepcopy(module).eval()
    except Exception as error:  # whatever a module's own tensors raise
        raise WorkloadError(
            f"module {type(module).__name__}: cannot be copied: {first_line(error)}"
        ) from None


def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return the module's outputs; raises `WorkloadError` if it fails on the inputs."""
    try:
        with torch.no_grad(), written_out():
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
        self.shapes: dict[str, Extents] = {}
        self.macs: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False, custom_mapping=MORE_FLOPS) as counter:
            value = super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        self.macs[n.name] = counter.get_total_flops() // 2 + composite_macs(n.target, args)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


def _compare(name: str, expected: Any, outputs: Any) -> None:
    pairs = zip(tree_leaves(expected), tree_leaves(outputs), strict=True)
    for number, (one, other) in enumerate(pairs):
        if not isinstance(one, Tensor):
            continue
        finite = one[one.isfinite()].double().abs()
        largest = float(finite.max()) if len(finite) else 0.0
        allowed = TOLERANCE * largest if one.is_floating_point() else 0.0
        one, other = one.double(), other.double()
        if not torch.allclose(other, one, rtol=0, atol=allowed, equal_nan=True):
            raise WorkloadError(
                f"module {name}: the captured graph's output {number} differs from the module's "
                f"by {float((one - other).abs().max()):.3g}; allowed: {allowed:.3g}"
            )
