"""The tiles of operations of the vector unit, in order: what arrives for each, and what leaves.

Samples come one after the other; within one, all readings; within these, ranges of channels, then
strips of columns, then rows. (Where results depend on all channels: strips, rows, readings, ranges
of channels.) While what is needed of an operand stays the same box, nothing moves.
If rows or columns alone go on, the overlap with the box before stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.mapping.steps.price import Priced, Stay, box_transfers, stays_from
from bfpsim.mapping.steps.tiles import Boxes, Channels, Mask, Ranges, Vector, distinct
from bfpsim.mapping.steps.volumes import box_bits
from bfpsim.mapping.vector import Access, Plan, VectorTiling, pieces, plan_of
from bfpsim.quant.formats import ActivationLayout, Format
from bfpsim.workloads.program import Operation, View

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.steps.tiles import Halo


@dataclass(frozen=True, eq=False)
class VectorOperand:
    """The tiles of what a vector operation reads.

    begins, ends: each is in use during the steps `begins .. ends - 1`
    resident: its box, in the view's coordinates; fetched: what of it is new
    stays: the same in bits
    placed: whether the boxes are what the steps need. Else every step may need any of it, and the
        boxes are only the order in which it passes
    """

    view: View
    begins: Vector
    ends: Vector
    resident: Boxes
    fetched: Boxes
    stays: Priced[Stay]
    placed: bool


@dataclass(frozen=True, eq=False)
class VectorResults:
    """The tiles of what a vector operation writes.

    begins, ends: each is in work during the steps `begins .. ends - 1`, and leaves then
    stays: what they take, and what leaves
    """

    view: View
    begins: Vector
    ends: Vector
    resident: Boxes
    stays: Priced[Stay]


@dataclass(frozen=True, eq=False)
class VectorTiles:
    """A vector operation under a tiling.

    operands: of every distinct view that is read or added, in the operation's order
    work: operations of the lanes at each step
    """

    operands: tuple[VectorOperand, ...]
    results: VectorResults
    work: Vector
    readings: int

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.work)

    @property
    def room(self) -> tuple[int, ...]:
        """Bits of the largest tile of each operand, then of the results."""
        stays = (*(own.stays for own in self.operands), self.results.stays)
        return tuple(max(stay.held for stay in own.prices) for own in stays)


def vector_tiles(
    operation: Operation, tiling: VectorTiling, arch: Arch, formats: Mapping[str, Format]
) -> VectorTiles:
    """The tiles of an operation.

    formats: by activation

    Raises ValueError for an operation that is not the vector unit's.
    """
    plan = plan_of(operation)
    loops = plan.loops(tiling)
    counts = [len(loop.low) for loop in loops]
    turns = np.unravel_index(np.arange(prod(counts)), counts)
    on_axis = {
        loop.axis: Ranges(loop.low[turn], loop.high[turn])
        for loop, turn in zip(loops, turns, strict=True)
    }
    grid = tuple(on_axis[axis] for axis in range(4))
    reading = [loop.axis for loop in loops].index(None)
    readings = counts[reading]
    last = turns[reading] == readings - 1
    operands = tuple(
        _operand(access, grid, arch, formats[access.view.activation]) for access in plan.reads
    )
    results = _results(plan.writes, grid, last, arch, formats[plan.writes.view.activation])
    return VectorTiles(operands, results, _work(plan, grid, results), readings)


def _operand(access: Access, grid: tuple[Ranges, ...], arch: Arch, fmt: Format) -> VectorOperand:
    steps = len(grid[0].low)
    needs = _needs(access, grid, fmt)
    begins = _begins(needs)
    own = [Ranges(each.low[begins], each.high[begins]) for each in needs]
    fresh = _fresh(own, arch.dma.halo)
    width = access.view.shape[3]
    resident, fetched = _boxes(own, width), _boxes(fresh, width)
    mantissa, exponent = box_bits(resident, fmt)
    layout = ActivationLayout(access.view.shape, fmt)
    stays = stays_from(mantissa + exponent, box_transfers(fetched, layout, fmt, arch))
    ends = np.append(begins[1:], steps)
    return VectorOperand(
        access.view, begins, ends, resident, fetched, stays, access.lines is not None
    )


def _results(
    access: Access, grid: tuple[Ranges, ...], last: Mask, arch: Arch, fmt: Format
) -> VectorResults:
    """Results are made in the last reading. Where several steps make one, it takes sums' width."""
    at = np.flatnonzero(last)
    needs = [Ranges(each.low[at], each.high[at]) for each in _needs(access, grid, fmt)]
    first = _begins(needs)
    own = [Ranges(each.low[first], each.high[first]) for each in needs]
    resident = _boxes(own, access.view.shape[3])
    result = box_transfers(resident, ActivationLayout(access.view.shape, fmt), fmt, arch)
    held = result[0] + result[1]
    if len(first) < len(at):
        elements = np.asarray(prod(each.lengths for each in own))
        held = np.maximum(held, elements * arch.pe_array.accumulator_bits)
    ends = at[np.append(first[1:], len(at)) - 1] + 1
    stays = stays_from(held, (None,) * 4, result)
    return VectorResults(access.view, at[first], ends, resident, stays)


