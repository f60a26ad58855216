"""What a simulation returns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bfpsim.mapping.counts import Counts, energy_pj, to_frame
from bfpsim.mapping.nest import Mapping, Tensor
from bfpsim.sim.notebook import as_html
from bfpsim.sim.timeline import Timeline

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.quant.formats.quantize import Quantized
    from bfpsim.workloads import ConvLayer

_PJ_PER_UJ = 1e6


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One simulated layer.

    counts: bits per flow; `traffic` is the same as a table
    cycles: until the last bit is written; compute_cycles and stalls add up to it
    stalls: cycles the PE array waited, by the tensor whose tile came last
    dram_busy_cycles: cycles the DRAM channel moved bits
    peak_bits: most bits held at once, per SRAM
    steps, transfers: tiles computed; tiles moved over the DRAM channel
    timeline: every slice of every unit
    quantized: the output as stored, if data was given
    accumulator_width: bits the widest exact partial sum needed, if data was given
    repeats: runs that counts, cycles, stalls, steps and transfers are the sums of, one after
        another; the timeline is that of one
    """

    network: str
    layer: ConvLayer
    arch: Arch
    mapping: Mapping
    formats: LayerFormats
    counts: Counts
    cycles: int
    compute_cycles: int
    stalls: dict[Tensor, int]
    dram_busy_cycles: int
    peak_bits: dict[str, int]
    steps: int
    transfers: int
    timeline: Timeline
    quantized: Quantized | None = None
    accumulator_width: int | None = None
    repeats: int = 1

    @cached_property
    def traffic(self) -> pd.DataFrame:
        """The tidy table: network, layer, level, tensor, direction, kind, bits, energy_pj."""
        return to_frame([(self.network, self.layer.name, self.counts)], self.arch)

    @cached_property
    def output(self) -> NDArray[np.float64] | None:
        """The output's values (N, P, Q, channels), if data was given."""
        if self.quantized is None:
            return None
        from bfpsim.quant.formats.quantize import dequantize

        return dequantize(self.quantized)

    @property
    def energy_pj(self) -> float:
        """Eq. 8: the sum of the traffic table's energies, correctly rounded [pJ]."""
        return total_energy_pj([self])

    @property
    def seconds(self) -> float:
        """Run time at the architecture's clock [s]."""
        return float(self.cycles / self.arch.clock)

    def _repr_html_(self) -> str:
        stalls = ", ".join(f"{tensor} {cycles:,}" for tensor, cycles in self.stalls.items())
        facts = (
            f"{self.mapping}; {self.formats}; {self.cycles:,} cycles, {self.compute_cycles:,} "
            f"computing, stalled by {stalls}; {self.energy_pj / _PJ_PER_UJ:,.1f} µJ"
        )
        frame = self.traffic.drop(columns=["network", "layer"])
        return as_html(f"{self.layer.name} on {self.arch.name}", facts, frame)


def repeated(result: LayerResult, times: int) -> LayerResult:
    """The sums of one run's result over `times` runs."""
    if times == 1:
        return result
    return replace(
        result,
        counts=result.counts.scaled(times),
        cycles=result.cycles * times,
        compute_cycles=result.compute_cycles * times,
        stalls={tensor: cycles * times for tensor, cycles in result.stalls.items()},
        dram_busy_cycles=result.dram_busy_cycles * times,
        steps=result.steps * times,
        transfers=result.transfers * times,
        repeats=result.repeats * times,
    )


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """The layers of a network, simulated one after the other."""

    network: str
    arch: Arch
    layers: tuple[LayerResult, ...]
    simulations: int
    """How many were run: equal layers are simulated once."""

    @cached_property
    def traffic(self) -> pd.DataFrame:
        """The tidy table of all layers."""
        rows = ((self.network, r.layer.name, r.counts) for r in self.layers)
        return to_frame(rows, self.arch)

    @property
    def cycles(self) -> int:
        """Cycles of all layers."""
        return sum(r.cycles for r in self.layers)

    @property
    def energy_pj(self) -> float:
        """Eq. 8 over all layers, correctly rounded [pJ]."""
        return total_energy_pj(self.layers)

    @property
    def seconds(self) -> float:
        """Run time at the architecture's clock [s]."""
        return float(self.cycles / self.arch.clock)

    def _repr_html_(self) -> str:
        import pandas as pd

        facts = (
            f"{len(self.layers)} layers, {self.cycles:,} cycles, {self.seconds * 1e3:,.2f} ms, "
            f"{self.energy_pj / _PJ_PER_UJ:,.1f} µJ"
        )
        outer, inner = (level.name for level in self.arch.levels)
        rows = [
            {
                "layer": layer.layer.name,
                "mapping": str(layer.mapping),
                "dram_bits": int(layer.counts.total(outer)),
                "sram_bits": int(layer.counts.total(inner)),
                "energy_pj": layer.energy_pj,
                "cycles": layer.cycles,
                "compute_cycles": layer.compute_cycles,
            }
            for layer in self.layers
        ]
        return as_html(f"{self.network} on {self.arch.name}", facts, pd.DataFrame(rows))


def total_energy_pj(results: Iterable[LayerResult]) -> float:
    """The correctly rounded sum of every row's energy [pJ]."""
    return math.fsum(
        energy_pj(flow, bits, r.arch) for r in results for flow, bits in r.counts.items()
    )
