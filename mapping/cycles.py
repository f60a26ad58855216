"""What the cycles of the PE array are made of, without a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.mapping.array import passes
from bfpsim.mapping.closed.array import Factors, array_profile, busy_cycles
from bfpsim.mapping.closed.traffic import leaves_of_nest
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
    kept, array = stored(layer, arch), arch.pe_array
    nest = check(kept, arch, mapping, formats)
    leaves, each = leaves_of_nest(nest.innermost), passes(array, formats)
    steady = _product(array_profile(kept, array, leaves).steady) * each
    busy = busy_cycles(kept, array, leaves, each)
    fill = _product(busy.loads) + _product(busy.tiles) * busy.fill - steady
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


def _product(factors: Factors) -> int:
    """Of the one entry that each table has, a whole number of any length."""
    product = 1
    for _, table in factors:
        product *= int(table.item())
    return product
