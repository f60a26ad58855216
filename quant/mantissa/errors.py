"""The building blocks of a network, and what quantising one does to its output and to the logits.

Blocks are residual blocks, inceptions, encoder layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cosine_similarity

from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.quant.torch.model import Codings, QuantizedModel
from bfpsim.quant.torch.operand import Mode, Operand
from bfpsim.workloads.importers.torch.sites import Site, owner

if TYPE_CHECKING:
    import pandas as pd

FLOAT = Codings()
WHOLE = "whole"
"""The part that is all of a unit."""
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LEAST = 2  # layers of a block


# --- units ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unit:
    """A block, or a layer that is in none.

    name: the block's path in the module, or the layer's name
    layers: names of its layers with stored weights, in execution order
    path: the block's path; "" for a layer in none
    attention: whether it multiplies activations, as encoder layers do
    """

    name: str
    layers: tuple[str, ...]
    path: str
    attention: bool

    @property
    def parts(self) -> dict[str, str]:
        """An encoder layer's own layers by their names in it: qkv, projection, fc1, fc2."""
        return {name.removeprefix(f"{self.path}."): name for name in self.layers if self.attention}


def find_units(module: nn.Module, sites: Sequence[Site]) -> tuple[Unit, ...]:
    """The units of a module, in execution order; every layer with stored weights is in one.

    The rule, from the outside in: the module itself, lists (``Sequential``, ``ModuleList``,
    ``ModuleDict``) and what holds a list with two or more members of two or more layers each (an
    encoder, a stage) are no blocks, but their members may be; any other submodule with two or more
    layers is a block; every other layer is a unit of its own.

    module: what was captured
    sites: of the capture
    """
    stored = [site for site in sites if site.kind != "matmul"]
    paths = tuple(_blocks(module, "", [site.owner for site in stored]))
    members: dict[str, list[Site]] = {}
    for site in stored:
        path = _holder(site, paths)
        members.setdefault(path or site.name, []).append(site)
    attention_in = {_holder(site, paths) for site in sites if site.kind == "matmul"}
    return tuple(
        Unit(
            name,
            tuple(site.name for site in layers),
            name if name in paths else "",
            name in attention_in,
        )
        for name, layers in members.items()
    )


def under(path: str, ancestor: str) -> bool:
    """True if a submodule's path is an ancestor's, or lies in it; "" holds every path."""
    return path == ancestor or not ancestor or path.startswith(f"{ancestor}.")


def _blocks(module: nn.Module, path: str, owners: Sequence[str]) -> Iterator[str]:
    for name, child in module.named_children():
        inside = f"{path}.{name}" if path else name
        layers = _layers(inside, owners)
        if layers < _LEAST:
            continue
        if isinstance(child, _LISTS) or _holds_blocks(child, inside, owners):
            yield from _blocks(child, inside, owners)
        else:
            yield inside


def _holds_blocks(module: nn.Module, path: str, owners: Sequence[str]) -> bool:
    lists = (
        (f"{path}.{name}", child)
        for name, child in module.named_modules()
        if isinstance(child, _LISTS)
    )
    return any(
        sum(_layers(f"{at}.{name}", owners) >= _LEAST for name, _ in members.named_children()) >= 2
        for at, members in lists
    )


def _layers(path: str, owners: Iterable[str]) -> int:
    return sum(under(owner, path) for owner in owners)


def _holder(site: Site, paths: Iterable[str]) -> str:
    return next((path for path in paths if under(site.owner, path)), "")


# --- errors --------------------------------------------------------------------------------------


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

    nodes = _outputs(model, units)
    exact = _Run(model, nodes, inputs, Mode.FLOAT)
    rows: list[dict[str, Any]] = []
    with model.keeping_choice():
        for unit in units:
            layers = {WHOLE: unit.layers} | {part: (name,) for part, name in unit.parts.items()}
            for part, names in layers.items():
                for fmt in formats:
                    codings = {
                        s.name: Codings(W=fmt) if s.name in names else FLOAT for s in model.sites
                    }
                    model.choose(codings, tied=False)
                    run = _Run(model, nodes, inputs, Mode.QUANTIZE)
                    rows.append(
                        {
                            "unit": unit.name,
                            "part": part,
                            "format": str(fmt),
                            "block_drop": drop(exact.outputs[unit.name], run.outputs[unit.name]),
                            "logits_drop": drop(exact.logits, run.logits),
                        }
                    )
            if progress is not None:
                progress(unit.name)
    return pd.DataFrame(rows)


def drop(exact: Tensor, quantized: Tensor) -> float:
    """1 less the mean cosine similarity of (n, ...) tensors' rows, in float64: 0..2.

    Of two rows of zeros the similarity is 1, of one it is 0.
    """
    one, other = (tensor.double().flatten(1) for tensor in (exact, quantized))
    similarity = cosine_similarity(one, other, dim=1, eps=1e-300)
    similarity = torch.where((one == other).all(1), 1.0, similarity)
    return float((1 - similarity.clamp(max=1)).mean())


class _Run(fx.Interpreter):
    """A batch's way through the network: the logits, and each unit's output by its name."""

    def __init__(
        self, model: QuantizedModel, units: Mapping[fx.Node, str], inputs: Tensor, mode: Mode
    ) -> None:
        super().__init__(model.graph_module)
        self._units = units
        self.outputs: dict[str, Tensor] = {}
        with model.in_mode(mode), torch.no_grad():
            self.logits: Tensor = self.run(inputs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._units:
            self.outputs[self._units[n]] = value
        return value


def _outputs(model: QuantizedModel, units: Sequence[Unit]) -> dict[fx.Node, str]:
    """The node that computes each unit's output: the last in it that anything reads."""
    layer_of = {model.operand(site.name, "O"): site.name for site in model.sites}
    last: dict[str, fx.Node] = {}
    behind: dict[fx.Node, str] = {}  # O of a layer, and the sum with its bias
    for node in model.graph_module.graph.nodes:
        called = model.graph_module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(called, Operand) and called in layer_of:
            behind[node] = layer_of[called]
        elif not node.meta and node.args and node.args[0] in behind:
            behind[node] = behind[node.args[0]]
        for unit in units:
            inside = behind.get(node) in unit.layers or (unit.path and _runs_in(node, unit.path))
            if inside and node.users:
                last[unit.name] = node
    return {node: name for name, node in last.items()}


def _runs_in(node: fx.Node, path: str) -> bool:
    return node.op == "call_function" and under(owner(node), path)
