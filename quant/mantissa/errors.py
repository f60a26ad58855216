"""What quantising one building block does to its output and to the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.nn.functional import cosine_similarity

from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.quant.mantissa.units import Unit, under
from bfpsim.quant.torch.model import Codings, QuantizedModel
from bfpsim.quant.torch.operand import Mode, Operand
from bfpsim.workloads.importers.torch.sites import owner

if TYPE_CHECKING:
    import pandas as pd

FLOAT = Codings()
WHOLE = "whole"
"""The part that is all of a unit."""


def measure_errors(
    model: QuantizedModel,
    inputs: Tensor,
    units: Sequence[Unit],
    formats: Sequence[MiniFloat],
    *,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Quantise the weights of one unit at a time, all else in float32; the choice stays.

    Each unit as a whole, and each part of one with attention alone. The drop is 1 less the cosine
    similarity of float and quantised values, each image's tensor as one vector, mean over images.

    inputs: images, whose first axis counts them
    progress: called with each unit's name when it is done

    Returns a row per unit, part and format: unit, part (``whole``, or a layer's name in the unit),
    format, block_drop (at the unit's output, for a part too), logits_drop.
    """
    import pandas as pd

    places = _outputs(model, units)
    before = model.choice()
    exact = _Run(model, places, inputs, Mode.FLOAT)
    rows: list[dict[str, Any]] = []
    try:
        for unit in units:
            layers = {WHOLE: unit.layers} | {part: (name,) for part, name in unit.parts.items()}
            for part, names in layers.items():
                for fmt in formats:
                    chosen = {
                        s.name: Codings(W=fmt) if s.name in names else FLOAT for s in model.sites
                    }
                    model.choose(chosen, tied=False)
                    found = _Run(model, places, inputs, Mode.QUANTIZE)
                    rows.append(
                        {
                            "unit": unit.name,
                            "part": part,
                            "format": str(fmt),
                            "block_drop": drop(exact.outputs[unit.name], found.outputs[unit.name]),
                            "logits_drop": drop(exact.logits, found.logits),
                        }
                    )
            if progress is not None:
                progress(unit.name)
    finally:
        model.choose(before, tied=False)
    return pd.DataFrame(rows)


def drop(exact: Tensor, found: Tensor) -> float:
    """1 less the mean cosine similarity of (n, ...) tensors' rows, in float64: 0..2.

    Of two rows of zeros the similarity is 1, of one it is 0.
    """
    one, other = (tensor.double().flatten(1) for tensor in (exact, found))
    similarity = cosine_similarity(one, other, dim=1, eps=1e-300)
    alike = torch.where((one == other).all(1), 1.0, similarity)
    return float((1 - alike.clamp(max=1)).mean())


class _Run(fx.Interpreter):
    """A batch through the network: the logits, and each unit's output by its name."""

    def __init__(
        self, model: QuantizedModel, places: Mapping[fx.Node, str], inputs: Tensor, mode: Mode
    ) -> None:
        super().__init__(model.graph_module)
        self._places = places
        self.outputs: dict[str, Tensor] = {}
        with model.in_mode(mode), torch.no_grad():
            self.logits: Tensor = self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._places:
            self.outputs[self._places[n]] = value
        return value


def _outputs(model: QuantizedModel, units: Sequence[Unit]) -> dict[fx.Node, str]:
    """The node that computes each unit's output: the last in it that anything reads."""
    stored = {model.operand(site.name, "O"): site.name for site in model.sites}
    last: dict[str, fx.Node] = {}
    behind: dict[fx.Node, str] = {}  # O of a layer, and the sum with its bias
    for node in model.graph_module.graph.nodes:
        part = model.graph_module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(part, Operand) and part in stored:
            behind[node] = stored[part]
        elif not node.meta and node.args and node.args[0] in behind:
            behind[node] = behind[node.args[0]]
        for unit in units:
            inside = behind.get(node) in unit.layers or (unit.path and _runs_in(node, unit.path))
            if inside and node.users:
                last[unit.name] = node
    return {node: name for name, node in last.items()}


def _runs_in(node: fx.Node, path: str) -> bool:
    return node.op == "call_function" and under(owner(node), path)
