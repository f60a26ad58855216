"""What the cycles of a run are made of, without a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.arch import DeviceDram
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.closed.levels import inner_counts, steady_cycles
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.steps.price import streams_of
from bfpsim.mapping.steps.schedule import Schedule

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.nest import Mapping
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import ConvLayer


class ArrayCycles(NamedTuple):
    """Cycles of the array under a mapping, as `LayerResult` counts them.

    steady: that lanes multiply; fill: more to preload, fill and drain, both in closed form
    ports: more for what moves inside SRAM meanwhile, from the price of every tile step
    """

    steady: int
    fill: int
    ports: int


def array_cycles(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> ArrayCycles:
    """The array's cycles under a legal mapping. Raises MappingError as `check` does."""
    nest = check(stored(layer, arch), arch, mapping, formats)
    steady = steady_cycles(nest, arch, formats)
    fill = inner_counts(nest, arch, formats)[1] - steady
    limits = (buffer.ports for level in arch.levels for buffer in level.buffers.values())
    if all(ports.read is None and ports.write is None for ports in limits):
        return ArrayCycles(steady, fill, 0)
    steps = streams_of(nest, arch, formats).steps
    times = np.bincount(steps.kinds, minlength=len(steps.prices)).tolist()
    held_up = sum(
        (step.lasting - step.computing) * count
        for step, count in zip(steps.prices, times, strict=True)
    )
    return ArrayCycles(steady, fill, held_up)


def device_stalls(
    layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats
) -> dict[str, int]:
    """Cycles that the array waits for a DRAM device, rung by rung (`Timing.ladder`).

    The first rung waits for full bandwidth; each other one has what it adds. None of an ideal DRAM.
    Raises MappingError as `check` does.
    """
    if not isinstance(arch.dram, DeviceDram):
        return {}
    nest = check(stored(layer, arch), arch, mapping, formats)
    streams = streams_of(nest, arch, formats)
    below, rungs = 0, {}
    for name, timing in Timing.of(arch).ladder.items():
        here = sum(Schedule.of(streams, arch, timing).stalls.values())
        rungs[name], below = here - below, here
    return rungs
