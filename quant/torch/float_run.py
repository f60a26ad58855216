"""The float network's values on a batch, and runs that start in the middle of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bfpsim.quant.torch.model import QuantizedModel
from bfpsim.quant.torch.tied import Place


class FloatRun(fx.Interpreter):
    """A batch through the float network, every value kept; the model's operands must be off.

    logits: what the network gives
    """

    def __init__(self, model: QuantizedModel, inputs: Tensor) -> None:
        super().__init__(model.graph_module, garbage_collect_values=False)
        self._inputs = inputs.to(model.device)
        self._graph: fx.Graph = model.graph_module.graph
        paths = {part: path for path, part in model.graph_module.named_modules()}
        nodes = {node.target: node for node in self._graph.nodes if node.op == "call_module"}
        self._nodes: dict[Place, fx.Node] = {
            key: nodes[paths[operand]] for key, operand in model.operands.items()
        }
        with torch.no_grad():
            self.logits: Tensor = self.run(self._inputs)
        self._values = dict(self.env)

    def value(self, key: Place) -> Tensor:
        """What reaches an operand."""
        source = self._nodes[key].args[0]
        assert isinstance(source, fx.Node)
        value: Tensor = self._values[source]
        return value.detach()

    def swapped(self, key: Place, value: Tensor) -> Tensor:
        """What the network gives if an operand gives ``value``."""
        at = self._nodes[key]
        known = {}
        for node in self._graph.nodes:
            if node is at:
                break
            known[node] = self._values[node]
        known[at] = value
        with torch.no_grad():
            logits: Tensor = self.run(self._inputs, initial_env=known)
        return logits

    def product(self, site: str, weight: Tensor) -> Tensor:
        """What the product of a site gives for another W, without a bias."""
        node = self._nodes[site, "O"].args[0]
        assert isinstance(node, fx.Node)
        left, _, *rest = node.args
        assert isinstance(left, fx.Node)
        call: Any = node.target
        with torch.no_grad():
            result: Tensor = call(self._values[left], weight, *rest)
        return result
