"""A captured graph's operations and constants, run as torch runs them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from bfpsim.workloads.graph.graph import Compute
from bfpsim.workloads.graph.product import Multiply
from bfpsim.workloads.importers.torch.export import aten, constants, written_out
from bfpsim.workloads.importers.torch.graph import Captured
from bfpsim.workloads.layer import WorkloadError


@dataclass(frozen=True, eq=False)
class TorchOperation:
    """A node of a captured graph; its inputs are those of ``all_input_nodes``, in that order."""

    node: fx.Node

    def bind(self, multiply: Multiply) -> Compute:
        """Return what computes it; no product is within it."""
        node = self.node

        def compute(*values: Any) -> Sequence[Any]:
            given = dict(zip(node.all_input_nodes, map(_tensors, values), strict=True))
            with torch.no_grad(), written_out():
                return (_arrays(_call(node, given)),)

        return compute


class Constants(Mapping[str, Any]):
    """What nodes compute from parameters alone, and from the extents of the capture, by name."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._nodes = {node.name: node for node in constants(captured.module.graph)}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return _arrays(self.value(self._nodes[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def value(self, node: fx.Node) -> Any:
        """Return what a node computes, as torch has it."""
        if node.name not in self._made:
            self._made[node.name] = self._compute(node)
        return self._made[node.name]

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            path, _, own = str(node.target).rpartition(".")
            return getattr(self._captured.module.get_submodule(path), own).detach()
        if node.target == aten.sym_size.int:
            source, dim = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(dim, int)
            return self._captured.shapes[source.name][dim]
        with torch.no_grad(), written_out():
            return _call(node, {each: self.value(each) for each in node.all_input_nodes})


def _call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    if node.op != "call_function" or not callable(node.target):
        raise WorkloadError(f"{node.op} {node.name!r} cannot be run; allowed: call_function")
    args: Any = map_arg(node.args, lambda each: values[each])
    kwargs: Any = map_arg(node.kwargs, lambda each: values[each])
    if node.target is operator.getitem:
        return args[0][args[1]]
    return node.target(*args, **kwargs)


def _tensors(value: Any) -> Any:
    def one(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(leaf).reshape(leaf.shape))
        return leaf

    return tree_map(one, value)


def _arrays(value: Any) -> Any:
    def one(leaf: Any) -> Any:
        return leaf.detach().numpy() if isinstance(leaf, Tensor) else leaf

    return tree_map(one, value)
