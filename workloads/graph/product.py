"""Products of a graph: how their operands become the data of layers, and the sums their result.

A product is one layer, or several (the phases of a transposed convolution); a layer runs once, or
once for each pair of operands that share nothing (attention's heads). What multiplies is given
from outside: a float64 product, one of quantised operands, or the simulated array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.layer import ConvLayer, Pair, Shape
from bfpsim.workloads.transposed import Phase

Values = NDArray[np.float64]

NONE = "."
"""A dimension of extent 1 that takes part in nothing."""


@dataclass(frozen=True, slots=True)
class Letters:
    """A product of two tensors as in Einsum: the letters of their dimensions, and of the result's.

    Letters of both factors and the result are batch, of both factors alone contracted, of the left
    (right) and the result rows (columns).
    """

    left: str
    right: str
    out: str

    @classmethod
    def matmul(cls, left: Sequence[int], right: Sequence[int]) -> Letters:
        """Return numpy's product of two tensors of these shapes, whose batches are broadcast."""
        letters = "".join(chr(ord("A") + axis) for axis in range(max(len(left), len(right)) - 2))
        batch = ["" if len(dims) < 3 else letters[2 - len(dims) :] for dims in (left, right)]
        for place, axis in enumerate(range(-3, -3 - min(map(len, batch)), -1)):
            if left[axis] != right[axis]:  # the factor whose extent is 1 is broadcast
                less = 0 if left[axis] == 1 else 1
                at = len(batch[less]) - 1 - place
                batch[less] = batch[less][:at] + NONE + batch[less][at + 1 :]
        rows, columns = "m" * (len(left) > 1), "n" * (len(right) > 1)
        return cls(batch[0] + rows + "k", batch[1] + "k" + columns, letters + rows + columns)

    @classmethod
    def einsum(cls, equation: str) -> Letters | None:
        """Return the product of two factors that an equation of Einsum is, if it is one.

        It is not with dots, with a letter twice in a term, which is a diagonal, and with a letter
        of one factor alone that the result lacks, which is summed over before.
        """
        terms, arrow, out = equation.replace(" ", "").partition("->")
        if terms.count(",") != 1 or "." in equation:
            return None
        left, right = terms.split(",")
        if not arrow:
            out = "".join(sorted(x for x in {*left, *right} if (left + right).count(x) == 1))
        once = all(len({*term}) == len(term) for term in (left, right, out))
        whole = {*left} ^ {*right} == {*out} - ({*left} & {*right})
        return cls(left, right, out) if once and whole else None

    @property
    def swapped(self) -> Letters:
        """The same product, its factors the other way round."""
        return Letters(self.right, self.left, self.out)

    @property
    def batch(self) -> str:
        """Letters of both factors and the result."""
        return "".join(x for x in self.left if x in self.right and x in self.out)

    @property
    def contracted(self) -> str:
        """Letters of both factors alone, in the right one's order."""
        return "".join(x for x in self.right if x in self.left and x not in self.out)

    @property
    def rows(self) -> str:
        """Letters of the left factor and the result."""
        return "".join(x for x in self.left if x in self.out and x not in self.right)

    @property
    def columns(self) -> str:
        """Letters of the right factor alone, or with the result."""
        return "".join(x for x in self.right if x not in self.left and x != NONE)


@dataclass(frozen=True, slots=True)
class Runs:
    """What the array does for one layer of a product.

    layer: runs ``count`` times, each time on other operands
    stored: whether its second operand is stored weights, not an activation
    """

    layer: ConvLayer
    count: int
    stored: bool


Multiply = Callable[[Runs, Values, Values], Values]
"""Sums of a layer's runs: I (count, N, H, W, channels) by W (count, filters, C, R, S) gives O
(count, N, P, Q, filters), all float64."""

Operands = tuple[Runs, Values, Values]
"""A layer's runs, its I and its W, as `Multiply` takes them."""


class Product:
    """A product of a graph's tensors, apart from what multiplies.

    `operands` are what its layers multiply, `output` is what their sums make, and `compute` is
    both, with the multiplication between them.
    """

    def operands(self, values: Sequence[Any]) -> list[Operands]:
        """Return what each layer multiplies, of the values of the product's inputs."""
        raise NotImplementedError

    def _result(self, values: Sequence[Any], sums: Sequence[Values]) -> Values:
        """Return the output of the layers' sums, with the bias added."""
        raise NotImplementedError

    def output(self, values: Sequence[Any], sums: Sequence[Values]) -> NDArray[Any]:
        """Return the product's output, of its inputs and its layers' sums, with the bias added.

        It has the type of the first input, if that is of floats.
        """
        kind = values[0].dtype
        return self._result(values, sums).astype(kind if is_float(kind) else np.float64)

    def compute(self, values: Sequence[Any], multiply: Multiply) -> NDArray[Any]:
        """Return the product's output, of its inputs."""
        return self.output(values, [multiply(*each) for each in self.operands(values)])


