"""What every tile of a nest moves and costs; tiles that lie alike are priced once.

A stream is a tensor's tiles in the order they come, or the nest's steps. Two tiles of a stream lie
alike if everything that decides their bits and cycles is the same: extents, channels, what stayed
of the tile before, and where in a burst they start. Others may still have the same price; a kind is
a price.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from bfpsim.mapping.boxes import (
    ActivationBox,
    Volume,
    channel_intervals,
    input_cols,
    input_rows,
)
from bfpsim.mapping.capacity import partial_sums_in_buffer
from bfpsim.mapping.counts import Kind
from bfpsim.mapping.movement import input_fetch, output_visit, weight_fetch
from bfpsim.mapping.nest import DIMS, RELEVANT, Nest, Tensor
from bfpsim.mapping.pe_array import ArrayTraffic, Tile, array_traffic, col_taps, row_taps
from bfpsim.quant.formats import LayerFormats, PartialSums
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bfpsim.arch import Arch

    Column = NDArray[np.int64]

T = TypeVar("T", bound=Hashable)
TENSORS: tuple[Tensor, ...] = ("I", "W", "O")
_LARGEST = 2**62
_AHEAD = 16


class Moved(NamedTuple):
    """Bits of one transfer, by kind."""

    mantissa: int = 0
    exponent: int = 0
    psum: int = 0
    burst: int = 0

    @property
    def payload(self) -> int:
        """Bits without burst padding."""
        return self.mantissa + self.exponent + self.psum


NOTHING = Moved()
KINDS: tuple[Kind, ...] = ("mantissa", "exponent", "psum", "burst")  # as `Moved` has them


class Stay(NamedTuple):
    """A tile's stay in its buffer: the bits it takes there, what arrives and what leaves."""

    held: int
    arrives: Moved
    leaves: Moved


class Step(NamedTuple):
    """A tile step: what the array does, and which tensors' tiles it is the first or last use of.

    resumes: it adds to partial sums
    result: bits of the finished tile, none while its reduction goes on
    """

    traffic: ArrayTraffic
    resumes: bool
    finishes: bool
    result: Volume
    begins: tuple[Tensor, ...]
    ends: tuple[Tensor, ...]


