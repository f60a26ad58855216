"""When everything of a run happens: its cycles, from the streams alone.

With one slot per tensor nothing overlaps, and the cycles are a sum over the boundaries between
steps. With two the events decide (`mapping.steps.events`). Both equal the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.compiled import compiled
from bfpsim.mapping.array import computing_cycles
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.nest import TENSORS, Nest, Tensor
from bfpsim.mapping.steps import events
from bfpsim.mapping.steps.price import Priced, Stay, Step, Streams
from bfpsim.mapping.steps.tiles import Vector, Visits, unrolled

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats


@dataclass(frozen=True, eq=False)
class Schedule:
    """All that decides when what happens, in cycles.

    timing: of the channel; slots: per tensor, 1 or 2
    fetches: by tensor, what arrives with each tile takes of the channel; -1 where nothing arrives
    drains: what each tile of O that leaves takes of it
    lasting: of each step
    begins, ends: by tensor, the steps that are the first or the last to use each tile
    """

    timing: Timing
    slots: dict[Tensor, int]
    fetches: dict[Tensor, Vector]
    drains: Vector
    lasting: Vector
    begins: dict[Tensor, Vector]
    ends: dict[Tensor, Vector]

    @classmethod
    def of(cls, streams: Streams, arch: Arch, timing: Timing | None = None) -> Schedule:
        """The schedule of the streams of a nest.

        timing: of the channel, in place of the machine's
        """
        steps = streams.steps
        begins, ends = (
            {t: np.flatnonzero(_of_steps(steps, [t in own for own in edge])) for t in TENSORS}
            for edge in zip(*((step.begins, step.ends) for step in steps.prices), strict=True)
        )
        lasting = _of_steps(steps, [step.lasting for step in steps.prices])
        return cls._of(streams.stays, lasting, begins, ends, arch, timing)

    @classmethod
    def of_nest(
        cls, nest: Nest, stays: dict[Tensor, Priced[Stay]], visits: dict[Tensor, Visits],
        arch: Arch, formats: LayerFormats,
    ) -> Schedule:  # fmt: skip
        """The schedule of a nest whose steps last as long as the array computes.

        Those of a machine without ports and without levels inside SRAM do (`computes_alone`).
        """
        ranges = unrolled(nest, len(nest.loops))
        sizes = nest.tile | {dim: own.lengths for dim, own in ranges.cut.items()}
        _, cycles = computing_cycles(arch.pe_array, formats, nest.extents, sizes)
        lasting = np.broadcast_to(np.asarray(cycles, np.int64), nest.steps)
        begins, ends = (
            {t: own.begins for t, own in visits.items()},
            {t: own.ends - 1 for t, own in visits.items()},
        )
        return cls._of(stays, lasting, begins, ends, arch)

    @classmethod
    def _of(
        cls, stays: dict[Tensor, Priced[Stay]], lasting: Vector, begins: dict[Tensor, Vector],
        ends: dict[Tensor, Vector], arch: Arch, timing: Timing | None = None,
    ) -> Schedule:  # fmt: skip
        timing = timing or Timing.of(arch)
        return cls(
            timing,
            {t: 2 if arch.buffer(t).double_buffered else 1 for t in TENSORS},
            {t: _fetches(stays[t], timing) for t in TENSORS},
            _drains(stays["O"], timing),
            lasting,
            begins,
            ends,
        )

    @property
    def cycles(self) -> int:
        """From start to the last bit written."""
        rests = max(self.timing.to_write, self.timing.to_read)
        if set(self.slots.values()) == {1} and int(self.lasting.min()) >= rests:
            return self._one_after_the_other()
        return int(self._events()[0])

    @property
    def stalls(self) -> dict[Tensor, int]:
        """Cycles the array waited, by the tensor whose tile came last; O has the last drain."""
        return dict(zip(TENSORS, self._events()[1:].tolist(), strict=True))

    def _events(self) -> Vector:
        begins, ends = np.zeros((2, len(self.lasting)), np.int64)
        for place, tensor in enumerate(TENSORS):
            begins[self.begins[tensor]] += 1 << place
            ends[self.ends[tensor]] += 1 << place
        return _compiled()(
            self.timing.latency,
            np.array([self.timing.to_write, self.timing.to_read]),
            np.array([self.slots[t] for t in TENSORS]),
            np.array([len(self.fetches[t]) for t in TENSORS]),
            np.concatenate([self.fetches[t] for t in TENSORS]),
            self.drains,
            self.lasting,
            begins,
            ends,
        )

    def _one_after_the_other(self) -> int:
        """With one slot per tensor: all steps, and what lies between them.

        I and W are asked for as soon as the step before ends, in this order, then the tile of O
        drains and what resumes is read back. A latency trails what is read, while the channel goes
        on. A step lasts as long as the channel rests at most, so only what lies between two steps
        turns it round.
        """
        first, timing, steps = self.begins, self.timing, len(self.lasting)
        moved = {t: np.zeros(steps, np.int64) for t in TENSORS}
        reads = {t: np.zeros(steps, bool) for t in TENSORS}
        for tensor in TENSORS:
            moved[tensor][first[tensor]] = np.maximum(self.fetches[tensor], 0)
            reads[tensor][first[tensor]] = self.fetches[tensor] >= 0
        drain = np.zeros(steps, np.int64)
        drain[first["O"][1:]] = self.drains[:-1]
        loads = moved["I"] + moved["W"]
        drained = loads + drain + timing.to_write * ((loads > 0) & (drain > 0))
        resumed = drained + moved["O"] + timing.to_read * ((drain > 0) & reads["O"])
        waits = np.where(drain > 0, drained, 0)
        for tensor, done in (("I", moved["I"]), ("W", loads), ("O", resumed)):
            waits = np.maximum(waits, np.where(reads[tensor], done + timing.latency, 0))
        return int((self.lasting + waits).sum() + self.drains[-1])


def _fetches(stays: Priced[Stay], timing: Timing) -> Vector:
    each = [
        timing.cycles(stay.arrives.payload, stay.arrives.burst, stay.arriving.clocks)
        if stay.arrives.payload
        else -1
        for stay in stays.prices
    ]
    return np.array(each, np.int64)[stays.kinds]


def _drains(stays: Priced[Stay], timing: Timing) -> Vector:
    each = [
        timing.cycles(stay.leaves.payload, stay.leaves.burst, stay.leaving.clocks)
        for stay in stays.prices
    ]
    return np.array(each, np.int64)[stays.kinds]


def computes_alone(arch: Arch) -> bool:
    """Whether nothing but the array's cycles decides how long a step lasts."""
    buffers = {id(own): own for own in arch.levels[1].buffers.values()}.values()
    limits = (limit for own in buffers for limit in (own.ports.read, own.ports.write))
    return not arch.inner and arch.registers is None and all(limit is None for limit in limits)


def _of_steps(steps: Priced[Step], values: list[int]) -> Vector:
    return np.array(values, np.int64)[steps.kinds]


@cache
def _compiled() -> Callable[..., Vector]:
    """The loop over the events: compiled, if there is numba; the same function if not."""
    try:
        made: Callable[..., Vector] = compiled()(events.events)
    except ImportError:
        return events.events
    return made
