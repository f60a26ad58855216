"""The least DRAM traffic that any mapping reaches, against the size of the shared buffer.

As Orojenesis (ISCA'24) draws it: a staircase, falling to the compulsory minimum. It comes whole out
of one pass over all tilings, since each tiling has a size that it needs and a traffic that it
causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bfpsim.arch import ArchError, ArchSource, load_arch
from bfpsim.mapping.models import compulsory_counts
from bfpsim.mapping.residency.products import staircase
from bfpsim.quant.formats import FormatSource, layer_formats
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import ConvLayer


class Stair(NamedTuple):
    """From `capacity_bits` of SRAM on, the least traffic is `dram_bits`."""

    capacity_bits: int
    dram_bits: int


def layer_curve(layer: ConvLayer, arch: Arch, formats: LayerFormats) -> list[Stair]:
    """The staircase of one layer, by the exact model: ascending capacity, falling traffic.

    Levels inside SRAM are taken as they are; a capacity counts though some tiles may not suit them.
    Capacity is the whole SRAM's: twice what the tiles take if it is double-buffered.
    Raises ArchError if the architecture has a buffer per tensor.
    """
    if not arch.shared:
        raise ArchError(
            f"{arch.name}: sram: has a buffer per tensor, so no one capacity to draw; "
            "allowed: an architecture with one shared buffer"
        )
    return [Stair(*own) for own in staircase(layer, arch, formats)]


def network_curve(curves: Sequence[Sequence[Stair]]) -> list[Stair]:
    """The sum of layers' staircases, from the capacity on at which every layer has a mapping."""
    start = max(curve[0].capacity_bits for curve in curves)
    capacities = sorted({s.capacity_bits for c in curves for s in c if s.capacity_bits > start})
    at = np.array([start, *capacities])
    total = np.zeros(len(at), np.int64)
    for curve in curves:
        needs = np.array([step.capacity_bits for step in curve])
        traffic = np.array([step.dram_bits for step in curve])
        total += traffic[np.searchsorted(needs, at, side="right") - 1]
    return [Stair(int(c), int(t)) for c, t in zip(at, total, strict=True)]


def knee(curve: Sequence[Stair]) -> Stair | None:
    """The step farthest below the chord from first to last, both axes logarithmic.

    Beyond it, memory buys less than before (Satopaa et al., "Finding a kneedle in a haystack").
    None if the curve has fewer than three steps.
    """
    if len(curve) < 3:
        return None
    x = np.log2([step.capacity_bits for step in curve])
    y = np.log2([step.dram_bits for step in curve])
    chord = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    below = chord - y
    return curve[int(below.argmax())] if below.max() > 0 else None


def traffic_curves(network: NetworkSource, arch: ArchSource, formats: FormatSource) -> pd.DataFrame:
    """Staircases of every distinct layer and of the whole network (layer "total").

    Columns: network, arch, formats, layer, layers (how many are equal to it), capacity_bits,
    dram_bits, compulsory_bits (the floor of every mapping), knee (one True per curve that bends).

    Raises ArchError as `layer_curve` does.
    """
    import pandas as pd

    network = load_workload(network)
    arch = load_arch(arch)
    formats = layer_formats(formats)

    rows: list[tuple[str, int, list[Stair], int]] = []
    for layer, count in network.unique_layers:
        floor = int(compulsory_counts(layer, arch, formats).total())
        rows.append((layer.name, count, layer_curve(layer, arch, formats), floor))
    scaled = [
        [step._replace(dram_bits=step.dram_bits * count) for step in curve]
        for _, count, curve, _ in rows
    ]
    total = sum(count * floor for _, count, _, floor in rows)
    rows.append(("total", sum(network.repeats.values()), network_curve(scaled), total))
    records = [
        {
            "network": network.name,
            "arch": arch.name,
            "formats": str(formats),
            "layer": name,
            "layers": count,
            "capacity_bits": step.capacity_bits,
            "dram_bits": step.dram_bits,
            "compulsory_bits": floor,
            "knee": step == knee(curve),
        }
        for name, count, curve, floor in rows
        for step in curve
    ]
    return pd.DataFrame.from_records(records)
