"""Multiply-accumulates of a torch module as it runs: an oracle for what a graph of it says.

Convolutions, linear and recurrent layers and multi-head attention are counted by formulas of their
own, from forward hooks; everything else by torch's, operator by operator as it is dispatched. What
depends on no input, such as a weight that is a product of parameters, is computed once, before
inference, and counts nothing.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.draft import Imported
from bfpsim.workloads.importers.torch import graph
from bfpsim.workloads.importers.torch import module as importer
from bfpsim.workloads.importers.torch.graph import Captured
from bfpsim.workloads.importers.torch.sites import owner

Shape = tuple[int, ...]
_aten = torch.ops.aten


def _vector_flops(left: Shape, right: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(left)


def _added_flops(added: Shape, left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(left) * math.prod(right[2:])


def _tbc_flops(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[:2])


def _distance_flops(x: Shape, *others: Any, out_shape: Shape, **__: Any) -> int:
    """One product per pair and element; sums and maxima of differences have none."""
    p = next((other for other in others if isinstance(other, float)), 2.0)
    return 0 if p in (0, 1, math.inf) else 2 * math.prod(out_shape) * x[-1]


def _bilinear_flops(left: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _recurrent_flops(x: Shape, inner: Shape, hidden: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(inner) + math.prod(hidden))


# Operator -> its formula, from the shapes of its arguments, where torch has none: 2 per product.
MORE_FLOPS: dict[Any, Callable[..., int]] = {
    _aten.mv: _vector_flops,
    _aten.dot: _vector_flops,
    _aten.vdot: _vector_flops,
    _aten.addmv: _added_flops,
    _aten.addbmm: _added_flops,
    _aten.conv_tbc: _tbc_flops,
    _aten._cdist_forward: _distance_flops,
    _aten._euclidean_dist: _distance_flops,
    _aten._pdist_forward: _distance_flops,
    _aten._trilinear: _bilinear_flops,
    _aten.mkldnn_rnn_layer: _recurrent_flops,
}


def composite_macs(function: Any, operands: Sequence[Any]) -> int:
    """Multiply-accumulates of a call that no operator shows: torch makes products and sums of it.

    function: as it is called, or an operator of a graph
    """
    if function not in (torch.linalg.vecdot, _aten.linalg_vecdot.default):
        return 0
    shapes = (x.shape for x in operands[:2])
    return math.prod(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def import_counted(module: nn.Module, shapes: Any) -> Imported:
    """Import a module, whose network must have the multiply-accumulates that it has running."""
    captures = []

    def capture(copied: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
        captures.append((copied, inputs, graph.capture(copied, inputs)))
        return captures[-1][2]

    with mock.patch.object(importer, "capture", capture):
        made = importer.import_torch(module, shapes)
    ((run, inputs, captured),) = captures
    paths = {part: path for path, part in module.named_modules()}
    nodes = {node.name: node for node in made.network.nodes}
    counts: Counter[str] = Counter()
    for site in captured.sites:
        # Phases of a transposed convolution also count taps that meet the padding.
        node, macs = nodes.get(site.name), site.macs
        if site.kind != "transposed" and node is not None and node.layer is not None:
            macs = node.layer.macs * node.repeats
        counts[site.owner] += macs
    for each in captured.module.graph.nodes:
        if each.name in captured.host_macs:
            counts[paths[module.get_submodule(owner(each))]] += captured.host_macs[each.name]
    running = count_macs(copy.deepcopy(run).eval(), inputs)
    # The sums decide: within `torch.no_grad()` an export does not tell which submodule runs.
    found = difference(counts, running)
    if found is not None and sum(counts.values()) != sum(running.values()):
        path, captured_macs, running_macs = found
        raise AssertionError(
            f"module {made.network.name}: the captured graph has {sum(counts.values())} "
            f"multiply-accumulates, the running module {sum(running.values())}; they differ "
            f"first in {path or made.network.name!r}, {captured_macs} and {running_macs}"
        )
    return made


def count_macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Return path of submodule -> multiply-accumulates that it has itself, not those within it.

    Submodules without any are left out. The module runs once on tensors without data, and must be
    in evaluation mode. Raises `WorkloadError` if it fails.
    """
    counts: Counter[str] = Counter()
    running: list[tuple[str, bool]] = [("", False)]  # path, whether a formula counts it
    depends = _Dependent()
    hooks: list[Any] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # attention as operators, not as one kernel
    for path, part in module.named_modules():
        formula = _FORMULAS.get(getattr(type(part), "forward", None))
        hooks += _watch(part, path, formula, counts, running, depends)
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True) as fake,
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            empty = tuple(fake.from_tensor(x) for x in inputs)
            depends.add(empty)
            with _Dispatched(counts, running, depends), _Called(counts, running, depends):
                module(*empty)
    except Exception as error:  # whatever a module's own code raises
        raise WorkloadError(
            f"module {type(module).__name__}: its multiply-accumulates cannot be counted: "
            f"{str(error).splitlines()[0]}"
        ) from None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return {path: macs for path, macs in counts.items() if macs}


