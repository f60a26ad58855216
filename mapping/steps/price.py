"""What every tile of a nest takes and moves in bits, and what every step costs: rules 4 to 6.

A stream is a tensor's tiles in the order they come, or the nest's steps. Two of a stream are of one
kind if they have the same price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.array import reduction_folds
from bfpsim.mapping.nest import DIMS, Nest, Tensor
from bfpsim.mapping.steps.array import ArrayTraffic, Tile, array_traffic
from bfpsim.mapping.steps.bursts import Layout, PixelRanges, filter_place, padding
from bfpsim.mapping.steps.tiles import (
    Boxes,
    Channels,
    InputTiles,
    Mask,
    OutputTiles,
    Ranges,
    Vector,
    Visits,
    WeightTiles,
    distinct,
    input_tiles,
    output_tiles,
    unrolled,
    weight_tiles,
)
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats, PartialSums, WeightLayout
from bfpsim.quant.formats.blocks import touched

if TYPE_CHECKING:
    from bfpsim.arch import Arch

T = TypeVar("T")
_AHEAD = 16

Transfers = tuple[Vector, Vector, "Vector | None", "Vector | None"]
"""Bits of the transfers of a stream by kind, as `Moved` has them; None where no tile has any."""


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


class Stay(NamedTuple):
    """A tile's stay in its buffer: the bits it takes there, what arrives and what leaves."""

    held: int
    arrives: Moved
    leaves: Moved


class Step(NamedTuple):
    """A tile step: what the array does, and which tensors' tiles it is the first or last use of.

    resumes: it adds to partial sums
    finishes: it ends their reduction; `result`: mantissa and exponent bits of the tile then, else 0
    """

    traffic: ArrayTraffic
    resumes: bool
    finishes: bool
    result: tuple[int, int]
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


@dataclass(frozen=True)
class Streams:
    """All that a nest of the layer as stored moves and computes: tiles by tensor, and steps."""

    stays: dict[Tensor, Priced[Stay]]
    steps: Priced[Step]


def streams_of(nest: Nest, arch: Arch, formats: LayerFormats) -> Streams:
    """Price the tiles of every tensor, and the steps."""
    inputs, weights, outputs = (
        input_tiles(nest, arch.dma.halo),
        weight_tiles(nest),
        output_tiles(nest),
    )
    result = _transfers(
        outputs.resident, ActivationLayout(nest.layer.output_shape, formats.O), formats.O, arch
    )
    stays: dict[Tensor, Priced[Stay]] = {
        "I": _input_stays(inputs, nest, arch, formats),
        "W": _weight_stays(weights, nest, arch, formats),
        "O": _output_stays(outputs, result, nest, arch),
    }
    visits: dict[Tensor, Visits] = {
        "I": inputs.visits,
        "W": weights.visits,
        "O": outputs.visits,
    }
    return Streams(stays, _steps(visits, result, nest, arch, formats))


def sums_in_buffer(nest: Nest, arch: Arch) -> bool:
    """Whether unfinished sums ever lie in the buffer of O: C is cut, or the array's leave it."""
    return nest.trips["C"] > 1 or reduction_folds(arch.pe_array, nest.tile) > 1


def _input_stays(tiles: InputTiles, nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Stay]:
    layout = ActivationLayout(nest.layer.input_shape, formats.I)
    mantissa, exponent = _volumes(tiles.resident, formats.I)
    return _stays(mantissa + exponent, arrives=_transfers(tiles.fetched, layout, formats.I, arch))


