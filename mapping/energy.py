"""What the energy of a run is made of: what moves, multiplications, operations of the vector
unit, leakage, and what DRAM takes beside what it moves.

What moves is Eq. 8 of BitQ; everything else is zero unless the architecture prices it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bfpsim.arch import DeviceDram
from bfpsim.mapping.counts import Counts, Direction, energy_pj
from bfpsim.mapping.nest import Tensor

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats

MOVEMENT, ALL = "movement (Eq. 8)", "all"
"""What tables call the two totals."""

_PJ_PER_J = 10**12
_DIRECTIONS: tuple[Direction, ...] = ("read", "write")


class Part(NamedTuple):
    """One part of a run's energy.

    part: "movement" of bits, "io" of the same in a DRAM device's pins, "macs", "vector"
        operations, "leakage" of a memory; of DRAM, "activate", "refresh", "background" of its time,
        and "power-down" of the time in which it is asleep
    where: the level of movement, the memory, the PE array, or the vector unit
    direction: of movement: "read" or "write"
    """

    part: Literal[
        "movement", "io", "macs", "vector", "leakage", "activate", "refresh", "background",
        "power-down",
    ]  # fmt: skip
    where: str
    direction: Literal["read", "write", ""]
    energy_pj: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer spends energy on, over all of its repeats.

    counts: bits per flow
    products: passes of a multiplier: multiply-accumulates, times the passes of wide operands
    operand_bits: of the wider significand
    cycles: until the last bit is written
    vector_operations: of the vector unit's lanes
    activates: rows that a DRAM device opened
    dram_busy: cycles that DRAM moved bits
    """

    counts: Counts
    products: int
    operand_bits: int
    cycles: int
    vector_operations: int = 0
    activates: int = 0
    dram_busy: int = 0


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of a run.

    parts: movement by level and direction, that in a DRAM device's pins apart; and of the rest what
        the architecture prices
    movement_pj: Eq. 8: the correctly rounded sum of every flow's energy [pJ]
    all_pj: the same with operations, leakage and background [pJ]
    """

    parts: tuple[Part, ...]
    movement_pj: float
    all_pj: float

    def to_frame(self) -> pd.DataFrame:
        """The parts and, below them, both totals: part, where, direction, energy_pj."""
        import pandas as pd

        totals = [(MOVEMENT, "", "", self.movement_pj), (ALL, "", "", self.all_pj)]
        return pd.DataFrame([*self.parts, *totals], columns=list(Part._fields))


def energy_of(arch: Arch, layers: Sequence[Work]) -> Energy:
    """The energy of layers that run one after another."""
    moved: dict[tuple[str, Direction], list[float]] = {
        (level.name, direction): [] for level in arch.levels for direction in _DIRECTIONS
    }
    pins: dict[tuple[str, Direction], list[float]] = {key: [] for key in moved}
    io, outermost = _io_pj(arch), arch.levels[0].name
    for layer in layers:
        for flow, bits in layer.counts.items():
            moved[flow.level, flow.direction].append(energy_pj(flow, bits, arch))
            if io and flow.level == outermost:
                pins[flow.level, flow.direction].append(float(bits) * io)
    movement = []
    for key, own in moved.items():
        if own:
            movement.append(Part("movement", *key, math.fsum([*own, *(-pj for pj in pins[key])])))
        if pins[key]:
            movement.append(Part("io", *key, math.fsum(pins[key])))
    rest = beyond_movement(arch, layers)
    every = [pj for own in moved.values() for pj in own]
    total = math.fsum([*every, *(part.energy_pj for part in rest)])
    return Energy((*movement, *rest), math.fsum(every), total)


def beyond_movement(arch: Arch, layers: Sequence[Work]) -> list[Part]:
    """What is not movement, as far as the architecture prices it; each part rounded once."""
    return list(_rest(arch, layers)) if arch.prices_more else []


def _rest(arch: Arch, layers: Sequence[Work]) -> Iterator[Part]:
    array = arch.pe_array
    if array.mac_energy is not None:
        macs = sum(layer.products * array.mac_pj(layer.operand_bits) for layer in layers)
        yield Part("macs", "PE array", "", float(macs))
    if arch.vector is not None and arch.vector.energy is not None:
        operations = sum(layer.vector_operations for layer in layers)
        yield Part("vector", "vector unit", "", float(operations * arch.vector.energy))
    seconds = sum(layer.cycles for layer in layers) / arch.clock
    for name, memory in arch.memories.items():
        if memory.leakage is not None:
            joules = memory.leakage_w * arch.copies[name] * seconds
            yield Part("leakage", name, "", float(joules * _PJ_PER_J))
    busy = sum(layer.dram_busy for layer in layers) / arch.clock
    yield from _of_dram(arch, sum(layer.activates for layer in layers), seconds, busy)


def _io_pj(arch: Arch) -> float:
    """What the pins of a DRAM device take of each bit, beside the device [pJ/bit]."""
    return (arch.dram.io or 0.0) if isinstance(arch.dram, DeviceDram) else 0.0


def _of_dram(arch: Arch, activates: int, seconds: Fraction, busy: Fraction) -> Iterator[Part]:
    """What DRAM takes beside what it moves, of all its channels.

    seconds: of the run; busy: of these, those in which bits move
    """
    dram, where = arch.dram, arch.levels[0].name
    if not isinstance(dram, DeviceDram):
        if dram.background is not None:
            yield Part("background", where, "", float(dram.background * seconds * _PJ_PER_J))
        return
    own = dram.energies
    if own is None:
        return
    refreshes = dram.channels * seconds * dram.own.clock / dram.own.refresh_every
    asleep = own.power_down if dram.idle == "power-down" else 0
    awake = own.active * busy + (0 if asleep else own.idle * (seconds - busy))
    yield Part("activate", where, "", float(own.activate * activates))
    yield Part("refresh", where, "", float(own.refresh * refreshes))
    yield Part("background", where, "", float(awake * dram.channels * _PJ_PER_J))
    if asleep:
        joules = asleep * (seconds - busy) * dram.channels
        yield Part("power-down", where, "", float(joules * _PJ_PER_J))


def operand_bits(formats: LayerFormats) -> int:
    """The wider significand of a multiplication [bit]."""
    return max(formats.I.significand_bits, formats.W.significand_bits)


def written(
    outer: Mapping[Tensor, Any], inner: Mapping[Tensor, Any], results: int
) -> tuple[dict[Tensor, Any], dict[Tensor, Any]]:
    """What of each tensor's traffic at the two outermost levels is written; arrays too [bit].

    outer, inner: reads and writes together at each level
    results: all outputs once

    I and W come in from outside once and are read. Of O, each sum that leaves a level comes back,
    and results leave it once: at the inner level as much is written as read.
    """
    outside: dict[Tensor, Any] = {"I": 0, "W": 0, "O": (outer["O"] + results) // 2}
    inside: dict[Tensor, Any] = {"I": outer["I"], "W": outer["W"], "O": inner["O"] // 2}
    return outside, inside