def _work(plan: Plan, grid: tuple[Ranges, ...], results: VectorResults) -> Vector:
    cells = np.cumsum(np.asarray(prod(each.lengths for each in grid)))
    each, rest = divmod(plan.grid_work, int(cells[-1]))  # their product may pass 64 bits
    work: Vector = np.diff(each * cells + rest * cells // cells[-1], prepend=0)
    boxes = results.resident
    made = boxes.pixels * boxes.channels.inner.lengths[boxes.channels.which]
    work[results.ends - 1] += made * plan.result_work
    return work


def _needs(access: Access, grid: tuple[Ranges, ...], fmt: Format) -> list[Ranges]:
    """What each step needs of a tensor, axis by axis; nothing is empty from 0 on all of them."""
    if access.lines is None:
        return _passing(access, len(grid[0].low), fmt)
    needs = [
        Ranges(*line.stored(own.low, own.high))
        for line, own in zip(access.lines, grid, strict=True)
    ]
    some = np.asarray(np.all([each.low < each.high for each in needs], axis=0))
    return [Ranges(each.low * some, each.high * some) for each in needs]


def _passing(access: Access, steps: int, fmt: Format) -> list[Ranges]:
    """Pieces of a tensor that passes in order, spread over the steps."""
    sizes = pieces(access.box, steps, fmt.block_size)
    counts = [-(-extent // size) for extent, size in zip(access.box, sizes, strict=True)]
    piece = np.arange(steps) * prod(counts) // steps
    needs = []
    for number, size, extent in zip(
        np.unravel_index(piece, counts), sizes, access.box, strict=True
    ):
        low = np.asarray(number, np.int64) * size
        needs.append(Ranges(low, np.minimum(low + size, extent)))
    return needs


def _begins(needs: list[Ranges]) -> Vector:
    """The steps at which another box is needed than before."""
    changed = np.zeros(len(needs[0].low), bool)
    changed[0] = True
    for own in needs:
        for edge in own:
            changed[1:] |= edge[1:] != edge[:-1]
    return np.flatnonzero(changed)


def _fresh(needs: list[Ranges], halo: Halo) -> list[Ranges]:
    """What is new of each box: the whole, or what lies beyond the one before along an axis."""
    fresh = list(needs)
    if halo == "none" or len(needs[0].low) < 2:
        return fresh
    changed = [
        np.append(True, (own.low[1:] != own.low[:-1]) | (own.high[1:] != own.high[:-1]))
        for own in needs
    ]
    for axis in (1, 2):
        low, high = needs[axis]
        before_low, before_high = (np.append(edge[:1], edge[:-1]) for edge in needs[axis])
        others = np.any([own for place, own in enumerate(changed) if place != axis], axis=0)
        onward = ~others & (low >= before_low) & (high >= before_high) & changed[axis]
        fresh[axis] = Ranges(np.where(onward, np.maximum(low, before_high), low), high)
    return fresh


def _boxes(needs: list[Ranges], width: int) -> Boxes:
    n, h, w, c = needs
    firsts, which = distinct([*c])
    one = np.zeros(len(firsts), np.int64)
    inner = Ranges(c.low[firsts], c.high[firsts])
    empty = inner.low >= inner.high  # their pixels are none, too
    inner = Ranges(inner.low, np.where(empty, width, inner.high))
    return Boxes(n, h, w, Channels(Ranges(one, one + 1), inner, which, width))