def difference(first: Mapping[str, int], second: Mapping[str, int]) -> tuple[str, int, int] | None:
    """Return the first path whose counts differ, with both, or None if all are equal."""
    for path in dict.fromkeys([*first, *second]):
        if first.get(path, 0) != second.get(path, 0):
            return path, first.get(path, 0), second.get(path, 0)
    return None


class _Dependent:
    """Which tensors depend on the inputs.

    Told by storage, so that what is written into a part of a tensor is seen in the whole.
    """

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}  # kept, so that no other gets the same number

    def add(self, values: Any) -> None:
        """Note the tensors among nested values."""
        self._storages.update((s._cdata, s) for s in _storages(values))

    def __call__(self, *values: Any) -> bool:
        """Whether a tensor among nested values depends on the inputs."""
        return any(storage._cdata in self._storages for storage in _storages(values))


def _storages(values: Any) -> list[Any]:
    return [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, Tensor)]


def _watch(
    part: nn.Module,
    path: str,
    formula: Callable[..., int] | None,
    counts: Counter[str],
    running: list[tuple[str, bool]],
    depends: _Dependent,
) -> list[Any]:
    def enter(_: nn.Module, __: Any) -> None:
        running.append((path, formula is not None or running[-1][1]))

    def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        running.pop()
        if formula is not None and not running[-1][1] and depends(output):
            counts[path] += formula(part, output, depends, *args, **kwargs)

    return [
        part.register_forward_pre_hook(enter),
        part.register_forward_hook(leave, with_kwargs=True),
    ]


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by torch's formulas, for the submodule that runs them."""

    def __init__(
        self, counts: Counter[str], running: list[tuple[str, bool]], depends: _Dependent
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts
        self._running = running
        self._depends = depends

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._depends(args, kwargs):
            return output
        self._depends.add(output)
        path, by_formula = self._running[-1]
        operator = func.overloadpacket
        if by_formula:
            return output
        if operator in flop_registry:
            flops: Any = flop_registry[operator]
            self._counts[path] += flops(*args, **(kwargs or {}), out_val=output) // 2
        elif operator in MORE_FLOPS:
            shapes = [tuple(x.shape) if isinstance(x, Tensor) else x for x in (output, *args)]
            self._counts[path] += MORE_FLOPS[operator](*shapes[1:], out_shape=shapes[0]) // 2
        return output


class _Called(TorchFunctionMode):
    """Counts what is called and seen by no dispatch, for the submodule that calls it."""

    def __init__(
        self, counts: Counter[str], running: list[tuple[str, bool]], depends: _Dependent
    ) -> None:
        super().__init__()
        self._counts = counts
        self._running = running
        self._depends = depends

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        path, by_formula = self._running[-1]
        given = kwargs or {}
        if not by_formula and self._depends(args, given):
            self._counts[path] += composite_macs(func, (*args, *given.values()))
        return func(*args, **given)


def _convolution(part: Any, output: Tensor, *_: Any, **__: Any) -> int:
    return int(output.numel() * (part.in_channels // part.groups) * math.prod(part.kernel_size))


def _transposed(
    part: Any, output: Tensor, depends: _Dependent, x: Tensor, *_: Any, **__: Any
) -> int:
    return int(x.numel() * (part.out_channels // part.groups) * math.prod(part.kernel_size))


def _linear(part: Any, output: Tensor, *_: Any, **__: Any) -> int:
    return output.numel() * int(part.in_features)


def _attention(
    part: Any,
    output: Any,
    depends: _Dependent,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    **__: Any,
) -> int:
    """Projections of queries, keys, values and outputs, and the two products between."""
    queries, keys = query.numel() // query.shape[-1], key.numel() // key.shape[-1]
    width, batch_axis = int(part.embed_dim), 0 if part.batch_first else 1
    samples = query.shape[batch_axis] if query.ndim == 3 else 1
    attended = keys // samples + (part.bias_k is not None) + bool(part.add_zero_attn)
    macs = width * queries * (attended + width)  # scores times values, and outputs
    for operands, products in (
        ((query,), queries * width),
        ((key,), keys * int(part.kdim)),
        ((value,), keys * int(part.vdim)),
        ((query, key), queries * attended),
    ):
        if depends(operands):  # queries may be parameters
            macs += width * products
    return macs


def _recurrent(part: Any, output: Any, depends: _Dependent, x: Any, *_: Any, **__: Any) -> int:
    """Each step by all matrices, that from an initial state of zeros too."""
    matrices = sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)
    return int(math.prod(x.data.shape[:-1]) * matrices)


# A subclass with a forward of its own may compute anything, so that none of these counts it.
_FORMULAS: dict[Any, Callable[..., int]] = {
    nn.Conv1d.forward: _convolution,
    nn.Conv2d.forward: _convolution,
    nn.Conv3d.forward: _convolution,
    nn.ConvTranspose1d.forward: _transposed,
    nn.ConvTranspose2d.forward: _transposed,
    nn.ConvTranspose3d.forward: _transposed,
    nn.Linear.forward: _linear,
    nn.MultiheadAttention.forward: _attention,
    **dict.fromkeys((nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward), _recurrent),
    **dict.fromkeys((nn.RNNCell.forward, nn.GRUCell.forward, nn.LSTMCell.forward), _recurrent),
}
