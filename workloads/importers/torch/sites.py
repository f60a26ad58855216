"""Where a captured graph multiplies and accumulates, and what each such place is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, fx, nn

from bfpsim.workloads.importers.draft import Names
from bfpsim.workloads.importers.torch.export import aten, constants
from bfpsim.workloads.importers.view import Dims

SiteKind = Literal["conv", "conv1d", "linear", "matmul", "transposed"]

_KINDS: dict[object, SiteKind] = {
    aten.conv2d.default: "conv",
    aten.conv1d.default: "conv1d",
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.conv_transpose1d.default: "transposed",
    aten.conv_transpose2d.input: "transposed",
}
# From an attention's scores to their softmax, and from there to the product with the values.
_BETWEEN = (
    aten.add.Tensor, aten.div.Tensor, aten.expand.default, aten.masked_fill.Scalar,
    aten.masked_fill.Tensor, aten.mul.Tensor, aten.reshape.default, aten.squeeze.dim,
    aten.sub.Tensor, aten.to.dtype, aten.unsqueeze.default, aten.where.self,
)  # fmt: skip
_SOFTMAX = (aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)


@dataclass(frozen=True, slots=True)
class Site:
    """One operation of multiply-accumulates with operands I and W and result O.

    name: the path of the submodule that owns it (``layer1.0.conv1``), unique: a module that runs
        again gives ``name:1``, ``name:2``, ... . A product of two activations is its submodule's
        path and ``.qk`` or ``.av`` in attention, else ``.matmul``; a layer whose weight lies in a
        larger module is named after the weight (``attn.in_proj``)
    kind: ``matmul`` has two activations; any other has a stored W
    node: the fx node's name. Its ``target`` is ``aten.conv2d.default``, ``conv1d.default``,
        ``conv_transpose2d.input``, ``conv_transpose1d.default``, ``linear.default`` or
        ``matmul.default``, its ``args`` are (I, W, bias, ...) or (I, W), in full, no ``kwargs``
    owner: the path of the innermost submodule that runs it, as far as the export tells
    weight: the parameter that is W, or "" for a matmul and for a W computed from parameters
    bias: the parameter that is the bias, or ""
    shares: the name of the first site with the same W, a parameter or computed alike from the
        same ones, or "" if this is the first or only one
    groups: of a convolution; 1 for any other
    macs: multiply-accumulates for the inputs of the capture, those with padding included; of a
        transposed convolution one per input element and tap
    """

    name: str
    kind: SiteKind
    node: str
    owner: str
    weight: str
    bias: str
    shares: str
    groups: int
    macs: int


def find_sites(graph: fx.Graph, shapes: Mapping[str, Dims], module: nn.Module) -> tuple[Site, ...]:
    """Return the sites in execution order.

    ``shapes`` are those of the nodes' values, ``module`` is what the graph was captured from. What
    no layer kind takes is no site: an operation on parameters alone, a convolution of a weight
    that depends on inputs or without a batch, a dilated transposed one, and products in which one
    operand is a vector.
    """
    fixed = constants(graph)
    titles = _products(graph, fixed)
    names = Names()
    # A submodule that is reachable by several paths goes by the first.
    paths = {part: path for path, part in module.named_modules()}
    first: dict[str, str] = {}
    sites = []
    for node in graph.nodes:
        kind = _KINDS.get(node.target)
        if kind is None or node in fixed or not _is_site(node, kind, shapes, fixed):
            continue
        operands: tuple[Any, ...] = node.args
        left, W = operands[:2]
        part = module.get_submodule(owner(node))
        name = names.free(_title(node, kind, titles, paths[part], hasattr(part, "weight")))
        shared = first.setdefault(_formula(W), name) if kind != "matmul" else name
        windowed = kind in ("conv", "conv1d", "transposed")
        # Each of these elements is multiplied with so many of the other operand's.
        elements = shapes[left.name] if kind == "transposed" else shapes[node.name]
        times = shapes[left.name][-1:] if kind == "matmul" else shapes[W.name][1:]
        sites.append(
            Site(
                name,
                kind,
                node.name,
                paths[part],
                weight=_parameter(W) if kind != "matmul" else "",
                bias=_parameter(operands[2]) if kind != "matmul" else "",
                shares="" if shared == name else shared,
                groups=int(operands[6]) if windowed else 1,
                macs=math.prod(elements) * math.prod(times),
            )
        )
    return tuple(sites)


def owner(node: fx.Node) -> str:
    """Return the path of the innermost submodule that runs a node, "" for the module itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    # Nodes that the export itself inserts have a stack that says so.
    return "" if path.startswith("_empty_nn_module_stack") else path


def _is_site(
    node: fx.Node, kind: SiteKind, shapes: Mapping[str, Dims], fixed: set[fx.Node]
) -> bool:
    operands: tuple[Any, ...] = node.args
    left, right = (shapes[operand.name] for operand in operands[:2])
    if kind == "matmul":
        return min(len(left), len(right)) >= 2
    if operands[1] not in fixed or operands[0] in fixed:
        return False
    if kind == "transposed" and {*operands[7]} != {1}:
        return False
    return kind == "linear" or len(left) == len(right)


def _formula(node: fx.Node) -> str:
    """What a node's value is computed from, and how; alike where several nodes compute it."""
    if node.op != "call_function":
        return str(node.target)
    return f"{node.target}{fx.map_arg((node.args, node.kwargs), _formula)}"


def _products(graph: fx.Graph, fixed: set[fx.Node]) -> dict[fx.Node, str]:
    """Return which matmuls are attention's: scores, softmax, and their product with values."""

    def before(node: object) -> fx.Node | None:
        """Follow the scores back to an operation that may change more than single values."""
        while isinstance(node, fx.Node) and node.target in _BETWEEN:
            sources = [x for x in node.all_input_nodes if x not in fixed and _is_float(x)]
            node = sources[0] if sources else None
        return node if isinstance(node, fx.Node) else None

    titles = {}
    for node in graph.nodes:
        if node.target == aten.matmul.default:
            softmax = before(node.args[0])
            if softmax is not None and softmax.target in _SOFTMAX:
                scores = before(softmax.args[0])
                if scores is not None and scores.target == aten.matmul.default:
                    titles[scores], titles[node] = "qk", "av"
    return titles


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _title(
    node: fx.Node, kind: SiteKind, titles: Mapping[fx.Node, str], path: str, weighted: bool
) -> str:
    within = f"{path}." if path else ""
    if kind == "matmul":
        return within + titles.get(node, "matmul")
    if path and weighted:
        return path
    weight = node.args[1]
    while isinstance(weight, fx.Node) and len(weight.all_input_nodes) == 1:  # a part of a parameter
        weight = weight.all_input_nodes[0]
    return _parameter(weight).removesuffix("weight").rstrip("._") or within + kind


def _parameter(node: object) -> str:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else ""
