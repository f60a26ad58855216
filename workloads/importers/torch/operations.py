"""What a captured graph does, operation by operation, as nodes of a network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.graph.product import Contraction, Letters, Product, Windows
from bfpsim.workloads.importers import products
from bfpsim.workloads.importers.draft import Draft, Names
from bfpsim.workloads.importers.torch.export import arguments_of, aten, each
from bfpsim.workloads.importers.torch.graph import Captured
from bfpsim.workloads.importers.torch.run import Constants, TorchOperation
from bfpsim.workloads.importers.torch.sites import Site, owner
from bfpsim.workloads.importers.view import Dims, View
from bfpsim.workloads.layer import Pair, Shape, WorkloadError
from bfpsim.workloads.node import Pool


class OperationDraft(Draft[fx.Node]):
    """A network drafted from a captured graph.

    Layers have their sites' names; other operations that of their submodule if it is one of
    ``leaves``, which are one operation each, else its path and what they do.

    constants: what depends on no input
    inputs: the graph's inputs, and what the forward calls them
    """

    def __init__(self, name: str, captured: Captured, leaves: Iterable[str]) -> None:
        super().__init__(name, Names(site.name for site in captured.sites), "permute")
        self.captured = captured
        self.constants = Constants(captured)
        self.inputs: dict[fx.Node, str] = {}
        self._leaves = frozenset(leaves)

    def dims(self, node: fx.Node) -> Dims:
        """Return the shape of the tensor that an fx node computes."""
        return self.captured.shapes[node.name]

    def note(self, node: fx.Node, operation: Product | TorchOperation, *reads: fx.Node) -> None:
        """Note an fx node as an operation of the graph; it reads what it reads, or ``reads``."""
        sources = reads or node.all_input_nodes
        names = [self.inputs.get(source, source.name) for source in sources]
        self.step(owner(node) or node.name, _function(node), names, [node.name], operation)

    def title(self, node: fx.Node, function: str) -> str:
        """Return a free name for what an fx node does."""
        path = owner(node)
        if path in self._leaves:
            return self.names.free(path)
        return self.names.free(f"{path}.{function}" if path else function)


def append_layer(draft: OperationDraft, site: Site, node: fx.Node) -> None:
    """Append the node of a site, some for a transposed convolution, and add its weights."""
    draft.names.claim(site.name)
    match site.kind:
        case "matmul":
            _matmul(draft, site, node)
        case "linear":
            _linear(draft, site, node)
        case "transposed":
            _transposed(draft, site, node)
        case _:
            _convolution(draft, site, node)


def append_operation(draft: OperationDraft, node: fx.Node) -> None:
    """Append what an fx node does: nothing, a node of its kind, or one of the host's."""
    kind = _KINDS.get(node.target)
    view = None if kind is None else kind(draft, node)
    draft.views[node] = _host(draft, node) if view is None else view
    draft.note(node, TorchOperation(node))


def zero_padding(node: fx.Node) -> tuple[fx.Node, Shape] | None:
    """Return what a pad of zeros reads and (top, bottom, left, right), if layers take it over.

    They do if nothing but convolutions reads it, and it pads nothing but their maps.
    """
    if node.target != aten.constant_pad_nd.default:
        return None
    arguments: tuple[Any, ...] = node.args
    x, pads, *value = arguments
    ranks: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 2}
    readers = [(ranks.get(reader.target, 0), reader.args[0]) for reader in node.users]
    axes = min((rank for rank, _ in readers), default=0)
    sides = [int(pad) for pad in pads]
    alone = all(read is node for _, read in readers) and len(sides) <= 2 * axes
    if not alone or min(sides) < 0 or (value and value[0] != 0):
        return None
    left, right, top, bottom = (*sides, 0, 0)[:4] if len(sides) == 2 else sides
    return x, (top, bottom, left, right)


