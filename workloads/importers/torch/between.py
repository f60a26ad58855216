"""What a captured graph does between its layers, as nodes of a network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from bfpsim.workloads.importers.torch.draft import Draft
from bfpsim.workloads.importers.torch.export import aten
from bfpsim.workloads.importers.torch.graph import Captured
from bfpsim.workloads.importers.torch.layers import bind_map, channel_map, pair
from bfpsim.workloads.importers.torch.view import View
from bfpsim.workloads.node import Node, Op, Pool


def append_operation(draft: Draft, captured: Captured, node: fx.Node) -> None:
    """Append what an fx node does: nothing, a node of its kind, or one of the host's."""
    kind = _KINDS.get(node.target)
    if kind is None or not kind(draft, captured, node):
        _host(draft, captured, node)


def _relu(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    view = draft.views[_read(node)]
    draft.views[node] = replace(view, node=_simple(draft, node, "relu", view.node))
    return True


def _add(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Append the sum of two activations of one shape."""
    views = [draft.views.get(x) for x in node.args]  # type: ignore[arg-type]
    first, second = views[0], views[1]
    if node.kwargs or first is None or second is None or first.shape != second.shape:
        return False
    sources = first.node, _alike(draft, second, first, draft.shape(first.node))
    draft.views[node] = replace(first, node=_simple(draft, node, "add", *sources))
    return True


def _concat(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Append a concatenation along the dimension that is held as channels."""
    parts, *given = node.args
    assert isinstance(parts, list | tuple)
    views = [draft.views[x] for x in parts if x in draft.views]  # type: ignore[index]
    if len(views) < len(parts) or len(parts) < 2:
        return False
    first = views[0]
    dim = _dimension(given[0] if given else 0, len(first.dims))
    if any(view.c != view.dims[dim] for view in views):
        return False
    N, H, W, _ = draft.shape(first.node)
    rest = _without(first, dim)
    sources = [
        _alike(draft, view, rest, (N, H, W, view.shape[dim]), _without(view, dim)) for view in views
    ]
    name = _simple(draft, node, "concat", *sources)
    draft.views[node] = _of(first.resized(name, captured.shapes[node.name]))
    return True


def _max_pool(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Append a maximum over windows of one or two dimensions."""
    x, kernel, stride, padding, dilation, ceil = _spelled(node, (None, None, [], 0, 1, False))
    axes = len(captured.shapes[node.name]) - 2
    if len(captured.shapes[x.name]) != axes + 2 or {*_each(dilation, axes)} != {1}:
        return False
    window, step, pad = (_each(each, axes) for each in (kernel, stride or kernel, padding))
    view = channel_map(draft, x)
    pool = Pool(pair(window), pair(step), pair(pad, 0), bool(ceil))
    name = draft.append(Node(draft.title(node, "maxpool"), "maxpool", (view.node,), pool=pool))
    bind_map(draft, captured, node, name)
    return True


def _average_pool(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Append an average over windows, or an adaptive one, if there is one: the whole map."""
    x, window, _, padding = _spelled(node, (None, None, None, 0))[:4]
    extents = captured.shapes[x.name][2:]
    adaptive = node.target == aten.adaptive_avg_pool2d.default
    whole = (1,) * len(extents) if adaptive else extents
    padded = not adaptive and any(_each(padding, len(extents)))
    if padded or tuple(_each(window, len(extents))) != whole:
        return False
    view = channel_map(draft, x)
    bind_map(draft, captured, node, _simple(draft, node, "avgpool", view.node))
    return True


def _mean(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Append the mean over all that is held as the map."""
    view = draft.views[_read(node)]
    gone = _reduced(node, len(view.dims))
    if {axis for dim in gone for axis in view.dims[dim]} != {*view.map}:
        return False
    name = _simple(draft, node, "avgpool", view.node)
    keeps = len(captured.shapes[node.name]) == len(view.dims)
    extents = [
        (1 if keeps else None) if dim in gone else extent for dim, extent in enumerate(view.shape)
    ]
    draft.views[node] = _of(view.resized(name, extents))
    return True


def _reshape(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Split and merge dimensions where nothing moves."""
    view = draft.views[_read(node)].reshaped(captured.shapes[node.name])
    if view is not None:
        draft.views[node] = view
    return view is not None


def _permute(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    view = draft.views[_read(node)]
    order = list(range(len(view.dims)))
    if node.target == aten.permute.default:
        order = [_dimension(dim, len(order)) for dim in node.args[1]]  # type: ignore[union-attr]
    elif node.target == aten.transpose.int:
        one, other = (_dimension(dim, len(order)) for dim in node.args[1:])
        order[one], order[other] = other, one
    else:
        order.reverse()
    draft.views[node] = view.permuted(order)
    return True


def _same(draft: Draft, captured: Captured, node: fx.Node) -> bool:
    """Leave out what changes no value's place, such as a slice of everything."""
    view = draft.views.get(_read(node))
    if view is None or view.shape != captured.shapes[node.name]:
        return False
    draft.views[node] = view
    return True


def _host(draft: Draft, captured: Captured, node: fx.Node) -> None:
    """Append an operation of the host's.

    What it gives is taken to be held as what it reads, dimension by dimension; if that tells
    nothing, as torch has it at this rank (`View.of`).
    """
    # The results of an operation that has several are read item by item.
    part = node.target == operator.getitem
    run = _read(node) if part else node
    first = not part or next(iter(run.users)) is node
    macs = captured.host_macs.get(run.name, 0) if first else 0
    views = [draft.views[x] for x in run.all_input_nodes if x in draft.views]
    function = _function(run)
    name = draft.title(run, function)
    shape = captured.shapes[node.name]
    equal = next((view for view in views if view.shape == shape), None)
    if equal is not None:
        view = replace(equal, node=name)
    else:
        view = (_resized(run, name, views[0], shape) if views else None) or View.of(name, shape)
    held = view.held
    if equal is not None and (len(shape) == 4 or 1 in draft.shape(equal.node)[1:3]):
        held = draft.shape(equal.node)  # else a map has become a line of tokens
    draft.host(name, function, [view.node for view in views], held, macs)
    draft.views[node] = view


def _resized(node: fx.Node, name: str, view: View, shape: Sequence[int]) -> View | None:
    """Return a view of ``name``'s output, of a shape that differs from ``view``'s, if one is."""
    extents: list[int | None] = list(shape)
    if len(shape) < len(view.dims):
        gone = _reduced(node, len(view.dims)) if node.target in _REDUCTIONS else []
        for dim in sorted(gone):
            extents.insert(dim, None)
    if len(extents) != len(view.dims) or node.target == aten.reshape.default:
        return None
    return view.resized(name, extents)


def _alike(
    draft: Draft, view: View, other: View, shape: tuple[int, int, int, int], own: View | None = None
) -> str:
    """Return the node that holds ``view`` in a shape, its axes in the order of ``other``'s."""
    same = (view if own is None else own).strides == other.strides
    if same and draft.shape(view.node) == shape:
        return view.node
    function = "reshape" if same else "permute"
    return draft.host(draft.free(f"{view.node}.{function}"), function, [view.node], shape)


def _without(view: View, dim: int) -> View:
    extents = [None if at == dim else extent for at, extent in enumerate(view.shape)]
    return _of(view.resized(view.node, extents))


def _of(view: View | None) -> View:
    assert view is not None
    return view


def _simple(draft: Draft, node: fx.Node, op: Op, *sources: str) -> str:
    return draft.append(Node(draft.title(node, op), op, sources))


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


def _reduced(node: fx.Node, rank: int) -> list[int]:
    """Return the dimensions that an operation's second argument names, or stands for if left out.

    That is the first of unbind, and all of what sums or averages.
    """
    default = 0 if node.target == aten.unbind.int else None
    dims = node.args[1] if len(node.args) > 1 else default
    if dims is None or dims == []:
        return list(range(rank))
    return [_dimension(dim, rank) for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def _spelled(node: fx.Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*node.args, *defaults[len(node.args) :])


def _each(value: Any, axes: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * axes if len(values) == 1 else values


# Operator -> what appends it and says whether it could; what it could not is the host's.
_KINDS: dict[Any, Callable[[Draft, Captured, fx.Node], bool]] = {
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
# These take dimensions away, those that their second argument names.
_REDUCTIONS = (
    aten.amax.default, aten.argmax.default, aten.mean.dim, aten.select.int, aten.sum.dim_IntList,
    aten.unbind.int,
)  # fmt: skip