@dataclass(frozen=True, eq=False)
class Windows(Product):
    """A convolution of one or two dimensions: a layer that runs once.

    last: the channels stand last, as in (N, H, W, C); else second, as in (N, C, H, W)
    weights: of the layer; None: the product's second and third inputs are weight and bias
    """

    layer: ConvLayer
    weights: LayerWeights | None
    last: bool = False

    def operands(self, values: Sequence[Any]) -> list[Operands]:
        """Return what each layer multiplies."""
        weight = values[1] if self.weights is None else self.weights.weight
        left = _channels_last(_floats(values[0]), self.last).reshape(self.layer.input_shape)
        right = _floats(weight).reshape(self.layer.weight_shape)
        return [(Runs(self.layer, 1, stored=True), left[np.newaxis], right[np.newaxis])]

    def _result(self, values: Sequence[Any], sums: Sequence[Values]) -> Values:
        """Return the output."""
        total = _plus(sums[0][0], _bias(values, self.weights))
        return total if self.last else _channels_second(total, values[0].ndim)


@dataclass(frozen=True, eq=False)
class Phased(Product):
    """A transposed convolution of (N, C, L) or (N, C, H, W): a layer for each of its phases.

    shape: (N, H, W, C) of the output
    phases: each with its layer under its own name, and that layer's weight (filters, C, R, S)
    filters: torch's weight (channels in, K per group, rows, columns); None: it is the product's
        second input, and its third, if there is one, the bias
    bias: one for each channel, None for none
    stride, padding, extra, groups: torch's, but that padding, what is cut off the output, is
        (top, bottom, left, right)
    """

    shape: Shape
    phases: tuple[tuple[Phase, ConvLayer, NDArray[Any] | None], ...]
    filters: NDArray[Any] | None
    bias: NDArray[Any] | None
    stride: Pair
    padding: Shape
    extra: Pair
    groups: int

    def operands(self, values: Sequence[Any]) -> list[Operands]:
        """Return what each layer multiplies."""
        whole = _channels_last(_floats(values[0]), last=False)
        found = []
        for phase, layer, weight in self.phases:
            part = whole
            if phase.crop is not None:
                top, bottom, left, right = phase.crop
                part = whole[:, top:bottom, left:right]
            if weight is None:
                filters = _floats(values[1])
                rows = filters.shape[2:] if filters.ndim == 4 else (1, *filters.shape[2:])
                weight = phase.weight(filters.reshape(*filters.shape[:2], *rows))
            right_ = _floats(weight).reshape(layer.weight_shape)
            found.append((Runs(layer, 1, stored=True), part[np.newaxis], right_[np.newaxis]))
        return found

    def _result(self, values: Sequence[Any], sums: Sequence[Values]) -> Values:
        """Return the output."""
        out = np.zeros(self.shape)
        for (phase, layer, _), total in zip(self.phases, sums, strict=True):
            # Filters stand group by group, and in a group phase by phase.
            parts = total[0].reshape(*total.shape[1:4], layer.G, len(phase.offsets), -1)
            for place, (row, col) in enumerate(phase.offsets):
                part = parts[:, :, :, :, place]
                taken = out[:, row :: phase.stride[0], col :: phase.stride[1]]
                taken[...] = part.reshape(taken.shape)
        bias = self.bias
        if bias is None and len(values) > 2 and values[2] is not None:
            bias = values[2]
        out = _plus(out, bias)
        return _channels_second(out, values[0].ndim)


@dataclass(frozen=True, eq=False)
class Contraction(Product):
    """A matrix product of tensors of any rank: a layer that runs once for each of its batches.

    layer: a 1x1 convolution: rows are its pixels, and what is contracted are its channels
    letters: of the dimensions of both factors and the result, after ``left`` and ``right``
    contracted: letters that the layer's channels are, outermost first
    left, right, out: shapes to which factors are split first, and into which the result is merged
    copies: shapes to which the right factor is split before, each with the dimension along which
        it is the same again and again
    weights: of the layer; None: the right factor is the product's second input
    stored: whether that one is constant
    """

    layer: ConvLayer
    letters: Letters
    contracted: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    copies: tuple[tuple[tuple[int, ...], int], ...] = ()
    weights: LayerWeights | None = None
    stored: bool = False

    def operands(self, values: Sequence[Any]) -> list[Operands]:
        """Return what each layer multiplies."""
        letters = self.letters
        left = _floats(values[0]).reshape(self.left)
        lefts = _grouped(left, letters.left, (self._batch, self._rows, self.contracted))
        if self.weights is not None:
            filters = _floats(self.weights.weight)
        else:
            right: Any = _floats(values[1])
            for shape, axis in self.copies:
                right = np.take(right.reshape(shape), 0, axis)
            groups = (self._batch, letters.columns, self.contracted)
            filters = _grouped(right.reshape(self.right), letters.right, groups)
        filters = filters.reshape(-1, *self.layer.weight_shape)
        count = len(filters)
        runs = Runs(self.layer, count, self.stored or self.weights is not None)
        return [(runs, lefts.reshape(count, *self.layer.input_shape), filters)]

    def _result(self, values: Sequence[Any], sums: Sequence[Values]) -> Values:
        """Return the output."""
        letters = self.letters
        total = _plus(sums[0], None if self.weights is None else self.weights.bias)
        extents = dict(zip(letters.right, self.right, strict=True))
        extents |= dict(zip(letters.left, self.left, strict=True))
        made = self._batch + self._rows + letters.columns
        apart = total.reshape([extents[x] for x in made])
        return apart.transpose([made.index(x) for x in letters.out]).reshape(self.out)

    @property
    def _batch(self) -> str:
        """Letters that count the layer's runs; stored weights have one run."""
        return self.letters.batch if self.weights is None else ""

    @property
    def _rows(self) -> str:
        rows = (x for x in self.letters.left if x in self.letters.out)
        return "".join(x for x in rows if x not in self._batch)


