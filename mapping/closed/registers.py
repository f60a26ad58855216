"""Registers in closed form: what their tiles take in, in all PEs, and how many PEs share a sum.

The rules are those of `mapping.registers`. Tables are `lift`ed as in `mapping.closed.exact`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.array import Lanes
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.movement import (
    Axis,
    Copies,
    coincidences,
    moved,
    multicast,
    multicast_coincidences,
)
from bfpsim.mapping.nest import RELEVANT, TENSORS, Tensor
from bfpsim.mapping.registers import (
    beside,
    code_holders,
    in_use,
    lanes,
    on_lanes,
    share_bits,
)
from bfpsim.mapping.window import Interval, Window
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


class RegisterTiles:
    """What moves at the registers over nests that end in some leaves.

    leaves: of every dimension, of one way of cutting it or of many
    lift: makes a value of a table
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        leaves: Mapping[str, Leaves],
        lift: exact.Lift[Any],
    ) -> None:
        self._layer, self._array, self._formats = layer, arch.pe_array, formats
        self._leaves, self._lift = leaves, lift
        self._sliding = arch.dma.halo == "sliding"
        self._known: dict[object, list[Axis[Any]]] = {}
        self._copies = {tensor: self._copies_of(tensor) for tensor in TENSORS}
        self._repeats = {
            tensor: {d: exact.repeats(d, leaves[d], lift) for d in dims}
            for tensor, dims in exact.IDLE.items()
        }

    def share(self, tensor: Tensor) -> Any:
        """What the fullest PE holds of the largest tile [bit]."""
        fmt, leaves = self._formats.of(tensor), self._leaves
        blocks = exact.Cell.blocks(fmt)
        sizes = {d: self._lift(d, own.largest(own.lengths)) for d, own in leaves.items()}
        most = {
            dims: self._lift(dims, exact.largest(dims, leaves, of))
            for dims, of in exact.tile_sizes(tensor, self._layer, leaves, blocks).items()
        }
        spans = {dims: own for dims, own in most.items() if dims in ("PR", "QS")}
        touched = most[next((dims for dims in most if len(dims) > 1), "")]
        return share_bits(tensor, self._layer, self._array, fmt, sizes, spans, touched)

    def fetched(self, tensor: Tensor, order: str, cell: exact.Cell) -> Any:
        """Cells of I or W that come from outside."""
        axes, idle = self._outside(tensor, cell), self._repeats[tensor]
        cells = moved(order, axes, idle)
        spared = coincidences(order, axes, idle) if tensor == "I" else None
        return cells if spared is None else cells - spared

    def written(self, tensor: Tensor, order: str, code: bool) -> Any:
        """Elements of I or W that are written in all PEs, or codes."""
        axes, copies = self._inside(tensor, code), self._copies[tensor]
        every = multicast(order, axes, copies)
        if tensor == "I":
            spared = multicast_coincidences(order, axes, copies[0])
            return every if spared is None else every - spared
        return every

    def visited(self, order: str) -> Any:
        """Elements of O over all visits of its tiles."""
        return moved(order, self._outside("O", exact.ELEMENTS), self._repeats["O"])

    def summed(self, order: str) -> Any:
        """The same in all PEs that have a sum of them."""
        return multicast(order, self._outside("O", exact.ELEMENTS), self._copies["O"])

    @property
    def inputs(self) -> int:
        """Multiply-accumulates of the layer but those of padding."""
        layer, uses = self._layer, 1
        for dim in "PQ":
            uses *= sum(Window.of(layer, dim).uses((0, layer.dims[dim])))
        return layer.N * layer.G * layer.K * layer.C * uses

    def growing(self, dim: str) -> list[Any]:
        """All tables with a dimension on their axes: what moves and room grow with them."""
        tables = []
        for tensor in TENSORS:
            cell = exact.ELEMENTS if tensor == "O" else exact.Cell.of(self._formats.of(tensor))
            axes = list(self._outside(tensor, cell))
            if tensor != "O":
                kinds = (False, True) if self._formats.of(tensor).exponent_bits else (False,)
                axes += [axis for code in kinds for axis in self._inside(tensor, code)]
            for axis in axes:
                if dim in axis.dims:
                    tables += [*axis.single.values(), *axis.fresh.values()]
                    tables += [
                        -table if advancing else axis.single[depth] - table
                        for (advancing, depth), table in axis.same.items()
                    ]
            for own in self._copies[tensor]:
                if dim in own.dims:
                    tables += own.many.values()
            if dim in RELEVANT[tensor]:
                tables.append(self.share(tensor))
        return tables

    def _outside(self, tensor: Tensor, cell: exact.Cell) -> list[Axis[Any]]:
        """The axes of what moves outside; of I, windows on lanes do not overlap."""
        if (tensor, cell) not in self._known:
            axes = exact.axes_of(tensor, self._layer, self._leaves, cell, self._lift)
            if tensor == "I":
                sizes = exact.tile_sizes("I", self._layer, self._leaves, cell)
                axes += self._windows({dims: sizes[dims] for dims in on_lanes(self._array)})
            self._known[tensor, cell] = axes
        return self._known[tensor, cell]

    def _inside(self, tensor: Tensor, code: bool) -> list[Axis[Any]]:
        """The axes of what is written in PEs, but for copies."""
        if (tensor, code) not in self._known:
            layer, leaves, lift = self._layer, self._leaves, self._lift
            sizes = dict(exact.tile_sizes(tensor, layer, leaves, exact.ELEMENTS))
            if code:
                blocked = next(d for d in sizes if len(d) > 1)  # GC, GKRS or CRS
                sizes[blocked] = self._codes(tensor, blocked)
            windows = {dims: sizes.pop(dims) for dims in ("PR", "QS") if dims in sizes}
            axes = [exact.disjoint(dims, leaves, of, lift) for dims, of in sizes.items()]
            if windows:
                axes += self._windows({dims: self._pairs(dims) for dims in on_lanes(self._array)})
            self._known[tensor, code] = axes
        return self._known[tensor, code]

    def _windows(self, apart: Mapping[str, Vector]) -> list[Axis[Any]]:
        """The windows of rows and columns.

        apart: sizes of those on lanes, of which nothing stays
        """
        return [
            exact.disjoint(dims, self._leaves, apart[dims], self._lift)
            if dims in apart
            else exact.windows(
                dims, Window.of(self._layer, dims[0]), self._leaves, self._sliding, self._lift
            )
            for dims in ("PR", "QS")
        ]

    def _pairs(self, dims: str) -> Vector:
        """Rows or columns that PEs have apart, by leaves: pairs of an output and a tap."""
        outputs, taps = (self._leaves[dim] for dim in dims)
        window = Window.of(self._layer, dims[0])
        pairs: Vector = window.pairs(
            outputs.low[:, None], outputs.high[:, None], taps.low, taps.high
        )
        return pairs

    def _codes(self, tensor: Tensor, dims: str) -> Vector:
        """Codes in all lanes along channels, and of W along taps, by leaves."""
        fmt = self._formats.of(tensor)
        outer: list[Interval] = [(0, 1)]
        if dims[0] == "G":
            outer = self._leaves["G"].ranges()
        inner = self._leaves["C" if dims == "CRS" else dims[1]].ranges()
        holders = np.array(
            [
                [
                    code_holders(self._layer, self._array, tensor, g, c, fmt.block_size)
                    for c in inner
                ]
                for g in outer
            ],
            np.int64,
        )
        if tensor == "I":
            return holders
        length = {"R": self._leaves["R"].lengths[:, None], "S": self._leaves["S"].lengths}
        taps: Any = length["R"] ** 0 * length["S"] ** 0
        if not fmt.spans_taps:  # of a tap as of an element: where its lane is
            taps = length["R"] * length["S"]
        for own in lanes(self._layer, self._array) if fmt.spans_taps else ():
            if own.dim[0] in "RS":
                taps = taps * in_use(own, length)
        codes: Vector = holders[..., None, None] * taps
        return codes[0] if dims == "CRS" else codes

    def _copies_of(self, tensor: Tensor) -> list[Copies[Any]]:
        groups = beside(self._layer, self._array, tensor)
        return [self._copied(dims, own) for dims, own in groups.items()]

    def _copied(self, dims: str, own: Lanes | None) -> Copies[Any]:
        """Lanes in use at the first leaf of every group, summed over the groups."""
        many = {}
        for depth in product(*(range(self._leaves[d].loops + 1) for d in dims)):
            starts = [self._leaves[d].starts[at] for d, at in zip(dims, depth, strict=True)]
            length = {}
            for axis, (dim, first) in enumerate(zip(dims, starts, strict=True)):
                shape = [1] * len(dims)
                shape[axis] = -1
                length[dim] = self._leaves[dim].lengths[first].reshape(shape)
            table = in_use(own, length) * prod(one**0 for one in length.values())
            for axis, (dim, first) in enumerate(zip(dims, starts, strict=True)):
                table = self._leaves[dim].sums(table, first, axis)
            many[depth] = self._lift(dims, table)
        return Copies(dims, many)
