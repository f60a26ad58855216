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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from bfpsim.objects import immutable
from bfpsim.quant.formats import TENSORS, FormatError, LayerFormats, TensorName
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.formats.ties import Effect, OperandKey, Operation, tied_operands
from bfpsim.quant.torch.graph import PlainGraph
from bfpsim.quant.torch.operand import Coding, Measurement, Mode, Operand, TransposedWeight
from bfpsim.quant.torch.state import pack_state, unpack_state
from bfpsim.workloads.importers.torch.export import aten, constants
from bfpsim.workloads.importers.torch.graph import Captured, Site, capture, copied
from bfpsim.workloads.importers.torch.watch import watch

_STATE = "_extra_state"  # torch's name of what `get_extra_state` gives
_TOLERANCE = 1e-5  # of the largest output: what is no change
_COLUMNS = Blocks(axis=-2)  # the second operand of a matmul: blocks along the reduction
# They need the whole of what they read before they give anything (`quant.formats.ties`).
_ENDS = (
    aten.softmax.int, aten._softmax.default, aten._safe_softmax.default, aten.log_softmax.int,
    aten.layer_norm.default, aten.native_layer_norm.default, aten.group_norm.default,
    aten.rms_norm.default, aten.instance_norm.default, aten.batch_norm.default,
)  # fmt: skip
_ALLOWED = "Conv1d, Conv2d, their transposes, Linear, products of activations"


