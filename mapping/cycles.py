"""What the cycles of the PE array are made of, without a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.mapping.closed.levels import inner_counts, steady_cycles
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.steps.price import streams_of

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
