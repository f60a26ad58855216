"""The paper's model over every combination of tile sizes: elements moved, as arrays.

Under Eq. 5 and 6 a tensor's bits are elements moved times bits per element, so that the elements
serve all formats. Arrays have an axis per dimension of `DIMS`, as those of `mapping.grid`; trips
are real-valued, N / T. Each point equals `mapping.models` with the effects `PAPER`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.array_model import INSIDE, INSIDE_RELEVANT
from bfpsim.mapping.nest import DIMS, RELEVANT, Tensor
from bfpsim.mapping.ragged import Values, Vector
from bfpsim.workloads import ConvLayer

_ONE = np.ones((1,) * len(DIMS))


class PaperGrid:
    """Elements that each tensor moves, at both levels, for all combinations of tile sizes.

    sizes: by dimension, ascending
    """

    def __init__(self, layer: ConvLayer, arch: Arch, sizes: dict[str, Vector]) -> None:
        self._layer, self._array = layer, arch.pe_array
        self._tile = {d: _on(d, sizes[d].astype(float)) for d in DIMS}
        self._trips = {d: layer.dims[d] / self._tile[d] for d in DIMS}

    def dram_elements(self, order: str) -> dict[Tensor, Values]:
        """Elements between DRAM and SRAM under a loop order that names every dimension."""
        layer = self._layer
        outputs, weights = float(prod(layer.output_shape)), float(prod(layer.weight_shape))
        return {
            "I": self._refetches("I", order) * self._input(order),
            "W": self._refetches("W", order) * weights,
            "O": self._refetches("O", order) * outputs,
        }

    def _refetches(self, tensor: Tensor, order: str) -> Values:
        times = _ONE
        inside = np.zeros_like(_ONE, bool)  # a loop of the tensor runs inside
        for dim in reversed(order):
            if dim in RELEVANT[tensor]:
                inside = inside | (self._trips[dim] > 1)
            else:
                times = times * np.where(inside, self._trips[dim], 1.0)
        return times

    def _input(self, order: str) -> Values:
        """All pixels x channels once, the overlap along the widened dimension not repeated."""
        layer = self._layer
        alone = np.ones_like(_ONE, bool)  # no loop of I runs inside
        extent = _ONE * (layer.N * layer.G * layer.C)
        for dim in reversed(order):
            if dim not in RELEVANT["I"]:
                continue
            if dim in "PQ":
                whole = self._reach(dim, np.array(float(layer.dims[dim])))
                cut = self._reach(dim, self._tile[dim]) * self._trips[dim]
                extent = extent * np.where(alone | (self._trips[dim] == 1), whole, cut)
            alone = alone & (self._trips[dim] == 1)
        return extent

    def _reach(self, dim: str, outputs: Values) -> Values:
        """Input rows or columns that so many outputs reach over, padding included."""
        axis, taps = (0, self._layer.R) if dim == "P" else (1, self._layer.S)
        reach: Values = (
            (outputs - 1) * self._layer.strides[axis] + (taps - 1) * self._layer.dilations[axis] + 1
        )
        return reach

    def sram_elements(self) -> dict[Tensor, Values]:
        """Elements between SRAM and PE array: the same rule inside a tile, for all tiles."""
        layer, array = self._layer, self._array
        size: dict[str, Values] = dict(self._tile)
        size |= {"R": _ONE * layer.R, "S": _ONE * layer.S}
        inner: dict[str, Values] = dict.fromkeys(size, _ONE)
        for axis in (array.rows, array.cols):
            lanes = _ONE * axis.size
            for dim in reversed(axis.dim):  # the last letter is the innermost
                inner[dim] = np.minimum(lanes, size[dim])
                lanes = np.maximum(1.0, lanes / inner[dim])
        steps = prod(self._trips.values(), start=_ONE)
        tensors: tuple[Tensor, ...] = ("I", "W", "O")
        return {tensor: steps * self._array_side(tensor, size, inner) for tensor in tensors}

    def _array_side(
        self, tensor: Tensor, size: dict[str, Values], inner: dict[str, Values]
    ) -> Values:
        relevant = INSIDE_RELEVANT[tensor]
        times = _ONE
        alone = np.ones_like(_ONE, bool)  # no loop of the tensor runs inside
        box = dict(inner)
        for dim in reversed(INSIDE[self._array.stationary]):
            trips = size[dim] / inner[dim]
            if dim not in relevant:
                times = times * np.where(alone, 1.0, trips)
                continue
            slides = alone & (trips > 1) & (tensor == "I" and dim in "PQ")
            times = times * np.where(slides, 1.0, trips)
            box[dim] = np.where(slides, size[dim], box[dim])
            alone = alone & (trips == 1)
        return times * self._elements(tensor, box)

    def _elements(self, tensor: Tensor, box: dict[str, Values]) -> Values:
        if tensor != "I":
            return prod((box[d] for d in ("GKCRS" if tensor == "W" else "NGKPQ")), start=_ONE)
        (sr, sc), (dr, dc) = self._layer.strides, self._layer.dilations
        rows = (box["P"] - 1) * sr + (box["R"] - 1) * dr + 1
        cols = (box["Q"] - 1) * sc + (box["S"] - 1) * dc + 1
        return box["N"] * box["G"] * box["C"] * rows * cols


def _on(dim: str, values: Values) -> Values:
    shape = [1] * len(DIMS)
    shape[DIMS.index(dim)] = -1
    return values.reshape(shape)
