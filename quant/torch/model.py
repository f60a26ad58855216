"""Any torch module with every product's operands quantised.

The module is captured as a graph (`workloads.importers.torch.graph`: batch normalisation folded,
attention written out, outputs compared with the original's). At every site (convolution, linear,
product of activations) I and W pass through an `Operand` before they are multiplied, and O after,
before the bias: that is what the simulated accelerator stores and moves. Biases, ReLU, pooling,
residual adds, concatenations, normalisations and softmax stay in float between a stored O and the
next stored I.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from bfpsim.quant.formats import TENSORS, FormatError, LayerFormats, TensorName
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.formats.ties import Effect, OperandKey, Operation, tied_operands
from bfpsim.quant.torch.operand import Coding, Measurement, Mode, Operand, TransposedWeight
from bfpsim.workloads.importers.torch.export import aten, constants
from bfpsim.workloads.importers.torch.graph import Captured, Site, capture

_COLUMNS = Blocks(axis=-2)  # the second operand of a matmul: blocks along the reduction
# They need the whole of what they read before they give anything (`quant.formats.ties`).
_ENDS = (
    aten.softmax.int, aten._softmax.default, aten._safe_softmax.default, aten.log_softmax.int,
    aten.layer_norm.default, aten.native_layer_norm.default, aten.group_norm.default,
    aten.rms_norm.default, aten.instance_norm.default, aten.batch_norm.default,
)  # fmt: skip
_ALLOWED = "Conv1d, Conv2d, their transposes, Linear, products of activations"


@dataclass(frozen=True, slots=True)
class Codings:
    """The codings of I, W and O of one product; None is float32, left as it is."""

    I: Coding | None = None  # noqa: E741 - the tensor's name in the field
    W: Coding | None = None
    O: Coding | None = None  # noqa: E741

    @classmethod
    def uniform(cls, coding: Coding | None) -> Codings:
        """One coding for all three."""
        return cls(coding, coding, coding)

    def of(self, tensor: TensorName) -> Coding | None:
        """The coding of one of the tensors."""
        return {"I": self.I, "W": self.W, "O": self.O}[tensor]


Chosen = Codings | LayerFormats | Coding | None
"""A choice for one product, or for all: three codings, or one for I, W and O."""


class QuantizedModel(nn.Module):
    """A captured module whose operands are quantised, as `choose` and modes say.

    title: what messages call it
    batch: the only first extent that the module's forward takes, or None if it takes any
    sites: the products, in execution order; their names are those of the network's layers
    groups: operands that are one stored tensor (`quant.formats.ties`), but for W that are
        parameters
    """

    def __init__(self, captured: Captured, name: str, batch: int) -> None:
        super().__init__()
        self.title = name
        self.batch = None if captured.dynamic_batch else batch
        self.sites = captured.sites
        self.groups = tied_operands(_operations(captured))
        self.graph_module, self._operands = _insert_operands(captured)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the module gives for these inputs, on the device of its parameters.

        Raises FormatError for a batch that the forward's own numbers rule out, and as
        `Operand.quantize`.
        """
        if self.batch is not None and inputs and len(inputs[0]) != self.batch:
            raise FormatError(
                f"module {self.title}: a batch of {len(inputs[0])}; allowed: {self.batch}, which "
                "its forward holds as a constant"
            )
        return self.graph_module(*(x.to(self.device) for x in inputs))

    @property
    def device(self) -> torch.device:
        """The device of the parameters, to which inputs are moved; the CPU if there are none."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def operand(self, site: str, tensor: TensorName) -> Operand:
        """The operand of a site: tensor "I", "W" or "O"."""
        return self._operands[site, tensor]

    @property
    def operands(self) -> Mapping[OperandKey, Operand]:
        """The operands by site and tensor, in execution order."""
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
        """Each product's codings now."""
        return {
            site.name: Codings(*(self._operands[site.name, tensor].coding for tensor in TENSORS))
            for site in self.sites
        }

    @property
    def stored_tensors(self) -> tuple[tuple[OperandKey, ...], ...]:
        """The operands of each tensor that is stored: `groups`, then the readers of each W."""
        weights: dict[str, list[OperandKey]] = {}
        for site in self.sites:
            if site.kind != "matmul":
                weights.setdefault(site.shares or site.name, []).append((site.name, "W"))
        return *self.groups, *map(tuple, weights.values())

    def codings(self, of: Mapping[OperandKey, Coding]) -> dict[str, Codings]:
        """A coding for every operand, as `choose` takes it: by product."""
        return {
            site.name: Codings(*(of[site.name, tensor] for tensor in TENSORS))
            for site in self.sites
        }

    @contextmanager
    def keeping_choice(self) -> Iterator[None]:
        """Undo, at the end, what was chosen meanwhile."""
        before = {key: operand.coding for key, operand in self._operands.items()}
        try:
            yield
        finally:
            for key, operand in self._operands.items():
                operand.coding = before[key]

    def described(self) -> str:
        """The choice in one line; equal lines are equal choices."""
        return " ".join(f"{s}.{t}={_name(o.coding)}" for (s, t), o in self._operands.items())

    def set_mode(self, mode: Mode) -> None:
        """Set what all operands do."""
        for operand in self._operands.values():
            operand.mode = mode

    @contextmanager
    def in_mode(self, mode: Mode) -> Iterator[None]:
        """Put all operands in a mode for a while."""
        before = {key: operand.mode for key, operand in self._operands.items()}
        self.set_mode(mode)
        try:
            yield
        finally:
            for key, operand in self._operands.items():
                operand.mode = before[key]

    def calibrate(self, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
        """Take E_top of every activation from the float network's values on these inputs.

        Raises FormatError if there are none, as of a generator that is used up, and, naming the
        product, for values that are not finite.
        """
        some = iter(batches)
        first = next((batch for batch in some if _samples(batch)), None)
        if first is None:
            raise FormatError(
                f"calibration of {self.title}: there are no inputs; allowed: at least one batch "
                "(a generator gives each only once)"
            )
        for operand in self._operands.values():
            operand.top = None
        with self.in_mode(Mode.CALIBRATE), torch.no_grad():
            for batch in chain([first], some):
                if _samples(batch):
                    self(*(batch if isinstance(batch, tuple) else (batch,)))
        for operand in self._operands.values():
            if operand.top is None and not operand.stored:
                operand.top = 0  # as of a tensor that is all zero

    def measure(
        self, batches: Iterable[Tensor | tuple[Tensor, ...]]
    ) -> dict[OperandKey, Measurement]:
        """Signal, error and storage of every operand on these inputs, in the chosen codings."""
        for operand in self._operands.values():
            operand.measurement = Measurement()
        with self.in_mode(Mode.MEASURE), torch.no_grad():
            for batch in batches:
                self(*(batch if isinstance(batch, tuple) else (batch,)))
        return {key: operand.measurement for key, operand in self._operands.items()}

    def _check_tied(self, codings: Mapping[str, Codings]) -> None:
        for group in self.stored_tensors:
            (first, tensor), *others = group
            own = codings[first].of(tensor)
            for name, other in others:
                if codings[name].of(other) != own:
                    raise FormatError(
                        f"formats of {self.title}: {tensor} of {first!r} in {_name(own)} and "
                        f"{other} of {name!r} in {_name(codings[name].of(other))} are one stored "
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
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    model = uncalibrated_model(module, arguments, name)
    model.choose(chosen, tied=tied)
    model.calibrate([arguments] if calibration is None else calibration)
    return model


def uncalibrated_model(
    module: nn.Module, inputs: tuple[Tensor, ...], name: str | None = None
) -> QuantizedModel:
    """Return the module with operands in floats, and no E_top until `QuantizedModel.calibrate`.

    Parameters and errors are those of `quantize_model`.
    """
    captured = capture(module, inputs)
    title = name or type(module).__name__
    _check_covered(captured, title)
    model = QuantizedModel(captured, title, len(inputs[0]))
    model.set_mode(Mode.QUANTIZE)
    return model


def _check_covered(captured: Captured, title: str) -> None:
    total = sum(site.macs for site in captured.sites) + sum(captured.host_macs.values())
    if captured.host_macs:
        nodes = {node.name: node for node in captured.module.graph.nodes}
        shares = "; ".join(
            f"{node} ({nodes[node].target}) {macs / total:.2%}"
            for node, macs in captured.host_macs.items()
        )
        raise FormatError(
            f"module {title}: multiply-accumulates without a quantised form: {shares}; allowed: "
            f"{_ALLOWED}"
        )
    if not captured.sites:
        raise FormatError(f"module {title}: has no product to quantise; allowed: {_ALLOWED}")


def _samples(batch: Tensor | tuple[Tensor, ...]) -> int:
    """How many values a batch holds."""
    return sum(tensor.numel() for tensor in (batch if isinstance(batch, tuple) else (batch,)))


def _codings(chosen: Chosen) -> Codings:
    if isinstance(chosen, Codings):
        return chosen
    if isinstance(chosen, LayerFormats):
        return Codings(chosen.I, chosen.W, chosen.O)
    return Codings.uniform(chosen)


# --- the graph -----------------------------------------------------------------------------------


def _insert_operands(captured: Captured) -> tuple[fx.GraphModule, dict[OperandKey, Operand]]:
    """Put an operand before and after each site; a bias is added behind its O."""
    module = captured.module
    graph = module.graph
    nodes = {node.name: node for node in graph.nodes}
    operands: dict[OperandKey, Operand] = {}
    for number, site in enumerate(captured.sites):
        node = nodes[site.node]
        left, right, *rest = node.args
        targets = {}
        for tensor, operand in _operands(site, rest).items():
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


def _operands(site: Site, rest: list[Any]) -> dict[TensorName, Operand]:
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
    """The number of dimensions of a convolution's window."""
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


def _operations(captured: Captured) -> list[Operation]:
    """The graph as operations that tie tensors or do not.

    Parameters are left out, but for those that stand in a product of activations: each is a tensor
    of its own, tied to nothing but the products that read it.
    """
    graph = captured.module.graph
    fixed = constants(graph)
    sites = {site.node: site for site in captured.sites}
    names: dict[fx.Node, str] = {}
    operations = []
    for node in graph.nodes:
        if node in fixed or node.op == "output":
            continue
        site = sites.get(node.name)
        names[node] = site.name if site else f"{node.name}()"
        reads = tuple(names[x] for x in node.all_input_nodes if x not in fixed)
        effect: Effect = "pass"
        if site:
            # The same node may be both operands.
            factors: tuple[Any, ...] = node.args[:2] if site.kind == "matmul" else node.args[:1]
            for factor in factors:
                if factor in fixed and factor not in names:
                    names[factor] = f"{factor.name}()"
                    operations.append(Operation(names[factor], (), "end"))
            reads, effect = tuple(names[x] for x in factors), "product"
        elif node.target in _ENDS:
            effect = "end"
        operations.append(Operation(names[node], reads, effect))
    return operations


# --- names ---------------------------------------------------------------------------------------


def _name(coding: Coding | None) -> str:
    return "float32" if coding is None else str(coding)


def weights_digest(model: QuantizedModel) -> str:
    """The digest of a model's weights, whatever its operands are stored in."""
    own = {module for module in model.modules() if isinstance(module, Operand)}
    return tensor_digest(
        (f"{path}.{name}", tensor)
        for path, module in model.named_modules()
        if module not in own
        for name, tensor in chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        )
    )


def tensor_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A short name for values, by which stored results know what they belong to.

    Of names, dtypes, shapes and bits, in this order: 16 hexadecimal digits of SHA-256.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