@immutable
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


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of a forward, as it was captured.

    floats: whether it holds floats; own: whether these are of the parameters' type
    """

    name: str
    shape: tuple[int, ...]
    floats: bool
    own: bool

    def check(self, given: object, dtype: torch.dtype | None, where: str) -> None:
        """Raise FormatError for another kind of values, another rank or extents but the first."""
        where = f"{where}: input {self.name!r}"
        if not isinstance(given, Tensor):
            raise FormatError(f"{where} is {type(given).__name__}; allowed: a tensor")
        if given.is_floating_point() != self.floats:
            kind = "floats" if self.floats else "whole numbers or bool"
            raise FormatError(f"{where} is {given.dtype}; allowed: {kind}, as it was captured")
        if self.own and dtype is not None and given.dtype != dtype:
            raise FormatError(
                f"{where} is {given.dtype}; allowed: {dtype}, the type of the parameters"
            )
        if given.dim() != len(self.shape) or tuple(given.shape[1:]) != self.shape[1:]:
            extents = ", ".join(map(str, ("any", *self.shape[1:])[: len(self.shape)]))
            raise FormatError(
                f"{where} is {tuple(given.shape)}; allowed: ({extents}), as it was captured"
            )


class QuantizedModel(nn.Module):
    """A captured module whose operands are quantised, as `choose` and modes say.

    Its state dict holds formats and E_top beside the weights (``_extra_state``), and another model
    of the same module gives equal outputs with it; pickled, copied or in another process it gives
    equal outputs, too.

    title: what messages call it
    batch: the only first extent that the module's forward takes, or None if it takes any
    sites: the products, in execution order; their names are those of the network's layers
    groups: operands that are one stored tensor (`quant.formats.ties`), but for W that are
        parameters
    """

    def __init__(self, captured: Captured, name: str, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.title = name
        self.batch = None if captured.dynamic_batch else (*inputs[0].shape, None)[0]
        dtype = _parameter_dtype(captured.module)
        placeholders = captured.module.graph.find_nodes(op="placeholder")
        self._inputs = tuple(
            _Input(str(node.target), tuple(x.shape), x.is_floating_point(), x.dtype == dtype)
            for node, x in zip(placeholders, inputs, strict=True)
        )
        self.sites = captured.sites
        self.groups = tied_operands(_operations(captured))
        self.graph_module, self._operands = _insert_operands(captured)
        self.eval()

    def __repr__(self) -> str:
        chosen = sorted({_name(operand.coding) for operand in self._operands.values()})
        shown = ", ".join(chosen[:4]) + (", ..." if chosen[4:] else "")
        modes = ", ".join(sorted({operand.mode.value for operand in self._operands.values()}))
        return f"<QuantizedModel of {self.title}: {len(self.sites)} products in {shown}; {modes}>"

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the module gives for these inputs, on the device of its parameters.

        Raises FormatError, naming the input, for other numbers, types and extents of inputs than
        those of the capture, the first extent aside where the forward leaves it free; under
        autocast, for half precision, and as `Operand.quantize`.
        """
        device = self.device
        self._check(inputs, device)
        return self.graph_module(*(x.to(device) for x in inputs))

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

    def get_extra_state(self) -> Tensor:
        """Return formats and E_top, as a state dict keeps them (`quant.torch.state`)."""
        return pack_state(
            {
                _operand_name(key): (operand.coding, None if operand.stored else operand.top)
                for key, operand in self._operands.items()
            }
        )

    def set_extra_state(self, state: Any) -> None:
        """Take formats and E_top from a state dict.

        Raises FormatError for a state of another network, or that is none; nothing is changed then.
        """
        operands = {_operand_name(key): operand for key, operand in self._operands.items()}
        own = [operand.coding for operand in operands.values()]
        for name, (coding, top) in unpack_state(state, operands, own, self.title).items():
            operands[name].coding = coding
            if not operands[name].stored:
                operands[name].top = top

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take weights, formats and E_top, as any module takes its state.

        Raises FormatError for weights without formats and E_top, strict or not, and for a state
        that has nothing of this model's, as with a prefix before its names; RuntimeError as torch.
        """
        own = self.state_dict().keys()
        if not own & state_dict.keys():
            raise FormatError(
                f"state of {self.title}: has no name of the model's, but {_some(state_dict)}; "
                f"allowed: {_some(own)}{_way_out(state_dict, own)}"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        parts = (f"{prefix}{name}." for name, _ in self.named_children())
        key = f"{prefix}{_STATE}"
        if key not in state_dict and any(name.startswith((*parts,)) for name in state_dict):
            raise FormatError(
                f"state of {self.title}: weights without formats and E_top, which {key!r} holds; "
                f"allowed: with it; state_dict()[{_STATE!r}] of this model keeps its own"
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

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

        Raises FormatError for no inputs, and, naming the product, for values that are not finite;
        E_top is then as it was.
        """
        before = {key: operand.top for key, operand in self._operands.items()}
        for operand in self._operands.values():
            operand.top = None
        try:
            self._calibrate(batches)
        except BaseException as error:
            for key, operand in self._operands.items():
                operand.top = before[key]
            if isinstance(error, FormatError):
                raise FormatError(f"calibration of {self.title}: {error}") from None
            raise
        for operand in self._operands.values():
            if operand.top is None and not operand.stored:
                operand.top = 0  # as of a tensor that is all zero

    def _calibrate(self, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
        empty = True
        with self.in_mode(Mode.CALIBRATE), torch.no_grad():
            for batch in batches:
                inputs = batch if isinstance(batch, tuple) else (batch,)
                if any(x.numel() for x in inputs):
                    self(*inputs)
                    empty = False
        if empty:
            raise FormatError(
                "there are no inputs; allowed: at least one batch (a generator gives each only "
                "once)"
            )

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

    def _check(self, inputs: tuple[Tensor, ...], device: torch.device) -> None:
        where = f"module {self.title}"
        if _autocast(device.type):
            raise FormatError(
                f"{where}: under torch.autocast, which rounds what is quantised once more; "
                f"allowed: outside of it, as in torch.autocast({device.type!r}, enabled=False)"
            )
        if len(inputs) != len(self._inputs):
            names = ", ".join(each.name for each in self._inputs)
            raise FormatError(
                f"{where}: {len(inputs)} inputs; allowed: {len(self._inputs)}: {names}"
            )
        dtype = _parameter_dtype(self)
        if dtype is not None:
            _check_dtype(dtype, f"{where}: its parameters")
        for given, own in zip(inputs, self._inputs, strict=True):
            own.check(given, dtype, where)
            if self.batch is None and given.shape[0] != inputs[0].shape[0]:
                raise FormatError(
                    f"{where}: input {own.name!r} is a batch of {given.shape[0]}; allowed: "
                    f"{inputs[0].shape[0]}, as of {self._inputs[0].name!r}"
                )
            if self.batch is not None and own.shape[:1] != given.shape[:1]:
                raise FormatError(
                    f"{where}: a batch of {given.shape[0]} in input {own.name!r}; allowed: "
                    f"{own.shape[0]}, which its forward holds as a constant"
                )

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
    model = uncalibrated_model(module, inputs, name=name)
    model.choose(chosen, tied=tied)
    with _plainly(model):
        model.calibrate([inputs] if calibration is None else calibration)
    return model


def uncalibrated_model(
    module: nn.Module, inputs: Tensor | tuple[Tensor, ...], name: str | None = None
) -> QuantizedModel:
    """Return the module with an operand at I, W and O of every product, in floats.

    Until `QuantizedModel.calibrate` a format's E_top is each tensor's own. Arguments and errors as
    `quantize_model`.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    title = name or type(module).__name__
    with _plainly(module):
        arguments = tuple(x.clone() if x.is_inference() else x for x in arguments)
        _check_capturable(module, arguments, title)
        captured = capture(module, arguments)
        _check_covered(captured, title)
        model = QuantizedModel(captured, title, arguments)
    model.set_mode(Mode.QUANTIZE)
    return model


@contextmanager
def _plainly(module: nn.Module) -> Iterator[None]:
    """Have autocast and inference mode off, which would become part of the graph and its tensors.

    Other modules' tensors that are made meanwhile are trainable.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in sorted({"cpu", *(x.device.type for x in module.parameters())}):
            if _autocast(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _check_capturable(module: nn.Module, inputs: tuple[Tensor, ...], title: str) -> None:
    """Raise FormatError for tensors of a type that is not quantised, and for a random forward."""
    tensors = chain(
        ((f"parameter {name!r}", each) for name, each in module.named_parameters()),
        ((f"buffer {name!r}", each) for name, each in module.named_buffers()),
        ((f"input {number}", each) for number, each in enumerate(inputs)),
    )
    for name, tensor in tensors:
        _check_dtype(tensor.dtype, f"module {title}: {name}")
    if any(tensor.is_meta for tensor in chain(module.parameters(), inputs)):
        return  # `capture` says that they have no values
    alone = copied(module)
    if not _changes(alone, inputs):
        return
    draws = watch(alone, inputs).draws
    cause = (
        f"is random in evaluation mode: {draws[0]}"
        if draws
        else "keeps state from call to call, or draws numbers that are not torch's"
    )
    raise FormatError(
        f"module {title}: its forward {cause}; allowed: outputs that depend on inputs and "
        "parameters alone"
    )


def _changes(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a module gives other outputs when it runs again."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            one, other = (tree_leaves(module(*(x.clone() for x in inputs))) for _ in range(2))
    except Exception:  # whatever its own code raises: `capture` says so
        return False
    for before, after in zip(one, other, strict=False):
        if isinstance(before, Tensor) and before.numel():
            before, after = before.double(), after.double()
            # Sums on a GPU come in any order.
            allowed = _TOLERANCE * float(before.nan_to_num(0, 0, 0).abs().max())
            if before.shape != after.shape or not torch.allclose(
                before, after, rtol=0, atol=allowed, equal_nan=True
            ):
                return True
    return False


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


def _parameter_dtype(module: nn.Module) -> torch.dtype | None:
    """The type of a module's first parameter that holds floats."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def _check_dtype(dtype: torch.dtype, name: str) -> None:
    """Raise FormatError for floats that are not quantised, with a way out."""
    if dtype.is_floating_point and dtype not in (torch.float32, torch.float64):
        raise FormatError(
            f"{name}: {dtype}; allowed: torch.float32, torch.float64, as of module.float() and "
            "inputs.float()"
        )


def _codings(chosen: Chosen) -> Codings:
    if isinstance(chosen, Codings):
        return chosen
    if isinstance(chosen, LayerFormats):
        return Codings(chosen.I, chosen.W, chosen.O)
    return Codings.uniform(chosen)


# --- the graph -----------------------------------------------------------------------------------


def _insert_operands(captured: Captured) -> tuple[fx.GraphModule, dict[OperandKey, Operand]]:
    """Put an operand before and after each site; a bias is added behind its O."""
    graph = captured.module.graph
    graph._tracer_cls = None  # that of torch.export, which only it can make
    module = PlainGraph(captured.module, graph, type(captured.module).__name__)
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


def _some(names: Iterable[str]) -> str:
    first = [repr(name) for name in names][:3]
    return ", ".join(first) or "nothing"


def _way_out(given: Iterable[str], own: Iterable[str]) -> str:
    """Say how a state's names come from a model's, if they do."""
    short = {f"graph_module.{name}" for name in given}
    if short & {*own}:
        return ": it is of a module before quantize_model; allowed: to load it there"
    ends = ((name, key) for name in given for key in own if name.endswith(f".{key}"))
    name, key = next(ends, ("", ""))
    return f": without {name.removesuffix(key)!r} before each" if name else ""


def _operand_name(key: OperandKey) -> str:
    return " ".join(key)


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
