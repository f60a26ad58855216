"""Any torch module with every product's operands quantised.

The module is captured as a graph (`workloads.importers.torch.graph`: batch normalisation folded,
attention written out, outputs compared with the original's). At every site (convolution, linear,
product of activations) I and W pass through an `Operand` before they are multiplied, and O after,
before the bias: that is what the simulated accelerator stores and moves. Biases, ReLU, pooling,
residual adds, concatenations, normalisations and softmax stay in float between a stored O and the
next stored I.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bfpsim.quant.formats import FormatError, LayerFormats
from bfpsim.quant.torch import tied
from bfpsim.quant.torch.fake_quantize import Gradient
from bfpsim.quant.torch.insertion import graph_steps, insert_operands
from bfpsim.quant.torch.operand import Coding, Measured, Mode, Operand
from bfpsim.quant.torch.tied import Place, tied_groups
from bfpsim.workloads.importers.torch.graph import Captured, capture

TENSORS: tuple[tied.Tensor, ...] = ("I", "W", "O")


@dataclass(frozen=True, slots=True)
class Codings:
    """What I, W and O of one product are stored in; None is float32, left as it is."""

    I: Coding | None = None  # noqa: E741 - the tensor's name in the field
    W: Coding | None = None
    O: Coding | None = None  # noqa: E741

    @classmethod
    def uniform(cls, coding: Coding | None) -> Codings:
        """One coding for all three."""
        return cls(coding, coding, coding)

    def of(self, tensor: str) -> Coding | None:
        """The coding of tensor "I", "W" or "O"."""
        return {"I": self.I, "W": self.W, "O": self.O}[tensor]


Chosen = Codings | LayerFormats | Coding | None
"""Of one product, or of all: three codings, or one for I, W and O."""


class QuantizedModel(nn.Module):
    """A captured module whose operands are quantised; what it does is set by `choose` and modes.

    title: what messages call it
    sites: the products, in execution order; their names are those of the network's layers
    groups: operands that are one stored tensor (`quant.torch.tied`), but for W that are parameters
    """

    def __init__(self, captured: Captured, name: str, batch: int) -> None:
        super().__init__()
        self.title = name
        self.batch = None if captured.dynamic_batch else batch
        """The only first extent that the module's forward takes, or None if it takes any."""
        self.sites = captured.sites
        self.groups = tied_groups(graph_steps(captured))
        self.graph_module, self._operands = insert_operands(captured)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """What the module gives for these inputs, on the device of its parameters.

        Raises FormatError for a batch that the forward's own numbers rule out, and as
        `Operand.quantized`.
        """
        if self.batch is not None and inputs and len(inputs[0]) != self.batch:
            raise FormatError(
                f"module {self.title}: a batch of {len(inputs[0])}; allowed: {self.batch}, which "
                "its forward holds as a constant"
            )
        return self.graph_module(*(x.to(self.device) for x in inputs))

    @property
    def device(self) -> torch.device:
        """Where the parameters are, to which inputs are moved; the CPU if there are none."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def operand(self, site: str, tensor: tied.Tensor) -> Operand:
        """The operand of a site: tensor "I", "W" or "O"."""
        return self._operands[site, tensor]

    @property
    def operands(self) -> Mapping[Place, Operand]:
        """By (site, tensor), in execution order."""
        return self._operands

    def choose(self, chosen: Chosen | Mapping[str, Chosen], *, tied: bool = True) -> None:
        """Set what the operands are stored in: one choice for all products, or one for each.

        tied: refuse a choice in which one stored tensor would have two codings
            (`stored_tensors`). Free choices, as the paper's, store a tensor once more where they
            differ

        Raises FormatError for products that are missing, unknown or tied otherwise.
        """
        names = [site.name for site in self.sites]
        per_site: Mapping[str, Chosen] = (
            chosen if isinstance(chosen, Mapping) else dict.fromkeys(names, chosen)
        )
        missing, unknown = set(names) - set(per_site), set(per_site) - set(names)
        if missing or unknown:
            wrong = [f"lacks {name!r}" for name in sorted(missing)]
            wrong += [f"has {name!r}" for name in sorted(unknown)]
            raise FormatError(
                f"formats of {self.title}: {wrong[0]} ({len(wrong)} in all); allowed: one for each "
                f"of {', '.join(names)}"
            )
        codings = {name: _codings(per_site[name]) for name in names}
        if tied:
            self._check_tied(codings)
        for (name, tensor), operand in self._operands.items():
            operand.coding = codings[name].of(tensor)

    def choice(self) -> dict[str, Codings]:
        """What each product's operands are stored in now."""
        return {
            site.name: Codings(*(self._operands[site.name, tensor].coding for tensor in TENSORS))
            for site in self.sites
        }

    @property
    def stored_tensors(self) -> tuple[tuple[Place, ...], ...]:
        """The operands of each tensor that is stored: `groups`, then the readers of each W."""
        weights: dict[str, list[Place]] = {}
        for site in self.sites:
            if site.kind != "matmul":
                weights.setdefault(site.shares or site.name, []).append((site.name, "W"))
        return *self.groups, *map(tuple, weights.values())

    def codings(self, places: Mapping[Place, Coding]) -> dict[str, Codings]:
        """A coding for every operand, as `choose` takes it: by product."""
        return {
            site.name: Codings(*(places[site.name, tensor] for tensor in TENSORS))
            for site in self.sites
        }

    @contextmanager
    def keeping_choice(self) -> Iterator[None]:
        """Have what is chosen meanwhile undone at the end."""
        before = {key: operand.coding for key, operand in self._operands.items()}
        try:
            yield
        finally:
            for key, operand in self._operands.items():
                operand.coding = before[key]

    def described(self) -> str:
        """The choice in one line; equal lines are equal choices."""
        return " ".join(f"{s}.{t}={_said(o.coding)}" for (s, t), o in self._operands.items())

    def set_mode(self, mode: Mode) -> None:
        """Set what all operands do."""
        for operand in self._operands.values():
            operand.mode = mode

    def set_gradient(self, gradient: Gradient) -> None:
        """Set what passes back through the quantisation of BFP and plain formats."""
        for operand in self._operands.values():
            operand.gradient = gradient

    @contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Have all operands in a mode for a while."""
        before = {key: operand.mode for key, operand in self._operands.items()}
        self.set_mode(mode)
        try:
            yield
        finally:
            for key, operand in self._operands.items():
                operand.mode = before[key]

    def calibrate(self, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
        """Take E_top of every activation from the float network's values on these inputs.

        Raises FormatError, naming the product, for values that are not finite.
        """
        for operand in self._operands.values():
            operand.top = None
        with self.in_mode(Mode.CALIBRATE), torch.no_grad():
            for batch in batches:
                self(*(batch if isinstance(batch, tuple) else (batch,)))
        for operand in self._operands.values():
            if operand.top is None and not operand.stored:
                operand.top = 0  # as of a tensor that is all zero

    def measure(self, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> dict[Place, Measured]:
        """Signal, error and storage of every operand on these inputs, in the chosen codings."""
        for operand in self._operands.values():
            operand.measured = Measured()
        with self.in_mode(Mode.MEASURE), torch.no_grad():
            for batch in batches:
                self(*(batch if isinstance(batch, tuple) else (batch,)))
        return {key: operand.measured for key, operand in self._operands.items()}

    def _check_tied(self, codings: Mapping[str, Codings]) -> None:
        for group in self.stored_tensors:
            (first, tensor), *others = group
            own = codings[first].of(tensor)
            for name, other in others:
                if codings[name].of(other) != own:
                    raise FormatError(
                        f"formats of {self.title}: {tensor} of {first!r} in {_said(own)} and "
                        f"{other} of {name!r} in {_said(codings[name].of(other))} are one stored "
                        "tensor; allowed: one format for both, or tied=False"
                    )


def quantize_model(
    module: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    chosen: Chosen | Mapping[str, Chosen] = None,
    calibration: Iterable[Tensor | tuple[Tensor, ...]] | None = None,
    *,
    tied: bool = True,
    name: str | None = None,
) -> QuantizedModel:
    """Return the module with I, W and O of every product quantised; the module stays as it is.

    inputs: the forward's positional arguments, real data: they fix ranks and extents (all but the
        batch), and check the capture against the module
    chosen: formats for all products or by product name; None leaves floats until `choose`
    calibration: inputs from which every activation's E_top is taken; None takes ``inputs``
    tied: as in `QuantizedModel.choose`
    name: what messages call the module; None: its class

    Raises WorkloadError where the module cannot be captured. Raises FormatError if it multiplies
    and accumulates in operations that have no quantised form, listing each with its share of the
    multiply-accumulates, and as `QuantizedModel.choose` and `calibrate`.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    captured = capture(module, given)
    title = name or type(module).__name__
    _check_covered(captured, title)
    model = QuantizedModel(captured, title, len(given[0]))
    model.choose(chosen, tied=tied)
    model.calibrate([given] if calibration is None else calibration)
    model.set_mode(Mode.QUANTIZE)
    return model


def _check_covered(captured: Captured, title: str) -> None:
    total = sum(site.macs for site in captured.sites) + sum(captured.host_macs.values())
    if captured.host_macs:
        nodes = {node.name: node for node in captured.module.graph.nodes}
        listed = "; ".join(
            f"{node} ({nodes[node].target}) {macs / total:.2%}"
            for node, macs in captured.host_macs.items()
        )
        raise FormatError(
            f"module {title}: multiply-accumulates without a quantised form: {listed}; allowed: "
            f"{_ALLOWED}"
        )
    if not captured.sites:
        raise FormatError(f"module {title}: has no product to quantise; allowed: {_ALLOWED}")


_ALLOWED = "Conv1d, Conv2d, their transposes, Linear, products of activations"


def _codings(chosen: Chosen) -> Codings:
    if isinstance(chosen, Codings):
        return chosen
    if isinstance(chosen, LayerFormats):
        return Codings(chosen.I, chosen.W, chosen.O)
    return Codings.uniform(chosen)


def _said(coding: Coding | None) -> str:
    return "float32" if coding is None else str(coding)
