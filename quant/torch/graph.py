"""An fx graph module that pickles as its nodes.

torch's own pickles as code, and is traced again when it is loaded, which needs the tracer of
`torch.export`, computes what depends on no input and renames what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg


class PlainGraph(fx.GraphModule):
    """A graph module; what it is pickled to needs no code but torch's and this module's."""

    def __reduce__(self) -> tuple[Callable[..., PlainGraph], tuple[Any, ...]]:
        content = self.__dict__.copy()
        graph = content.pop("_graph")

        def read(node: fx.Node) -> Any:
            return _Name(node.name)

        nodes = [
            _Node(
                node.name,
                node.op,
                _reference(node.target),
                map_arg(node.args, read),
                map_arg(node.kwargs, read),
            )
            for node in graph.nodes
        ]
        return _load, (content, nodes, type(self).__name__)


@dataclass(frozen=True, slots=True)
class _Name:
    """A node, where another one reads it."""

    name: str


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator of a library, which does not pickle: ``aten``, ``conv2d``, ``default``."""

    path: tuple[str, ...]

    def find(self) -> Any:
        found: Any = torch.ops
        if self.path[0] == "bfpsim":  # whose operators are there once their module is
            import bfpsim.workloads.graph.torch_module  # noqa: F401
        try:
            for name in self.path:
                found = getattr(found, name)
        except AttributeError:
            raise ImportError(
                f"torch has no operator {'.'.join(self.path)}; import the package that has it, and "
                "load again"
            ) from None
        return found


@dataclass(frozen=True, slots=True)
class _Node:
    """A node; its target is a submodule's or parameter's name, an operator, or a function."""

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any


def _reference(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        library, _, name = target._schema.name.partition("::")
        return _Operator((library, name, target._overloadname))
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _Operator(("higher_order", str(target)))
    return target


def _load(content: dict[str, Any], nodes: list[_Node], name: str) -> PlainGraph:
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def read(value: Any) -> Any:
        return made[value.name] if isinstance(value, _Name) else value

    for each in nodes:
        target = each.target.find() if isinstance(each.target, _Operator) else each.target
        args, kwargs = map_aggregate(each.args, read), map_aggregate(each.kwargs, read)
        made[each.name] = graph.create_node(each.op, target, args, kwargs, each.name)
    root = nn.Module()
    root.__dict__.update(content)
    module = PlainGraph(root, graph, name)
    module.__dict__.update(content)  # parts that no node reads, and the order of all
    return module
