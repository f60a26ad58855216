"""Sites of a captured graph as layers of a network, with their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from torch.fx.node import map_aggregate

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.importers.torch.draft import Draft
from bfpsim.workloads.importers.torch.export import aten
from bfpsim.workloads.importers.torch.graph import Captured
from bfpsim.workloads.importers.torch.sites import Site
from bfpsim.workloads.importers.torch.view import Axes, Axis, View, size
from bfpsim.workloads.layer import ConvLayer, Pair, Shape, WorkloadError
from bfpsim.workloads.node import Node, Op
from bfpsim.workloads.transposed import Phase, phases


@dataclass(frozen=True)
class _Weights:
    """What a site multiplies by and adds, as torch has it; None: it adds nothing."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def append_layer(
    draft: Draft, captured: Captured, site: Site, node: fx.Node, weights: dict[str, LayerWeights]
) -> None:
    """Append the node of a site, some for a transposed convolution, and add its weights."""
    if site.kind == "matmul":
        _matmul(draft, captured, site, node)
        return
    stored = _stored(captured, site, node)
    if site.kind == "linear":
        layer = _linear(draft, site, node, stored)
    elif site.kind == "transposed":
        _transposed(draft, captured, site, node, stored, weights)
        return
    else:
        layer = _convolution(draft, captured, site, node, stored)
    bias = np.zeros(layer.weight_shape[0], np.float32) if stored.bias is None else stored.bias
    weights[layer.name] = LayerWeights(stored.weight.reshape(layer.weight_shape), bias)


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
    taken = all(read is node for _, read in readers) and len(sides) <= 2 * axes
    if not taken or min(sides) < 0 or (value and value[0] != 0):
        return None
    left, right, top, bottom = (*sides, 0, 0)[:4] if len(sides) == 2 else sides
    return x, (top, bottom, left, right)


def _convolution(
    draft: Draft, captured: Captured, site: Site, node: fx.Node, stored: _Weights
) -> ConvLayer:
    arguments: tuple[Any, ...] = node.args
    x, _, _, stride, padding, dilation, groups = arguments
    padded = zero_padding(x)
    before, (top, bottom, left, right) = (x, (0, 0, 0, 0)) if padded is None else padded
    view = channel_map(draft, before)
    rows, cols = pair(padding, 0)
    layer = ConvLayer.on_input(
        site.name,
        draft.shape(view.node),
        len(stored.weight),
        pair(stored.weight.shape[2:]),
        stride=pair(stride),
        padding=(top + rows, bottom + rows, left + cols, right + cols),
        dilation=pair(dilation),
        groups=groups,
    )
    op: Op = "conv" if site.kind == "conv" else "conv1d"
    draft.append(Node(site.name, op, (view.node,), layer=layer))
    bind_map(draft, captured, node, site.name)
    return layer


def _transposed(
    draft: Draft,
    captured: Captured,
    site: Site,
    node: fx.Node,
    stored: _Weights,
    weights: dict[str, LayerWeights],
) -> None:
    arguments: tuple[Any, ...] = node.args
    x, _, _, stride, padding, extra, groups, _ = arguments
    view = channel_map(draft, x)
    weight = stored.weight.reshape(*stored.weight.shape[:2], *pair(stored.weight.shape[2:]))
    channels = groups * weight.shape[1]
    strides = pair(stride)
    parts, shape = phases(
        site.name,
        draft.shape(view.node),
        channels,
        pair(weight.shape[2:]),
        strides,
        pair(padding, 0),
        pair(extra, 0),
        groups,
    )
    # Where no tap reaches an output there is nothing but the bias, which no layer adds.
    reached = sum(len(part.offsets) for part in parts)
    bare = reached < min(strides[0], shape[1]) * min(strides[1], shape[2])
    bias = np.zeros(channels, np.float32) if stored.bias is None or bare else stored.bias
    outputs = [_phase(draft, site.name, part, view.node, weight, bias, weights) for part in parts]
    last = draft.host(draft.free(f"{site.name}.interleave"), "interleave", outputs, shape)
    if bare and stored.bias is not None:
        last = draft.host(draft.free(f"{site.name}.bias"), "add", [last], shape)
    bind_map(draft, captured, node, last)


def _phase(
    draft: Draft,
    site: str,
    part: Phase,
    source: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    weights: dict[str, LayerWeights],
) -> str:
    # A single phase bears the site's own name, which nothing else has; others one like it.
    name = part.layer.name if part.layer.name == site else draft.free(part.layer.name)
    layer = replace(part.layer, name=name)
    if part.crop is not None:
        source = draft.host(draft.free(f"{name}.crop"), "crop", [source], layer.input_shape)
    repeated = np.tile(bias.reshape(layer.G, 1, -1), (1, len(part.offsets), 1)).ravel()
    weights[name] = LayerWeights(part.weight(weight), repeated)
    return draft.append(Node(name, "transposed", (source,), layer=layer))


