"""Input rows (columns) of the tiles of P (Q), tabulated for many tile sizes at once."""

from dataclasses import dataclass

import numpy as np

from bfpsim.mapping.ragged import Tiles, Vector
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, slots=True, eq=False)
class WindowProfile:
    """Input rows (columns) of the tiles of P (Q), per tile size.

    every, first, rest: lengths summed over all tiles, the first one, all but the first
    fresh: lengths beyond the tile before, over all but the first
    same: lengths of tiles that equal the tile before, over all but the first
    wrapped: length of the first tile if it equals the last one, else 0
    largest: longest tile
    """

    trips: Vector
    every: Vector
    first: Vector
    rest: Vector
    fresh: Vector
    same: Vector
    wrapped: Vector
    largest: Vector

    def of(self, state: str) -> Vector:
        """The lengths over "every" tile, the "first", the "rest", or their "fresh" parts."""
        lengths = {
            "every": self.every,
            "first": self.first,
            "rest": self.rest,
            "fresh": self.fresh,
        }
        return lengths[state]


def window_profile(layer: ConvLayer, dim: str, sizes: Vector) -> WindowProfile:
    """The profile of P or Q over tile sizes; windows are `mapping.boxes.input_rows` and cols."""
    tiles = Tiles.of(layer.dims[dim], sizes)
    low, high = _windows(layer, dim, tiles)
    length = high - low
    # Of each tile and the one before it; the first of a size has none.
    later = np.ones(len(low), bool)
    later[tiles.starts] = False
    before_low, before_high = np.roll(low, 1), np.roll(high, 1)
    fresh = np.where(later, np.maximum(0, high - np.maximum(before_high, low)), 0)
    equal = later & (low == before_low) & (high == before_high)
    first, last = tiles.starts, tiles.ends - 1
    every = tiles.sum(length)
    wraps = (low[first] == low[last]) & (high[first] == high[last]) & (tiles.trips > 1)
    return WindowProfile(
        trips=tiles.trips,
        every=every,
        first=length[first],
        rest=every - length[first],
        fresh=tiles.sum(fresh),
        same=tiles.sum(np.where(equal, length, 0)),
        wrapped=np.where(wraps, length[first], 0),
        largest=tiles.max(length),
    )


def _windows(layer: ConvLayer, dim: str, tiles: Tiles) -> tuple[Vector, Vector]:
    axis = "PQ".index(dim)
    stride, dilation, before = layer.strides[axis], layer.dilations[axis], layer.paddings[2 * axis]
    taps, extent = (layer.R, layer.height) if dim == "P" else (layer.S, layer.width)
    low = np.maximum(tiles.low * stride - before, 0)
    high = np.minimum((tiles.high - 1) * stride - before + (taps - 1) * dilation + 1, extent)
    some = low < high  # else the window lies in the padding
    return np.where(some, low, 0), np.where(some, high, 0)
