"""What every tile of a nest takes and moves in bits, and what every step costs: rules 4 to 6.

A stream is a tensor's tiles in the order they come, or the nest's steps. Two of a stream are of one
kind if they have the same price.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import DeviceDram
from bfpsim.mapping.array import sums_lie_outside
from bfpsim.mapping.counts import Direction, Flow
from bfpsim.mapping.nest import Nest, Tensor
from bfpsim.mapping.steps.bursts import Layout, PixelRanges, filter_place, padding
from bfpsim.mapping.steps.dram import Service, box_services, weight_services
from bfpsim.mapping.steps.inside import Port, inside
from bfpsim.mapping.steps.tiles import (
    Boxes,
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
    weight_tiles,
)
from bfpsim.mapping.steps.volumes import Moved, box_bits, weight_bits
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats, PartialSums, WeightLayout

if TYPE_CHECKING:
    from bfpsim.arch import Arch

T = TypeVar("T")

Transfers = tuple[
    Vector, Vector, "Vector | None", "Vector | None", "Vector | None", "Vector | None"
]
"""Of the transfers of a stream, bits by kind, as `Moved` has them, then clocks and activates of a
DRAM device, as `Service` has them; None where no tile has any."""

Columns = Sequence["Vector | None"]
"""The same of what need not be payload; without clocks and activates, of an ideal DRAM."""

_NOTHING: Columns = (None,) * 4


class Stay(NamedTuple):
    """A tile's stay in its buffer.

    held: the bits it takes there
    arrives, leaves: what moves between DRAM and the buffer
    arriving, leaving: what that takes of a DRAM device; nothing of an ideal one
    """

    held: int
    arrives: Moved
    leaves: Moved
    arriving: Service = Service()
    leaving: Service = Service()


class Step(NamedTuple):
    """A tile step: what the array does, and which tensors' tiles it is the first or last use of.

    steady: cycles that lanes multiply; computing: filling and draining too; lasting: with what
        moves between SRAM and array
    bits: by flow, those of `Streams.flows`
    """

    steady: int
    computing: int
    lasting: int
    bits: tuple[int, ...]
    begins: tuple[Tensor, ...]
    ends: tuple[Tensor, ...]


@dataclass(frozen=True)
class Priced(Generic[T]):
    """A stream: `kinds[i]` is the kind of its number i, and each kind has one `price`."""

    kinds: NDArray[np.int64]
    prices: tuple[T, ...]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> T:
        price: T = self.prices[self.kinds[number]]
        return price


@dataclass(frozen=True)
class Streams:
    """All that a nest of the layer as stored moves and computes: tiles by tensor, and steps.

    flows: of bits between SRAM, the levels inside it and the array
    """

    stays: dict[Tensor, Priced[Stay]]
    steps: Priced[Step]
    flows: tuple[Flow, ...]


def in_use(steps: Priced[Any], stays: Mapping[Any, Priced[Stay]]) -> list[Vector]:
    """The kinds of tiles that each step uses, per stream of tiles.

    steps: priced with the names of the streams of which each begins a tile
    """
    firsts = (
        np.array([name in step.begins for step in steps.prices])[steps.kinds] for name in stays
    )
    return [
        own.kinds[np.cumsum(first) - 1] for own, first in zip(stays.values(), firsts, strict=True)
    ]


def streams_of(
    nest: Nest, arch: Arch, formats: LayerFormats, still: Collection[Tensor] = ()
) -> Streams:
    """Price the tiles of every tensor, and the steps.

    still: tensors that lie in SRAM as wholes, so that none of their tiles arrives or leaves
    """
    visits, stays = stays_of(nest, arch, formats)
    for tensor in still:
        prices = tuple(Stay(stay.held, Moved(), Moved()) for stay in stays[tensor].prices)
        stays[tensor] = Priced(stays[tensor].kinds, prices)
    steps, flows = _steps(visits, stays, nest, arch, formats)
    return Streams(stays, steps, flows)


def stays_of(
    nest: Nest, arch: Arch, formats: LayerFormats
) -> tuple[dict[Tensor, Visits], dict[Tensor, Priced[Stay]]]:
    """The tiles of every tensor, and their prices."""
    inputs, weights, outputs = (
        input_tiles(nest, arch.dma.halo),
        weight_tiles(nest),
        output_tiles(nest),
    )
    result = box_transfers(
        outputs.resident, ActivationLayout(nest.layer.output_shape, formats.O), formats.O, arch
    )
    stays: dict[Tensor, Priced[Stay]] = {
        "I": _input_stays(inputs, nest, arch, formats),
        "W": _weight_stays(weights, nest, arch, formats),
        "O": _output_stays(outputs, result, nest, arch),
    }
    return {"I": inputs.visits, "W": weights.visits, "O": outputs.visits}, stays


def _input_stays(tiles: InputTiles, nest: Nest, arch: Arch, formats: LayerFormats) -> Priced[Stay]:
    layout = ActivationLayout(nest.layer.input_shape, formats.I)
    mantissa, exponent = box_bits(tiles.resident, formats.I)
    return stays_from(
        mantissa + exponent, arrives=box_transfers(tiles.fetched, layout, formats.I, arch)
    )


def _weight_stays(
    tiles: WeightTiles, nest: Nest, arch: Arch, formats: LayerFormats
) -> Priced[Stay]:
    fmt, burst = formats.W, arch.dram.burst
    layout = WeightLayout(nest.layer.weight_shape, fmt)
    mantissa, exponent = weight_bits(tiles, fmt, layout.depthwise)
    arrives: list[Vector | None] = [mantissa, exponent, None, None]
    if burst > 1:
        firsts, number = distinct([tiles.filters.which, *tiles.c])
        if layout.depthwise:
            boxes = [tiles.at(int(first)) for first in firsts]
            each = [layout.runs(box.filters, box.c).burst_padding(burst) for box in boxes]
            padded = np.array(each, np.int64)
        else:
            padded = _filters_padding(tiles, firsts, layout, burst)
        arrives[3] = padded[number]
    if isinstance(arch.dram, DeviceDram):
        bits = [own for own in arrives if own is not None]
        arrives.extend(weight_services(arch.dram, layout, tiles, bits))
    return stays_from(mantissa + exponent, arrives=arrives)


def _filters_padding(tiles: WeightTiles, some: Vector, layout: WeightLayout, burst: int) -> Vector:
    """Burst padding of some tiles: the sum over the intervals of their filters."""
    of_each = [np.array(own, np.int64) for own in tiles.filters.intervals]
    lengths = np.array([len(own) for own in of_each])
    starts = np.cumsum(lengths) - lengths
    filters = tiles.filters.which[some]
    many = lengths[filters]
    begins = np.cumsum(many) - many
    at = np.arange(int(many.sum())) + np.repeat(starts[filters] - begins, many)
    channels, which = distinct([own[some] for own in tiles.c])
    parts = [(tiles.c.at(int(some[first])),) for first in channels]
    place = filter_place(np.concatenate(of_each)[at].T)
    padded = padding(layout, parts, np.repeat(which, many), place, burst)
    return np.asarray(np.add.reduceat(padded, begins))


def _output_stays(tiles: OutputTiles, result: Transfers, nest: Nest, arch: Arch) -> Priced[Stay]:
    """While sums lie in the buffer a tile takes the larger of its sums and its results.

    result: bits of each tile as a result, by kind
    """
    held = result[0] + result[1]
    elements, _ = box_bits(tiles.resident, PartialSums(1))
    accumulator = PartialSums(arch.pe_array.accumulator_bits)
    sums: list[Vector | None] = [None, None, elements * accumulator.mantissa_bits, None]
    if sums_lie_outside(nest, arch):
        held = np.maximum(held, elements * accumulator.mantissa_bits)
    if tiles.finished.all():  # so no visit resumes another
        return stays_from(held, _NOTHING, result)
    layout = ActivationLayout(nest.layer.output_shape, accumulator)
    sums[3] = _padding(tiles.resident, layout, arch.dram.burst)
    sums.extend(_services(tiles.resident, layout, sums, arch))
    arrives = [None if own is None else np.where(tiles.resumed, own, 0) for own in sums]
    leaves = [
        np.where(tiles.finished, 0 if own is None else own, 0 if other is None else other)
        for own, other in zip(result, sums, strict=True)
    ]
    return stays_from(held, arrives, leaves)


def stays_from(held: Vector, arrives: Columns, leaves: Columns = _NOTHING) -> Priced[Stay]:
    """Price tiles by what they hold, and what arrives and leaves with each."""
    ways = ((*way, None, None)[:6] for way in (arrives, leaves))
    every = (held, *(column for way in ways for column in way))
    columns = [column for column in every if column is not None]
    firsts, kinds = distinct(columns)
    none = [0] * len(firsts)
    rows = zip(*(none if c is None else c[firsts].tolist() for c in every), strict=True)
    prices = (
        Stay(row[0], Moved(*row[1:5]), Moved(*row[7:11]), Service(*row[5:7]), Service(*row[11:]))
        for row in rows
    )
    return Priced(kinds, tuple(prices))


def box_transfers(boxes: Boxes, layout: ActivationLayout, fmt: Format, arch: Arch) -> Transfers:
    """Bits of moving each box between DRAM and SRAM by kind, and what a device takes for it."""
    mantissa, exponent = box_bits(boxes, fmt)
    padded = _padding(boxes, layout, arch.dram.burst)
    service = _services(boxes, layout, (mantissa, exponent, padded), arch)
    return mantissa, exponent, None, padded, *service


def _services(
    boxes: Boxes, layout: ActivationLayout, bits: Columns, arch: Arch
) -> tuple[Vector | None, Vector | None]:
    """Clocks and activates of a DRAM device for each box; None with an ideal one."""
    if not isinstance(arch.dram, DeviceDram):
        return None, None
    return box_services(arch.dram, layout, boxes, [own for own in bits if own is not None])


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


# --- steps --------------------------------------------------------------------------------------


def _steps(
    visits: dict[Tensor, Visits],
    stays: dict[Tensor, Priced[Stay]],
    nest: Nest,
    arch: Arch,
    formats: LayerFormats,
) -> tuple[Priced[Step], tuple[Flow, ...]]:
    """The steps, and the flows of their bits."""
    begins = {tensor: _marked(nest.steps, own.begins) for tensor, own in visits.items()}
    ends = {tensor: _marked(nest.steps, own.ends - 1) for tensor, own in visits.items()}
    by_dma = _dma_ports(visits, stays, nest, arch) if arch.dma.port == "shared" else None
    own = inside(nest, arch, formats, by_dma)
    flags = (*begins.values(), *ends.values())
    marks = sum((flag.astype(np.int64) << place for place, flag in enumerate(flags)), start=0)
    columns = [own.steady, own.computing, own.lasting, *own.bits.values()]
    firsts, kinds = distinct([*columns, np.asarray(marks)])
    used = [[edge[t][firsts].tolist() for t in visits] for edge in (begins, ends)]
    edges = (
        [tuple(compress(visits, marked)) for marked in zip(*edge, strict=True)] for edge in used
    )
    cycles = zip(*(column[firsts].tolist() for column in columns[:3]), strict=True)
    bits: Iterable[tuple[int, ...]] = repeat((), len(firsts))
    if own.bits:
        bits = zip(*(column[firsts].tolist() for column in columns[3:]), strict=True)
    prices = tuple(
        Step(steady, computing, lasting, moved, first, last)
        for (steady, computing, lasting), moved, first, last in zip(
            cycles, bits, *edges, strict=True
        )
    )
    return Priced(kinds, prices), tuple(own.bits)


def _dma_ports(
    visits: dict[Tensor, Visits], stays: dict[Tensor, Priced[Stay]], nest: Nest, arch: Arch
) -> dict[Port, Vector]:
    """Bits that pass SRAM's ports for every step: what arrives for it, and leaves after it."""
    ports: dict[Port, Vector] = {}
    for tensor, own in visits.items():
        memory, priced = arch.levels[1].memories[tensor], stays[tensor]
        arrives, leaves = (
            np.array([moved.payload for moved in each], np.int64)[priced.kinds]
            for each in zip(*((stay.arrives, stay.leaves) for stay in priced.prices), strict=True)
        )
        transfers: tuple[tuple[Direction, Vector, Vector], ...] = (
            ("write", own.begins, arrives),
            ("read", own.ends - 1, leaves),
        )
        for direction, at, bits in transfers:
            port = ports.setdefault((memory, direction), np.zeros(nest.steps, np.int64))
            port[at] += bits
    return ports


def _marked(steps: int, at: Vector) -> Mask:
    marked = np.zeros(steps, bool)
    marked[at] = True
    return marked
