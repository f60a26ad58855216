"""What operations of the vector unit move and take, in closed form: sums over each axis by itself.

Payload without bursts, equal to that of `mapping.steps.vector` bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bfpsim.mapping.vector import Access, Line, Plan, VectorTiling, pieces, plan_of
from bfpsim.quant.formats import Format
from bfpsim.workloads.program import Operation, View

if TYPE_CHECKING:
    from bfpsim.arch import Arch

Interval = tuple[int, int]
Halo = Literal["sliding", "none"]


class VectorMoved(NamedTuple):
    """Payload of one tensor of a vector operation.

    bits: read or written off chip, if it lies there
    room: of its largest tile [bit]
    """

    view: View
    bits: int
    room: int


def vector_traffic(
    operation: Operation, tiling: VectorTiling, arch: Arch, formats: Mapping[str, Format]
) -> tuple[VectorMoved, ...]:
    """What every distinct view that is read or added moves, in the operation's order; the results.

    formats: by activation

    Raises ValueError for an operation that is not the vector unit's.
    """
    plan = plan_of(operation)
    spans = plan.spans(tiling)
    reads = (
        _read(own, plan, spans, arch.dma.halo, formats[own.view.activation]) for own in plan.reads
    )
    return (*reads, _written(plan, spans, arch, formats[plan.writes.view.activation]))


def _read(
    access: Access,
    plan: Plan,
    spans: tuple[list[Interval], ...],
    halo: Halo,
    fmt: Format,
) -> VectorMoved:
    if access.lines is None:
        return _passing(access, plan.readings * prod(map(len, spans)), fmt)
    needs = [_needs(line, own) for line, own in zip(access.lines, spans, strict=True)]
    samples, rows, columns, channels = needs
    cells = [_cell_bits(own, fmt) for own in channels]
    room = _longest(rows) * _longest(columns) * max(cells)
    # Loops outer to inner; one that needs other boxes at its turns is of the tensor.
    loops = [samples, None, channels, columns, rows]
    turns = [len(samples), plan.readings, len(channels), len(columns), len(rows)]
    own = [place for place, need in enumerate(loops) if need and len({*need}) > 1]
    innermost = own[-1] if own else -1
    again = prod(
        count for place, count in enumerate(turns[: max(innermost, 0)]) if place not in own
    )
    many = len(samples) if 0 in own else 1
    deep = cells if 2 in own else cells[:1]
    lines, strips = (
        _total(need if place in own else need[:1], place == innermost, halo)
        for place, need in ((4, rows), (3, columns))
    )
    return VectorMoved(access.view, again * many * lines * strips * sum(deep), room)


def _written(plan: Plan, spans: tuple[list[Interval], ...], arch: Arch, fmt: Format) -> VectorMoved:
    """Results leave once. Where several steps make one, sums lie in the tile."""
    view, lines = plan.writes.view, plan.writes.lines
    assert lines is not None
    _, rows, columns, channels = (_needs(line, own) for line, own in zip(lines, spans, strict=True))
    pixels = _longest(rows) * _longest(columns)
    room = pixels * max(_cell_bits(own, fmt) for own in channels)
    _, height, width, _ = spans
    if len({*rows}) * len({*columns}) < len(height) * len(width):
        room = max(room, pixels * _longest(channels) * arch.pe_array.accumulator_bits)
    n, p, q, _ = view.shape
    return VectorMoved(view, n * p * q * sum(_cell_bits(own, fmt) for own in channels), room)


def _passing(access: Access, steps: int, fmt: Format) -> VectorMoved:
    sizes = pieces(access.box, steps, fmt.block_size)
    n, h, w, c = access.box
    cuts = [(low, min(low + sizes[3], c)) for low in range(0, c, sizes[3])]
    cells = [_cell_bits(own, fmt) for own in cuts]
    return VectorMoved(access.view, n * h * w * sum(cells), prod(sizes[:3]) * max(cells))


def _needs(line: Line, spans: list[Interval]) -> list[Interval]:
    low, high = (np.asarray(edge) for edge in line.stored(*np.array(spans, np.int64).T))
    some = low < high
    return list(zip((low * some).tolist(), (high * some).tolist(), strict=True))


def _total(needs: list[Interval], alone: bool, halo: Halo) -> int:
    """Places fetched, one range after the other.

    alone: whether no other axis changes meanwhile, so that what the range before has stays; all
        of an equal one in any case
    """
    total, before = 0, (0, 0)
    for low, high in needs:
        stays = alone and (halo == "sliding" or before == (low, high))
        total += max(0, high - max(low, before[1] if stays else low))
        before = low, high
    return total


def _longest(needs: list[Interval]) -> int:
    return max(high - low for low, high in needs)


def _cell_bits(channels: Interval, fmt: Format) -> int:
    """Of a pixel: mantissas of some channels, and the codes of the blocks that they touch."""
    low, high = channels
    if low >= high:
        return 0
    blocks = (high - 1) // fmt.block_size - low // fmt.block_size + 1
    return (high - low) * fmt.mantissa_bits + blocks * fmt.exponent_bits
