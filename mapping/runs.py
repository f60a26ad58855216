"""What the simulator reports of a mapping, without simulating it: cycles, bits and energy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.counts import KINDS, Counts, Direction, energy_pj
from bfpsim.mapping.nest import Mapping, Nest, make_nest
from bfpsim.mapping.steps.price import Priced, Streams, T, stays_of, streams_of
from bfpsim.mapping.steps.schedule import Schedule, computes_alone
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, eq=False)
class Run:
    """A mapping's run.

    cycles: from start to the last bit written
    dram_bits: read and written off chip, burst padding included
    """

    cycles: int
    dram_bits: int
    _nest: Nest
    _arch: Arch
    _formats: LayerFormats

    @cached_property
    def energy_pj(self) -> float:
        """Energy of all movement (Eq. 8) [pJ]."""
        counts = _counts(streams_of(self._nest, self._arch, self._formats), self._arch)
        return math.fsum(energy_pj(flow, bits, self._arch) for flow, bits in counts.items())


def run_of(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Run:
    """The run of a legal mapping of a layer as stored."""
    nest = make_nest(layer, mapping, arch.inside)
    if computes_alone(arch):
        visits, stays = stays_of(nest, arch, formats)
        schedule = Schedule.of_nest(nest, stays, visits, arch, formats)
    else:
        streams = streams_of(nest, arch, formats)
        stays, schedule = streams.stays, Schedule.of(streams, arch)
    dram_bits = sum(
        (sum(stay.arrives) + sum(stay.leaves)) * times
        for own in stays.values()
        for stay, times in _repeated(own)
    )
    return Run(schedule.cycles, dram_bits, nest, arch, formats)


def _counts(streams: Streams, arch: Arch) -> Counts:
    """All that moves, as the simulator counts it."""
    counts = Counts()
    outer, inner = (level.name for level in arch.levels[:2])
    for tensor, stays in streams.stays.items():
        for stay, times in _repeated(stays):
            ways: tuple[tuple[Direction, Direction, tuple[int, ...]], ...] = (
                ("read", "write", stay.arrives),
                ("write", "read", stay.leaves),
            )
            for direction, other, moved in ways:
                for kind, bits in zip(KINDS, moved, strict=True):
                    counts.add(outer, tensor, direction, kind, bits * times)
                    if kind != "burst":
                        counts.add(inner, tensor, other, kind, bits * times)
    for step, times in _repeated(streams.steps):
        for flow, bits in zip(streams.flows, step.bits, strict=True):
            counts.add(*flow, bits * times)
    return counts


def _repeated(stream: Priced[T]) -> Iterator[tuple[T, int]]:
    """Each price of a stream, and how often it is paid."""
    times = np.bincount(stream.kinds, minlength=len(stream.prices))
    return zip(stream.prices, times.tolist(), strict=True)