@dataclass(frozen=True)
class Priced(Generic[T]):
    """A stream: `kinds[i]` is the kind of its number i, and each kind has one `price`."""

    kinds: NDArray[np.int64]
    prices: tuple[T, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    def ahead(self, number: int) -> bytes:
        """The next few kinds from a number on, to tell places of the nest apart."""
        return self.kinds[number : number + _AHEAD].tobytes()

    def __getitem__(self, number: int) -> T:
        price: T = self.prices[self.kinds[number]]
        return price


def input_stays(nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Stay]:
    """Price the tiles of I of the layer as stored."""
    layer, halo = nest.layer, arch.dma.halo
    layout = ActivationLayout(layer.input_shape, formats.I)
    at = _numbers(nest, nest.period("I"))
    n = _spans(nest, "N")[at["N"]]
    rows = np.array([input_rows(layer, p) for p in nest.spans("P")])[at["P"]]
    cols = np.array([input_cols(layer, q) for q in nest.spans("Q")])[at["Q"]]
    columns = [
        *(high - low for low, high in (n.T, rows.T, cols.T)),
        *(at[dim] for dim in "GC"),
        # What stayed of the tile before: which loops went on, and how far the box went.
        *(_advance(at[dim]) for dim in RELEVANT["I"]),
        *(_advance(edge) for edge in (*rows.T, *cols.T)),
        _place(layout, arch.dram.burst, n, rows, cols),
    ]

    def price(tile: int) -> Stay:
        fetch = input_fetch(nest, halo, tile)
        held = fetch.box.volume(formats.I).bits
        return Stay(held, _moved(fetch.new.volume(formats.I), layout, arch, fetch.new), NOTHING)

    return _priced(columns, price)


def weight_stays(nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Stay]:
    """Price the tiles of W."""
    layout = WeightLayout(nest.layer.weight_shape, formats.W)
    at = _numbers(nest, nest.period("W"))

    def price(tile: int) -> Stay:
        box = weight_fetch(nest, tile).box
        volume = box.volume(formats.W)
        padding = layout.runs(box.filters, box.c).burst_padding(arch.dram.burst)
        return Stay(volume.bits, Moved(*volume, burst=padding), NOTHING)

    return _priced([at[dim] for dim in RELEVANT["W"]], price)


def output_stays(nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Stay]:
    """Price the tiles of O: partial sums that come back, and what leaves.

    While sums lie in the buffer a tile takes the larger of its sums and its results.
    """
    shape, burst = nest.layer.output_shape, arch.dram.burst
    results = ActivationLayout(shape, formats.O)
    accumulated = ActivationLayout(shape, PartialSums(arch.pe_array.accumulator_bits))
    in_buffer = partial_sums_in_buffer(nest, arch)
    at = _numbers(nest, nest.period("O"))
    n, rows, cols = (_spans(nest, dim)[at[dim]] for dim in "NPQ")
    columns = [
        *(high - low for low, high in (n.T, rows.T, cols.T)),
        *(at[dim] for dim in "GK"),
        (at["C"] > 0).astype(np.int64),
        (at["C"] == nest.trips["C"] - 1).astype(np.int64),
        *(_place(layout, burst, n, rows, cols) for layout in (results, accumulated)),
    ]

    def price(tile: int) -> Stay:
        visit = output_visit(nest, tile)
        box = visit.box
        result = box.volume(formats.O)
        channels = sum(high - low for low, high in box.channels)
        sums = box.pixels * channels * arch.pe_array.accumulator_bits
        partial = NOTHING
        if visit.resumed or not visit.finished:
            padding = accumulated.runs(*box).burst_padding(burst)
            partial = Moved(psum=sums, burst=padding)
        return Stay(
            max(result.bits, sums) if in_buffer else result.bits,
            partial if visit.resumed else NOTHING,
            _moved(result, results, arch, box) if visit.finished else partial,
        )

    return _priced(columns, price)


def steps(nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Step]:
    """Price the steps."""
    layer = nest.layer
    at = _numbers(nest, 1)
    number = np.arange(nest.steps)
    periods = {tensor: nest.period(tensor) for tensor in TENSORS}
    images = _spans(nest, "N")
    columns = [
        (images[:, 1] - images[:, 0])[at["N"]],
        *(at[dim] for dim in "GKC"),
        _alike([(*_extent(p), row_taps(layer, p)) for p in nest.spans("P")])[at["P"]],
        _alike([(*_extent(q), col_taps(layer, q)) for q in nest.spans("Q")])[at["Q"]],
        *((number % period == 0).astype(np.int64) for period in periods.values()),
        *(((number + 1) % period == 0).astype(np.int64) for period in periods.values()),
    ]

    def price(step: int) -> Step:
        here = nest.indices(step)
        tile = tile_at(nest, step)
        finishes = here["C"] == nest.trips["C"] - 1
        result = Volume(0, 0)
        if finishes:
            channels = channel_intervals(tile.G, tile.K, layer.K)
            result = ActivationBox(tile.N, tile.P, tile.Q, channels).volume(formats.O)
        return Step(
            array_traffic(layer, tile, arch.pe_array, formats),
            here["C"] > 0,
            finishes,
            result,
            tuple(tensor for tensor in TENSORS if step % periods[tensor] == 0),
            tuple(tensor for tensor in TENSORS if (step + 1) % periods[tensor] == 0),
        )

    return _priced(columns, price)


def tile_at(nest: Nest, step: int) -> Tile:
    """The ranges that a step computes."""
    at = nest.indices(step)
    return Tile(*(nest.span(dim, at[dim]) for dim in DIMS))


def _numbers(nest: Nest, every: int) -> dict[str, Column]:
    """Tile numbers per dimension at steps 0, every, 2 every, ..."""
    step: Column = np.arange(0, nest.steps, every, dtype=np.int64)
    at = dict.fromkeys(DIMS, np.zeros_like(step))
    for loop in reversed(nest.loops):
        step, at[loop.dim] = np.divmod(step, loop.trips)
    return at


def _spans(nest: Nest, dim: str) -> Column:
    return np.array(nest.spans(dim), np.int64)


def _extent(span: tuple[int, int]) -> tuple[int]:
    return (span[1] - span[0],)


def _advance(values: Column) -> Column:
    """Difference to the tile before; the first tile has one that no other has."""
    return np.diff(values, prepend=values[:1] - 2 * np.abs(values).max(initial=0) - 1)


def _place(layout: ActivationLayout, burst: int, n: Column, rows: Column, cols: Column) -> Column:
    """Where in a burst each box's first pixel starts."""
    _, height, width = layout.grid
    first = (n[:, 0] * height + rows[:, 0]) * width + cols[:, 0]
    place: Column = first * layout.record_bits % burst
    return place


def _moved(volume: Volume, layout: ActivationLayout, arch: Arch, box: ActivationBox) -> Moved:
    padding = layout.runs(*box).burst_padding(arch.dram.burst) if volume.bits else 0
    return Moved(*volume, burst=padding)


def _alike(keys: Sequence[Hashable]) -> Column:
    """A number per key, the same for equal keys: 0, 1, 2, ... as they first come."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def _priced(columns: list[Column], price: Callable[[int], T]) -> Priced[T]:
    """Price the first of each distinct row of the columns, and number the distinct prices."""
    kinds, count = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        if count * (high - low + 1) > _LARGEST:
            found, kinds = np.unique(kinds, return_inverse=True)
            count = len(found)
        kinds = kinds * (high - low + 1) + (column - low)
        count *= high - low + 1
    _, firsts, kinds = np.unique(kinds, return_index=True, return_inverse=True)
    prices = [price(int(first)) for first in firsts]
    number = _alike(prices)
    return Priced(number[kinds], tuple(dict.fromkeys(prices)))