def _weight_stays(
    tiles: WeightTiles, nest: Nest, arch: Arch, formats: LayerFormats
) -> Priced[Stay]:
    fmt, burst = formats.W, arch.dram.burst
    layout = WeightLayout(nest.layer.weight_shape, fmt)
    filters, codes = _cells(tiles.filters, fmt if layout.depthwise else None)
    filters, codes = filters[tiles.filters.which], codes[tiles.filters.which]
    if not layout.depthwise:
        blocks = (tiles.c.high - 1) // fmt.block_size - tiles.c.low // fmt.block_size + 1
        codes = filters * blocks
    mantissa = filters * tiles.c.lengths * tiles.taps * fmt.mantissa_bits
    exponent = codes * fmt.exponent_bits
    arrives: list[Vector | None] = [mantissa, exponent, None, None]
    if burst > 1:
        firsts, number = distinct([tiles.filters.which, *tiles.c])
        boxes = [tiles.at(int(first)) for first in firsts]
        if layout.depthwise:
            each = [layout.runs(box.filters, box.c).burst_padding(burst) for box in boxes]
            padded = np.array(each, np.int64)
        else:
            owner = np.repeat(np.arange(len(boxes)), [len(box.filters) for box in boxes])
            place = filter_place(np.array([f for box in boxes for f in box.filters]).T)
            ranges = dict.fromkeys(box.c for box in boxes)
            which = {c: i for i, c in enumerate(ranges)}
            of_box = np.array([which[box.c] for box in boxes])[owner]
            padded = np.zeros(len(boxes), np.int64)
            of_runs = padding(layout, [(c,) for c in ranges], of_box, place, burst)
            np.add.at(padded, owner, of_runs)
        arrives[3] = padded[number]
    return _stays(mantissa + exponent, arrives=arrives)


def _output_stays(tiles: OutputTiles, result: Transfers, nest: Nest, arch: Arch) -> Priced[Stay]:
    """While sums lie in the buffer a tile takes the larger of its sums and its results.

    result: bits of each tile as a result, by kind
    """
    mantissa, exponent, _, _ = result
    held = mantissa + exponent
    elements, _ = _volumes(tiles.resident, PartialSums(1))
    accumulator = PartialSums(arch.pe_array.accumulator_bits)
    sums: list[Vector | None] = [None, None, elements * accumulator.mantissa_bits, None]
    if sums_in_buffer(nest, arch):
        held = np.maximum(held, elements * accumulator.mantissa_bits)
    if tiles.finished.all():  # so no visit resumes another
        return _stays(held, (None,) * 4, result)
    layout = ActivationLayout(nest.layer.output_shape, accumulator)
    sums[3] = _padding(tiles.resident, layout, arch.dram.burst)
    arrives = [None if own is None else np.where(tiles.resumed, own, 0) for own in sums]
    leaves = [
        np.where(tiles.finished, 0 if own is None else own, 0 if other is None else other)
        for own, other in zip(result, sums, strict=True)
    ]
    return _stays(held, arrives, leaves)


def _stays(
    held: Vector, arrives: Sequence[Vector | None], leaves: Sequence[Vector | None] = (None,) * 4
) -> Priced[Stay]:
    """arrives, leaves: bits of each tile by kind; None where no tile has any"""
    every = (held, *arrives, *leaves)
    columns = [column for column in every if column is not None]
    firsts, kinds = distinct(columns)
    none = [0] * len(firsts)
    rows = zip(*(none if c is None else c[firsts].tolist() for c in every), strict=True)
    prices = (Stay(row[0], Moved(*row[1:5]), Moved(*row[5:])) for row in rows)
    return Priced(kinds, tuple(prices))


def _transfers(boxes: Boxes, layout: ActivationLayout, fmt: Format, arch: Arch) -> Transfers:
    """Bits of moving each box, by kind."""
    mantissa, exponent = _volumes(boxes, fmt)
    padded = _padding(boxes, layout, arch.dram.burst)
    return mantissa, exponent, None, padded


def _padding(boxes: Boxes, layout: Layout, burst: int) -> Vector | None:
    """Burst padding of each box; boxes that recur are priced once. None without bursts."""
    channels = boxes.channels
    if burst == 1:
        return None
    edges = [*boxes.n, *boxes.h, *boxes.w]
    firsts, number = distinct([channels.which, *edges])
    n, h, w = (Ranges(own.low[firsts], own.high[firsts]) for own in (boxes.n, boxes.h, boxes.w))
    which = channels.which[firsts]
    return padding(layout, channels.intervals, which, PixelRanges(n, h, w), burst)[number]


