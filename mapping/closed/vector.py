"""What operations of the vector unit move and take, in closed form: sums over each axis by itself.

Payload without bursts, equal to that of `mapping.steps.vector` bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bfpsim.mapping.vector import (
    Access,
    Lines,
    Loop,
    Plan,
    Vector,
    VectorTiling,
    pieces,
    plan_of,
)
from bfpsim.quant.formats import Format
from bfpsim.workloads.program import Operation, View

if TYPE_CHECKING:
    from bfpsim.arch import Arch

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
    loops = plan.loops(tiling)
    reads = (_read(own, loops, arch.dma.halo, formats[own.view.activation]) for own in plan.reads)
    return (*reads, _written(plan, loops, arch, formats[plan.writes.view.activation]))


def _read(access: Access, loops: tuple[Loop, ...], halo: Halo, fmt: Format) -> VectorMoved:
    """A sum per axis of the loops that need other boxes at their turns.

    Loops between these go through all of it again; inside the innermost nothing moves.
    """
    if access.lines is None:
        return _passing(access, prod(len(loop.low) for loop in loops), fmt)
    needs = {loop.axis: _needs(access.lines, loop) for loop in loops}
    own = [loop.axis for loop in loops if _changes(needs[loop.axis])]
    bits, inside = 1, False
    for loop in reversed(loops):
        axis, need = loop.axis, needs[loop.axis]
        alone = axis in own and not inside
        inside = inside or axis in own
        if axis is None or axis not in own:
            bits *= len(loop.low) if inside else 1
            need = need[:, :1]
        if axis == 3:
            bits *= int(_cell_bits(need, fmt).sum())
        elif axis is not None:
            bits *= _total(need, alone and axis > 0, halo)
    return VectorMoved(access.view, bits, _room(needs, fmt))


def _written(plan: Plan, loops: tuple[Loop, ...], arch: Arch, fmt: Format) -> VectorMoved:
    """Results leave once. Where several steps make one, sums lie in the tile."""
    view, lines = plan.writes.view, plan.writes.lines
    assert lines is not None
    needs = {loop.axis: _needs(lines, loop) for loop in loops}
    room = _room(needs, fmt)
    if any(
        loop.axis is not None and len(loop.low) > 1 and not _changes(needs[loop.axis])
        for loop in loops
    ):
        elements = prod(_longest(needs[axis]) for axis in (1, 2, 3))
        room = max(room, elements * arch.pe_array.accumulator_bits)
    every = needs[3] if _changes(needs[3]) else needs[3][:, :1]
    return VectorMoved(view, prod(view.shape[:3]) * int(_cell_bits(every, fmt).sum()), room)


def _passing(access: Access, steps: int, fmt: Format) -> VectorMoved:
    sizes = pieces(access.box, steps, fmt.block_size)
    n, h, w, c = access.box
    low = np.arange(0, c, sizes[3])
    cells = _cell_bits(np.array([low, np.minimum(low + sizes[3], c)]), fmt)
    return VectorMoved(
        access.view, n * h * w * int(cells.sum()), prod(sizes[:3]) * int(cells.max())
    )


def _needs(lines: Lines, loop: Loop) -> Vector:
    """What each range of a loop needs, (2, ranges); nothing is 0 .. 0."""
    if loop.axis is None:
        return np.zeros((2, len(loop.low)), np.int64)
    low, high = lines[loop.axis].stored(loop.low, loop.high)
    needs: Vector = np.array([low, high]) * (low < high)
    return needs


def _changes(needs: Vector) -> bool:
    return bool((needs != needs[:, :1]).any())


def _total(needs: Vector, alone: bool, halo: Halo) -> int:
    """Places fetched, one range after the other.

    alone: whether no other axis changes meanwhile, so that what the range before has stays; all
        of an equal one in any case
    """
    low, high = needs
    first = low.copy()
    if alone:
        stays = np.full(len(low), halo == "sliding")
        stays[1:] |= (low[1:] == low[:-1]) & (high[1:] == high[:-1])
        stays[0] = False
        first = np.where(stays, np.maximum(low, np.append(0, high[:-1])), low)
    return int(np.maximum(high - first, 0).sum())


def _room(needs: dict[int | None, Vector], fmt: Format) -> int:
    return _longest(needs[1]) * _longest(needs[2]) * int(_cell_bits(needs[3], fmt).max())


def _longest(needs: Vector) -> int:
    return int((needs[1] - needs[0]).max())


def _cell_bits(channels: Vector, fmt: Format) -> Vector:
    """Of a pixel: mantissas of ranges of channels, and the codes of the blocks that they touch."""
    low, high = channels
    blocks = (high - 1) // fmt.block_size - low // fmt.block_size + 1
    bits: Vector = (high - low) * fmt.mantissa_bits + blocks * fmt.exponent_bits
    bits *= low < high
    return bits
