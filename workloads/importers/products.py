"""Matrix products as linear layers and products of activations, whatever their operands' ranks.

Every product is written as in Einsum: `Letters`, one per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bfpsim.workloads.graph.product import Contraction, Letters
from bfpsim.workloads.importers.draft import Draft
from bfpsim.workloads.importers.view import Arrangement, Axes, Dims, View, axes_of, join, size
from bfpsim.workloads.layer import ConvLayer
from bfpsim.workloads.node import Node

_PARTS = "123"  # of a dimension that a repetition splits


def linear(
    draft: Draft[Any], name: str, view: View, product: Letters, right: Dims
) -> tuple[ConvLayer, View, str]:
    """Append a product of a tensor and a constant of shape ``right`` as a linear layer.

    Returns the layer, the result, and the letters that the layer's channels are, outermost first.
    """
    axes = dict(zip(product.left, view.dims, strict=True))
    order = _in_order(product.contracted, axes, view.c)
    if join(axes[x] for x in order) != view.c:
        order = product.contracted
        channels = tuple(map(product.left.index, order))
        rest = tuple(dim for dim in range(len(view.dims)) if dim not in channels)
        outer = rest[:1] if rest[:1] == (0,) or len(rest) == 1 else ()
        view = draft.arrange(view, Arrangement(outer, rest[len(outer) :], channels))
    extents = dict(zip(product.right, right, strict=True))
    features = math.prod(extents[x] for x in product.columns)
    layer = ConvLayer.on_input(name, draft.shape(view.node), features, 1)
    draft.append(Node(name, "linear", (view.node,), layer=layer))
    axes |= {x: axes_of(extents[x]) for x in product.columns}
    c = join(axes[x] for x in product.columns)
    return layer, View(name, view.n, view.map, c, _dims(product, axes)), order


def matmul(
    draft: Draft[Any], name: str, left: View, right: View, product: Letters
) -> tuple[View, Contraction]:
    """Append a product of two activations: what N holds are samples, batches in C are heads.

    Batches that share one second operand are rows of one product; those that share one first
    operand are its columns, channels of the output. They share it, too, where it was repeated for
    them (grouped-query attention).
    """
    apart = _apart(draft, left, right, product)
    if apart is not None:
        whole, run = matmul(draft, name, *apart.operands, apart.letters)
        place = product.out.index(next(x for x in product.out if x not in apart.letters.out))
        parts = whole.dims[place : place + len(_PARTS)]
        dims = (*whole.dims[:place], join(parts), *whole.dims[place + len(_PARTS) :])
        merged = replace(whole, dims=dims)
        return merged, replace(run, out=merged.shape, copies=(apart.copies, *run.copies))
    axes = dict(zip(product.left, left.dims, strict=True))
    batch, rows = (join(axes[x] for x in letters) for letters in (product.batch, product.rows))
    order, shapes = _in_order(product.contracted, axes, left.c), (left.shape, right.shape)
    contracted = join(axes[x] for x in order)
    heads = left.c[: len(left.c) - len(contracted)]
    if (*heads, *contracted) != left.c or {*heads} - {*batch} or {*left.map} != {*rows}:
        order = product.contracted
        contracted = join(axes[x] for x in order)
        first = axes[product.batch[0]] if product.batch else ()
        samples = tuple(axis for axis in first if axis not in left.c)
        others = dict.fromkeys(axis for axis in (*left.c, *batch) if axis in batch)
        heads = tuple(axis for axis in others if axis not in samples)
        wanted = View(left.node, samples, rows, (*heads, *contracted), left.dims)
        pixels, inner = (
            tuple(map(product.left.index, letters))
            for letters in (product.rows, product.contracted)
        )
        _, H, W, _ = Arrangement((), pixels, inner).shape(left.shape)
        shape = size(wanted.n), H, W, size(wanted.c)
        left = View(draft.hold(left, wanted, shape), wanted.n, rows, wanted.c, left.dims)
    extents = dict(zip(product.right, right.shape, strict=True))
    axes |= {x: axes_of(extents[x]) for x in product.columns}
    columns = join(axes[x] for x in product.columns)
    N, P, Q, _ = draft.shape(left.node)
    layer = ConvLayer(name, K=size(columns), C=size(contracted), P=P, Q=Q)
    sources = left.node, right.node
    draft.append(Node(name, "matmul", sources, layer=layer, repeats=N * size(heads)))
    made = View(name, left.n, left.map, (*heads, *columns), _dims(product, axes))
    return made, Contraction(layer, product, order, *shapes, made.shape)


@dataclass(frozen=True, slots=True)
class _Apart:
    """A product by a tensor that was repeated, as one by the tensor itself.

    copies: the repeated tensor's shape with its copies apart, and the dimension that counts them
    """

    operands: tuple[View, View]
    letters: Letters
    copies: tuple[Dims, int]


def _apart(draft: Draft[Any], left: View, right: View, product: Letters) -> _Apart | None:
    """Return a product by a tensor that was repeated as one by the tensor itself, if it is that.

    The batches for which it was are rows: their letter becomes three, for what lies around the
    repetition, the repetition, and what lies within it.
    """
    repeat = draft.repeats.get(right.node)
    if repeat is None:
        return None
    for place, (x, runs) in enumerate(zip(product.right, right.strides, strict=True)):
        extent, stride = runs[0] if len(runs) == 1 else (1, 1)
        inner, odd = divmod(repeat.stride, stride)
        if x not in product.batch or odd or inner < 1 or extent % (inner * repeat.times):
            continue
        sizes = extent // (inner * repeat.times), repeat.times, inner
        at = product.left.index(x)
        split = left.reshape((*left.shape[:at], *sizes, *left.shape[at + 1 :]))
        if split is None:
            return None
        around, _, within = map(axes_of, sizes)
        dims = (*right.dims[:place], around, within, *right.dims[place + 1 :])
        apart = Letters(
            product.left.replace(x, _PARTS),
            product.right.replace(x, _PARTS[0] + _PARTS[2]),
            product.out.replace(x, _PARTS),
        )
        copies = (*right.shape[:place], *sizes, *right.shape[place + 1 :]), place + 1
        return _Apart((split, View(repeat.source, (), (), (), dims)), apart, copies)
    return None


def _in_order(letters: str, axes: dict[str, Axes], group: Sequence[Any]) -> str:
    """Return letters in the order in which a group holds their dimensions; others come last."""

    def place(letter: str) -> int:
        first = axes[letter][:1]
        return group.index(first[0]) if first and first[0] in group else len(group)

    return "".join(sorted(letters, key=place))


def _dims(product: Letters, axes: dict[str, Axes]) -> tuple[Axes, ...]:
    return tuple(axes.get(x, ()) for x in product.out)