def _convolution(draft: OperationDraft, site: Site, node: fx.Node) -> None:
    arguments: tuple[Any, ...] = node.args
    x, _, _, stride, padding, dilation, groups = arguments
    weight, bias = _stored(draft, site, node)
    padded = zero_padding(x)
    before, (top, bottom, left, right) = (x, (0, 0, 0, 0)) if padded is None else padded
    rows, cols = _pair(padding, 0)
    layer, draft.views[node] = draft.convolution(
        site.name,
        draft.views[before],
        len(weight),
        _pair(weight.shape[2:]),
        stride=_pair(stride),
        padding=(top + rows, bottom + rows, left + cols, right + cols),
        dilation=_pair(dilation),
        groups=groups,
    )
    own = np.zeros(len(weight), np.float32) if bias is None else bias
    draft.weights[site.name] = stored = LayerWeights(weight.reshape(layer.weight_shape), own)
    draft.note(node, Windows(layer, stored), before)


def _transposed(draft: OperationDraft, site: Site, node: fx.Node) -> None:
    arguments: tuple[Any, ...] = node.args
    x, _, _, stride, padding, extra, groups, _ = arguments
    weight, bias = _stored(draft, site, node)
    channels, kernel = groups * weight.shape[1], _pair(weight.shape[2:])
    own = np.zeros(channels, np.float32) if bias is None else bias
    rows, cols = _pair(padding, 0)
    draft.views[node], run = draft.transposed(
        site.name,
        draft.views[x],
        channels,
        kernel,
        stride=_pair(stride),
        padding=(rows, rows, cols, cols),
        output_padding=_pair(extra, 0),
        groups=groups,
        biased=bias is not None,
        weights=(weight.reshape(*weight.shape[:2], *kernel), own),
    )
    draft.note(node, run, x)


def _linear(draft: OperationDraft, site: Site, node: fx.Node) -> None:
    weight, bias = _stored(draft, site, node)
    view = draft.views[_read(node)]
    outer = "".join(chr(ord("A") + dim) for dim in range(len(view.dims) - 1))
    product = Letters(outer + "k", "nk", outer + "n")
    layer, output, order = products.linear(draft, site.name, view, product, weight.shape)
    own = np.zeros(len(weight), np.float32) if bias is None else bias
    draft.views[node] = output
    # The layer's channels may be in another order than the weight's.
    draft.weights[site.name] = stored = LayerWeights(weight.reshape(layer.weight_shape), own)
    run = Contraction(layer, product, order, view.shape, weight.shape, output.shape, weights=stored)
    draft.note(node, run, _read(node))


def _matmul(draft: OperationDraft, site: Site, node: fx.Node) -> None:
    factors = []
    for operand in node.args[:2]:
        assert isinstance(operand, fx.Node)
        if operand not in draft.views:  # computed from parameters alone
            view = View.of(draft.names.free(f"{site.name}.parameter"), draft.dims(operand))
            draft.host(view.node, "parameter", [], view.own_shape)
            draft.views[operand] = view
        factors.append(draft.views[operand])
    left, right = factors
    product = Letters.matmul(left.shape, right.shape)
    draft.views[node], run = products.matmul(draft, site.name, left, right, product)
    sources = [x for x in node.args[:2] if isinstance(x, fx.Node)]
    draft.note(node, run, *sources)