def _volumes(boxes: Boxes, fmt: Format | PartialSums) -> tuple[Vector, Vector]:
    """Mantissas of each box's elements, and exponents of every block it touches [bit]."""
    elements, codes = _cells(boxes.channels, fmt)
    which, pixels = boxes.channels.which, boxes.pixels
    return (
        pixels * (elements * fmt.mantissa_bits)[which],
        pixels * (codes * fmt.exponent_bits)[which],
    )


def _cells(channels: Channels, fmt: Format | PartialSums | None) -> tuple[Vector, Vector]:
    """Channels of each distinct pair of ranges, and the blocks that they touch."""
    groups, inner = channels.groups, channels.inner
    elements = groups.lengths * inner.lengths
    if fmt is None or not fmt.exponent_bits:
        return elements, np.zeros_like(elements)
    low = groups.low * channels.per_group + inner.low
    high = (groups.high - 1) * channels.per_group + inner.high
    blocks = (high - 1) // fmt.block_size - low // fmt.block_size + 1
    for pair in np.flatnonzero((groups.lengths > 1) & (inner.lengths < channels.per_group)):
        blocks[pair] = touched(channels.intervals[pair], fmt.block_size)
    return elements, blocks


# --- steps --------------------------------------------------------------------------------------


def _steps(
    visits: dict[Tensor, Visits],
    result: Transfers,
    nest: Nest,
    arch: Arch,
    formats: LayerFormats,
) -> Priced[Step]:
    """result: bits of each visit of O as a result, by kind"""
    layer = nest.layer
    ranges = unrolled(nest, len(nest.loops))
    resumes, finishes = ranges["C"].low > 0, ranges["C"].high == layer.C
    begins = {tensor: _marked(nest.steps, own.begins) for tensor, own in visits.items()}
    ends = {tensor: _marked(nest.steps, own.ends - 1) for tensor, own in visits.items()}
    # What a tile costs depends on its size, on the padding it meets, and on the blocks it cuts.
    columns = [
        np.asarray(ranges[dim].lengths if dim == "N" else ranges[dim].low)
        for dim in "NGKC"
        if dim in ranges.cut
    ]
    columns += [
        _alike(ranges[dim], Window.of(layer, dim).uses) for dim in "PQ" if dim in ranges.cut
    ]
    flags = (resumes, finishes, *begins.values(), *ends.values())
    bits = sum((flag.astype(np.int64) << place for place, flag in enumerate(flags)), start=0)
    firsts, number = distinct([*columns, np.asarray(bits)])
    visit = np.searchsorted(visits["O"].begins, firsts, side="right") - 1
    mantissas, exponents = (own[visit] * finishes[firsts] for own in result[:2])
    rows = zip(
        *(ranges[dim].low[firsts].tolist() for dim in DIMS),
        *(ranges[dim].high[firsts].tolist() for dim in DIMS),
        strict=True,
    )
    edges = [[own[firsts].tolist() for own in edge.values()] for edge in (begins, ends)]
    prices = []
    for kind, row in enumerate(rows):
        tile = Tile(*zip(row[:6], row[6:], strict=True))
        first, last = (
            tuple(t for t, own in zip(visits, edge, strict=True) if own[kind]) for edge in edges
        )
        step = firsts[kind]
        prices.append(
            Step(
                array_traffic(layer, tile, arch.pe_array, formats),
                bool(resumes[step]),
                bool(finishes[step]),
                (int(mantissas[kind]), int(exponents[kind])),
                first,
                last,
            )
        )
    kinds = {one: kind for kind, one in enumerate(dict.fromkeys(prices))}
    return Priced(np.array([kinds[one] for one in prices], np.int64)[number], tuple(kinds))


def _marked(steps: int, at: Vector) -> Mask:
    marked = np.zeros(steps, bool)
    marked[at] = True
    return marked


def _alike(ranges: Ranges, uses: Callable[[tuple[int, int]], tuple[int, ...]]) -> Vector:
    """A number per range; equal ones are as long and meet the same padding."""
    lows, which = np.unique(ranges.low, return_inverse=True)
    highs = np.zeros_like(lows)
    highs[which] = ranges.high
    known: dict[object, int] = {}
    kinds = [
        known.setdefault((high - low, uses((low, high))), len(known))
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
    ]
    return np.array(kinds, np.int64)[which]