def contraction(
    name: str,
    letters: Letters,
    left: Sequence[int],
    right: Sequence[int],
    *,
    stored: bool,
    weights: LayerWeights | None = None,
) -> Contraction:
    """Return a product of tensors of these shapes, its rows in one column of pixels."""
    extents = dict(zip(letters.right, right, strict=True))
    extents |= dict(zip(letters.left, left, strict=True))
    rows, columns, channels = (
        math.prod(extents[x] for x in group)
        for group in (letters.rows, letters.columns, letters.contracted)
    )
    layer = ConvLayer(name, K=columns, C=channels, P=rows, Q=1)
    out = tuple(extents[x] for x in letters.out)
    return Contraction(
        layer, letters, letters.contracted, (*left,), (*right,), out, (), weights, stored
    )


def multiply_floats(runs: Runs, inputs: Values, weights: Values) -> Values:
    """Return a layer's sums in float64, as `Multiply`."""
    layer = runs.layer
    if layer.weight_shape[2:] == (1, 1) and layer.G == 1 and layer.input_shape[:3] == (
        layer.N, layer.P, layer.Q
    ) and layer.strides == (1, 1) and not any(layer.paddings):  # fmt: skip
        lines = inputs.reshape(runs.count, -1, layer.C)
        filters = weights.reshape(runs.count, -1, layer.C)
        return (lines @ filters.swapaxes(1, 2)).reshape(runs.count, layer.N, layer.P, layer.Q, -1)
    return np.stack(
        [convolve(layer, own, filters) for own, filters in zip(inputs, weights, strict=True)]
    )


def convolve(layer: ConvLayer, inputs: Values, weights: Values) -> Values:
    """Return a float64 convolution of (N, H, W, C) by (filters, C, R, S): (N, P, Q, filters)."""
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    height = (layer.P - 1) * sr + (layer.R - 1) * dr + 1
    width = (layer.Q - 1) * sc + (layer.S - 1) * dc + 1
    n, top, left = len(inputs), layer.paddings[0], layer.paddings[2]
    stored = inputs[:, : max(0, height - top), : max(0, width - left)]
    padded = np.zeros((n, height, width, layer.G, layer.C))
    rows, cols = stored.shape[1:3]
    padded[:, top : top + rows, left : left + cols] = stored.reshape(n, rows, cols, layer.G, -1)
    kernels = weights.reshape(layer.G, -1, layer.C, layer.R, layer.S)
    out = np.zeros((layer.G, n * layer.P * layer.Q, kernels.shape[1]))
    for r in range(layer.R):
        for s in range(layer.S):
            taps = padded[:, r * dr :: sr, s * dc :: sc][:, : layer.P, : layer.Q]
            lines = np.moveaxis(taps, 3, 0).reshape(layer.G, -1, layer.C)
            out += lines @ kernels[:, :, :, r, s].transpose(0, 2, 1)
    return np.moveaxis(out, 0, 1).reshape(n, layer.P, layer.Q, -1)


def is_float(kind: np.dtype[Any]) -> bool:
    """Return whether a type is one of floats, those that numpy itself has not among them."""
    return kind.kind in "fV"


def _floats(values: Any) -> Values:
    return np.asarray(values, np.float64)


def _channels_last(values: Values, last: bool) -> Values:
    """Return a tensor (N, C, L) or (N, C, H, W) as (N, H, W, C), whose one row is L's."""
    if last:
        return values
    moved = np.moveaxis(values, 1, -1)
    return moved[:, np.newaxis] if values.ndim == 3 else moved


def _channels_second(values: Values, rank: int) -> Values:
    moved = np.moveaxis(values, -1, 1)
    return moved[:, :, 0] if rank == 3 else moved


def _bias(values: Sequence[Any], weights: LayerWeights | None) -> NDArray[Any] | None:
    if weights is not None:
        return weights.bias
    return values[2] if len(values) > 2 else None


def _plus(sums: Values, bias: NDArray[Any] | None) -> Values:
    return sums if bias is None else sums + bias.astype(np.float64)


def _grouped(values: Values, letters: str, groups: Sequence[str]) -> Values:
    """Return a tensor with a dimension for each group of letters; others have extent 1."""
    order = [letters.index(x) for group in groups for x in group]
    rest = [axis for axis in range(values.ndim) if axis not in order]
    extents = dict(zip(letters, values.shape, strict=True))
    shape = [math.prod(extents[x] for x in group) for group in groups]
    return values.transpose(order + rest).reshape(shape)