def _linear(draft: Draft, site: Site, node: fx.Node, stored: _Weights) -> ConvLayer:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    view = draft.views[x]
    if view.c != view.dims[-1]:
        others = tuple(axis for axes in view.dims[1:-1] for axis in axes)
        view = draft.arranged(
            view, view.dims[0] if len(view.dims) > 1 else (), others, view.dims[-1]
        )
    features = len(stored.weight)
    layer = ConvLayer.on_input(site.name, draft.shape(view.node), features, 1)
    draft.append(Node(site.name, "linear", (view.node,), layer=layer))
    c = (Axis(features),) if features > 1 else ()
    draft.views[node] = View(site.name, view.n, view.map, c, (*view.dims[:-1], c))
    return layer


def _matmul(draft: Draft, captured: Captured, site: Site, node: fx.Node) -> None:
    """Append a product of two activations: what N holds are samples, batches in C are heads.

    Batches that share one second operand are rows of one product; those that share one first
    operand are its columns, channels of the output.
    """
    left, right = node.args[:2]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    for operand in (left, right):
        if operand not in draft.views:  # computed from parameters alone
            shape = captured.shapes[operand.name]
            own = View.of("", shape, channels_first=False)
            held = draft.host(draft.free(f"{site.name}.parameter"), "parameter", [], own.held)
            draft.views[operand] = replace(own, node=held)
    view, other = draft.views[left], draft.views[right]
    rank = len(captured.shapes[node.name])
    left_dims = ((),) * (rank - len(view.dims)) + view.dims
    right_shape = (1,) * (rank - len(other.dims)) + other.shape
    *outer, (row, _), (contracted, columns) = zip(left_dims, right_shape, strict=True)
    batch = tuple(axis for axes, extent in outer if extent > 1 for axis in axes)
    rows = (*(axis for axes, extent in outer if extent == 1 for axis in axes), *row)
    view, heads = _in_rows(draft, view, batch, rows, contracted)
    dims = tuple(
        axes if axes or extent == 1 else (Axis(extent),)
        for axes, extent in (*outer, (row, 1), ((), columns))
    )
    new = tuple(axis for axes in dims for axis in axes if axis not in (*batch, *rows))
    samples_held, P, Q, _ = draft.shape(view.node)
    layer = ConvLayer(site.name, K=size(new), C=size(contracted), P=P, Q=Q)
    repeats = samples_held * size(heads)
    draft.append(Node(site.name, "matmul", (view.node, other.node), layer=layer, repeats=repeats))
    draft.views[node] = View(site.name, view.n, view.map, (*heads, *new), dims)


def _in_rows(
    draft: Draft, view: View, batch: Axes, rows: Axes, contracted: Axes
) -> tuple[View, Axes]:
    """Return a product's first operand held with its rows as the map, and what of C is heads."""
    inner = len(view.c) - len(contracted)
    heads = view.c[:inner]
    if view.c[inner:] == contracted and {*heads} <= {*batch} and {*view.map} == {*rows}:
        return view, heads
    heads = tuple(axis for axis in view.c if axis in batch)
    samples = tuple(axis for axis in batch if axis not in heads)
    return draft.arranged(view, samples, rows, (*heads, *contracted)), heads


def channel_map(draft: Draft, node: fx.Node) -> View:
    """Return the value (N, C, H, W) or (N, C, L) held as (N, H, W, C) or (N, 1, L, C)."""
    view = draft.views[node]
    n, c, *axes = view.dims
    extents = view.shape
    shape = extents[0], *pair(extents[2:]), extents[1]
    return draft.arranged(view, n, tuple(axis for dim in axes for axis in dim), c, shape)


def bind_map(draft: Draft, captured: Captured, node: fx.Node, name: str) -> None:
    """Say that a network's node computes the value (N, C, H, W) or (N, C, L)."""
    draft.views[node] = View.of(name, captured.shapes[node.name], channels_first=True)


def _stored(captured: Captured, site: Site, node: fx.Node) -> _Weights:
    arguments: tuple[Any, ...] = node.args
    values = [
        None if argument is None else _value(captured.module, argument, site.name)
        for argument in arguments[1:3]
    ]
    for value in values:
        if value is not None and not bool(value.isfinite().all()):
            raise WorkloadError(f"layer {site.name!r}: its weights hold NaN or Inf")
    weight, bias = (None if value is None else value.float().numpy() for value in values)
    assert weight is not None
    return _Weights(weight, bias)


def _value(module: fx.GraphModule, node: fx.Node, layer: str) -> Any:
    """Return what a node computes from parameters alone."""
    if node.op == "get_attr":
        owner, _, own = str(node.target).rpartition(".")
        return getattr(module.get_submodule(owner), own).detach()
    if node.op == "placeholder" or not callable(node.target):
        raise WorkloadError(f"layer {layer!r}: its weight depends on the extents of an input")

    def valued(argument: Any) -> Any:
        return _value(module, argument, layer) if isinstance(argument, fx.Node) else argument

    args: Any = map_aggregate(node.args, valued)
    kwargs: Any = map_aggregate(node.kwargs, valued)
    return node.target(*args, **kwargs)


def pair(values: Any, single: int = 1) -> Pair:
    """Return (rows, columns) of one or two; the row that is none has ``single``."""
    rows, cols = (single, *values) if len(values) == 1 else values
    return int(rows), int(cols)
