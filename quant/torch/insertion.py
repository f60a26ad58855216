"""A captured graph with operands put in at every product, and what ties them."""

from __future__ import annotations

from typing import Any

from torch import fx

from bfpsim.quant.torch import tied
from bfpsim.quant.torch.axes import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.torch.operand import Operand, TransposedWeight
from bfpsim.quant.torch.tied import Place, Role, Step
from bfpsim.workloads.importers.torch.export import aten, constants
from bfpsim.workloads.importers.torch.graph import Captured, Site

_COLUMNS = Blocks(axis=-2)  # the second operand of a matmul: blocks along the reduction
# They need the whole of what they read before they give anything (`quant.torch.tied`).
_ENDS = (
    aten.softmax.int, aten._softmax.default, aten._safe_softmax.default, aten.log_softmax.int,
    aten.layer_norm.default, aten.native_layer_norm.default, aten.group_norm.default,
    aten.rms_norm.default, aten.instance_norm.default, aten.batch_norm.default,
)  # fmt: skip


def insert_operands(captured: Captured) -> tuple[fx.GraphModule, dict[Place, Operand]]:
    """Put an operand before and after each site; a bias is added behind its O."""
    module = captured.module
    graph = module.graph
    nodes = {node.name: node for node in graph.nodes}
    operands: dict[Place, Operand] = {}
    for number, site in enumerate(captured.sites):
        node = nodes[site.node]
        left, right, *rest = node.args
        targets = {}
        for tensor, operand in _made(site, rest).items():
            operands[site.name, tensor] = operand
            targets[tensor] = f"operand{number}_{tensor}"
            module.add_submodule(targets[tensor], operand)
        with graph.inserting_before(node):
            first = graph.call_module(targets["I"], (left,))
            second = graph.call_module(targets["W"], (right,))
        bias = rest.pop(0) if site.kind != "matmul" else None
        node.args = (first, second, *(() if site.kind == "matmul" else (None,)), *rest)
        with graph.inserting_after(node):
            output = graph.call_module(targets["O"])
        node.replace_all_uses_with(output)
        output.args = (node,)
        if isinstance(bias, fx.Node):
            _add_behind(graph, output, bias, 0 if site.kind == "linear" else _taps(captured, site))
    graph.lint()
    module.recompile()
    return module, operands


def _made(site: Site, rest: list[Any]) -> dict[tied.Tensor, Operand]:
    """The operands of a site; ``rest`` are its arguments behind I and W."""
    i, w, o = (f"{site.name} {word}" for word in ("input", "weight", "output"))
    if site.kind == "matmul":
        second = Operand(w, _COLUMNS, stored=False)
    elif site.kind == "transposed":
        second = TransposedWeight(w, tuple(rest[1]), site.groups)
    else:
        second = Operand(w, WEIGHT, stored=True)
    channels = LAST if site.kind in ("linear", "matmul") else CHANNELS
    return {
        "I": Operand(i, channels, stored=False),
        "W": second,
        "O": Operand(o, channels, stored=False),
    }


def _taps(captured: Captured, site: Site) -> int:
    """How many dimensions a convolution's window has."""
    return len(captured.shapes[site.node]) - 2


def _add_behind(graph: fx.Graph, output: fx.Node, bias: fx.Node, trailing: int) -> None:
    """Add a bias per channel, which ``trailing`` dimensions follow."""
    with graph.inserting_after(output):
        total = graph.call_function(aten.add.Tensor)
    output.replace_all_uses_with(total)
    with graph.inserting_before(total):
        shaped = bias
        if trailing:
            shaped = graph.call_function(aten.reshape.default, (bias, [-1] + [1] * trailing))
    total.args = (output, shaped)


def graph_steps(captured: Captured) -> list[Step]:
    """The graph as what ties tensors and what does not.

    Parameters are left out, but for those that stand in a product of activations: each is a tensor
    of its own, tied to nothing but the products that read it.
    """
    graph = captured.module.graph
    fixed = constants(graph)
    sites = {site.node: site for site in captured.sites}
    names: dict[fx.Node, str] = {}
    steps = []
    for node in graph.nodes:
        if node in fixed or node.op == "output":
            continue
        site = sites.get(node.name)
        names[node] = site.name if site else f"{node.name}()"
        read = tuple(names[x] for x in node.all_input_nodes if x not in fixed)
        role: Role = "pass"
        if site:
            # The same node may be both operands.
            products: tuple[Any, ...] = node.args[:2] if site.kind == "matmul" else node.args[:1]
            for operand in products:
                if operand in fixed and operand not in names:
                    names[operand] = f"{operand.name}()"
                    steps.append(Step(names[operand], (), "end"))
            read, role = tuple(names[x] for x in products), "product"
        elif node.target in _ENDS:
            role = "end"
        steps.append(Step(names[node], read, role))
    return steps