def _stored(
    draft: OperationDraft, site: Site, node: fx.Node
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return what a site multiplies by and adds, as torch has it; None: it adds nothing."""
    arguments: tuple[Any, ...] = node.args
    values = []
    for argument in arguments[1:3]:
        if argument is not None and argument.name not in draft.constants:
            raise WorkloadError(f"layer {site.name!r}: its weight depends on an input")
        values.append(None if argument is None else draft.constants.value(argument))
    for value in values:
        if value is not None and not bool(value.isfinite().all()):
            raise WorkloadError(f"layer {site.name!r}: its weights hold NaN or Inf")
    weight, bias = (None if value is None else value.float().numpy() for value in values)
    assert weight is not None
    return weight, bias


def _relu(draft: OperationDraft, node: fx.Node) -> View | None:
    return draft.relu(draft.title(node, "relu"), draft.views[_read(node)])


def _add(draft: OperationDraft, node: fx.Node) -> View | None:
    """Append the sum of two activations of one shape."""
    views = [draft.views[x] for x in node.args if x in draft.views]  # type: ignore[index]
    if node.kwargs or len(views) < 2 or views[0].shape != views[1].shape:
        return None
    return draft.add(draft.title(node, "add"), views)


def _concat(draft: OperationDraft, node: fx.Node) -> View | None:
    """Append a concatenation along the dimension that is held as channels."""
    parts, *options = node.args
    assert isinstance(parts, list | tuple)
    views = [draft.views[x] for x in parts if x in draft.views]  # type: ignore[index]
    if len(views) < len(parts) or len(parts) < 2:
        return None
    dim = _dimension(options[0] if options else 0, len(views[0].dims))
    if any(view.c != view.dims[dim] for view in views):
        return None
    joined = draft.concat(draft.title(node, "concat"), views, dim)
    if len({*parts}) == 1:
        draft.repeat(joined, views[0], dim, len(views), apart=True)
    return joined


def _max_pool(draft: OperationDraft, node: fx.Node) -> View | None:
    """Append a maximum over windows of one or two dimensions."""
    x, kernel, stride, padding, dilation, ceil = arguments_of(node, (None, None, [], 0, 1, False))
    axes = len(draft.dims(node)) - 2
    if len(draft.dims(x)) != axes + 2 or {*each(dilation, axes)} != {1}:
        return None
    window, step, pad = (each(value, axes) for value in (kernel, stride or kernel, padding))
    pool = Pool(_pair(window), _pair(step), _pair(pad, 0), bool(ceil))
    return draft.max_pool(draft.title(node, "maxpool"), draft.views[x], pool)


def _average_pool(draft: OperationDraft, node: fx.Node) -> View | None:
    """Append an average over windows, or an adaptive one, if there is one: the whole map."""
    _, window, *more = node.args
    padding = more[1] if len(more) > 1 else 0
    extents = draft.dims(_read(node))[2:]
    adaptive = node.target == aten.adaptive_avg_pool2d.default
    whole = (1,) * len(extents) if adaptive else extents
    padded = not adaptive and any(each(padding, len(extents)))
    if padded or tuple(each(window, len(extents))) != whole:
        return None
    return draft.average_pool(draft.title(node, "avgpool"), draft.views[_read(node)])


def _mean(draft: OperationDraft, node: fx.Node) -> View | None:
    """Append the mean over all that is held as the map."""
    view = draft.views[_read(node)]
    gone = _reduction(node, len(view.dims))
    if {axis for dim in gone for axis in view.dims[dim]} != {*view.map}:
        return None
    keep = len(draft.dims(node)) == len(view.dims)
    return draft.mean(draft.title(node, "avgpool"), view, gone, keep=keep)


def _reshape(draft: OperationDraft, node: fx.Node) -> View | None:
    """Split and merge dimensions where nothing moves."""
    return draft.views[_read(node)].reshape(draft.dims(node))


def _permute(draft: OperationDraft, node: fx.Node) -> View | None:
    view = draft.views[_read(node)]
    order = list(range(len(view.dims)))
    if node.target == aten.permute.default:
        order = [_dimension(dim, len(order)) for dim in node.args[1]]  # type: ignore[union-attr]
    elif node.target == aten.transpose.int:
        one, other = (_dimension(dim, len(order)) for dim in node.args[1:])
        order[one], order[other] = other, one
    else:
        order.reverse()
    return view.permute(order)


def _same(draft: OperationDraft, node: fx.Node) -> View | None:
    """Leave out what changes no value's place, such as a slice of everything."""
    view = draft.views.get(_read(node))
    return None if view is None or view.shape != draft.dims(node) else view


def _host(draft: OperationDraft, node: fx.Node) -> View:
    """Append an operation of the host's.

    What it gives is taken to be held as what it reads, dimension by dimension; if that tells
    nothing, as torch has it at this rank.
    """
    # The results of an operation that has several are read item by item.
    part = node.target == operator.getitem
    run = _read(node) if part else node
    first = not part or next(iter(run.users)) is node
    macs = draft.captured.host_macs.get(run.name, 0) if first else 0
    views = [draft.views[x] for x in run.all_input_nodes if x in draft.views]
    function = _function(run)
    name, shape = draft.title(run, function), draft.dims(node)
    equal = next((view for view in views if view.shape == shape), None)
    if equal is not None:
        view = replace(equal, node=name)
    else:
        view = (_follow(run, name, views[0], shape) if views else None) or View.of(name, shape)
    extents = view.own_shape
    if equal is not None and (len(shape) == 4 or 1 in draft.shape(equal.node)[1:3]):
        extents = draft.shape(equal.node)  # else a map has become a line of tokens
    draft.host(name, function, dict.fromkeys(view.node for view in views), extents, macs)
    if len(views) == 1:
        _note_repeats(draft, node, view, views[0])
    return view


def _note_repeats(draft: OperationDraft, node: fx.Node, view: View, source: View) -> None:
    """Note what holds one tensor several times along one dimension."""
    if node.target not in (*_REPEATS, aten.repeat_interleave.self_int):
        return
    if node.target == aten.cat.default and len({*node.args[0]}) > 1:  # type: ignore[misc]
        return
    before = (*(1 for _ in range(len(view.dims) - len(source.dims))), *source.shape)
    changed = [dim for dim, extent in enumerate(view.shape) if before[dim] != extent]
    if len(changed) == 1:
        dim = changed[0]
        times = view.shape[dim] // before[dim]
        draft.repeat(view, source, dim, times, apart=node.target in _REPEATS)


def _follow(node: fx.Node, name: str, view: View, shape: Sequence[int]) -> View | None:
    """Return a view of ``name``'s output, of a shape that differs from ``view``'s, if one is."""
    extents: list[int | None] = list(shape)
    if len(shape) < len(view.dims):
        gone = _reduction(node, len(view.dims)) if node.target in _REDUCTIONS else []
        for dim in sorted(gone):
            extents.insert(dim, None)
    if len(extents) != len(view.dims) or node.target == aten.reshape.default:
        return None
    return view.resize(name, extents)


def _read(node: fx.Node) -> fx.Node:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    return x


def _function(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    name = str(getattr(packet, "__name__", packet)).strip("_")
    way = node.kwargs.get("approximate", "none")  # of a gelu
    return name if way == "none" else f"{name}_{way}"


def _dimension(dim: Any, rank: int) -> int:
    return int(dim) % max(1, rank)


def _reduction(node: fx.Node, rank: int) -> list[int]:
    """Return the dimensions that an operation's second argument names, or stands for if left out.

    That is the first of unbind, and all of what sums or averages.
    """
    default = 0 if node.target == aten.unbind.int else None
    dims = node.args[1] if len(node.args) > 1 else default
    if dims is None or dims == []:
        return list(range(rank))
    return [_dimension(dim, rank) for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def _pair(values: Any, single: int = 1) -> Pair:
    """Return (rows, columns) of one or two; the row that is none has ``single``."""
    rows, cols = (single, *values) if len(values) == 1 else values
    return int(rows), int(cols)


# Operator -> what appends it, and returns None if it could not; then it is the host's.
_KINDS: dict[Any, Callable[[OperationDraft, fx.Node], View | None]] = {
    aten._to_copy.default: _same,
    aten.adaptive_avg_pool2d.default: _average_pool,
    aten.add.Tensor: _add,
    aten.avg_pool2d.default: _average_pool,
    aten.cat.default: _concat,
    aten.expand.default: _same,
    aten.flatten.using_ints: _reshape,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.mean.dim: _mean,
    aten.numpy_T.default: _permute,
    aten.permute.default: _permute,
    aten.relu.default: _relu,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _same,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.t.default: _permute,
    aten.to.dtype: _same,
    aten.transpose.int: _permute,
    aten.unflatten.int: _reshape,
    aten.unsqueeze.default: _reshape,
}
# These repeat the whole, not each element.
_REPEATS = (aten.expand.default, aten.repeat.default, aten.cat.default)
# These take dimensions away, those that their second argument names.
_REDUCTIONS = (
    aten.amax.default, aten.argmax.default, aten.mean.dim, aten.select.int, aten.sum.dim_IntList,
    aten.unbind.int,
)  # fmt: skip
