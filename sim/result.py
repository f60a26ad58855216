"""What a simulation returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bfpsim.mapping.array import passes
from bfpsim.mapping.counts import Counts, level_column, to_frame
from bfpsim.mapping.energy import Energy, Work, energy_of, operand_bits
from bfpsim.mapping.nest import Mapping, Tensor
from bfpsim.sim.demand import Demand, Passed, demands
from bfpsim.sim.notebook import as_html
from bfpsim.sim.timeline import Timeline
from bfpsim.sim.utilisation import Utilisation

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
    steady_cycles: that lanes of the PE array multiply
    fill_cycles: more that it takes to preload, fill and drain the array
    port_cycles: more that tile steps take because ports inside SRAM are too narrow, or an inner
        level takes in and gives away tiles meanwhile
    stalls: cycles the PE array waited for DRAM, by the tensor whose tile came last
    dram_busy_cycles: cycles the DRAM channel moved bits
    peak_bits: most bits held at once, per SRAM
    steps, transfers: tiles computed; tiles moved over the DRAM channel
    timeline: every slice of every unit
    quantized: the output as stored, if data was given
    accumulator_width: bits the widest exact partial sum needed, if data was given
    activates: rows that a DRAM device opened; 0 with an ideal DRAM
    repeats: runs that counts, cycles of all kinds, steps and transfers are the sums of, one after
        another; the timeline is that of one
    """

    network: str
    layer: ConvLayer
    arch: Arch
    mapping: Mapping
    formats: LayerFormats
    counts: Counts
    cycles: int
    steady_cycles: int
    fill_cycles: int
    port_cycles: int
    stalls: dict[Tensor, int]
    dram_busy_cycles: int
    peak_bits: dict[str, int]
    steps: int
    transfers: int
    timeline: Timeline
    quantized: Quantized | None = None
    accumulator_width: int | None = None
    activates: int = 0
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
    def compute_cycles(self) -> int:
        """Cycles that the PE array is busy: steady, filling, and held up by ports."""
        return self.steady_cycles + self.fill_cycles + self.port_cycles

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        return self.layer.macs * self.repeats

    @property
    def products(self) -> int:
        """Multiplications: multiply-accumulates, times the passes of wide operands."""
        return self.macs * passes(self.arch.pe_array, self.formats)

    @property
    def utilisation(self) -> Utilisation:
        """How much of the PE array is used: overall, spatial and temporal."""
        return utilisation_of([self])

    @property
    def work(self) -> Work:
        """What the run spends energy on."""
        return Work(
            *(self.counts, self.products, operand_bits(self.formats), self.cycles),
            activates=self.activates,
            dram_busy=self.dram_busy_cycles,
        )

    @cached_property
    def energy(self) -> Energy:
        """What the run's energy is made of."""
        return energy_of(self.arch, [self.work])

    @property
    def energy_pj(self) -> float:
        """Eq. 8: the sum of the traffic table's energies, correctly rounded [pJ]."""
        return self.energy.movement_pj

    @property
    def seconds(self) -> float:
        """Run time at the architecture's clock [s]."""
        return float(self.cycles / self.arch.clock)

    def __repr__(self) -> str:
        where = f"{self.layer.name} of {self.network}" if self.network else self.layer.name
        return _lines("LayerResult", f"{where} on {self.arch.name}", *self._facts, _bits(self))

    @property
    def _facts(self) -> tuple[str, ...]:
        stalls = ", ".join(f"{tensor} {cycles:,}" for tensor, cycles in self.stalls.items())
        return (
            f"{self.mapping}; {self.formats}",
            f"{self.cycles:,} cycles, {self.compute_cycles:,} computing "
            f"({self.utilisation.overall:.1%} of the array used), stalled by {stalls}",
            _energy_text(self.energy, self.arch),
        )

    def _repr_html_(self) -> str:
        facts = "; ".join(self._facts)
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
        steady_cycles=result.steady_cycles * times,
        fill_cycles=result.fill_cycles * times,
        port_cycles=result.port_cycles * times,
        stalls={tensor: cycles * times for tensor, cycles in result.stalls.items()},
        dram_busy_cycles=result.dram_busy_cycles * times,
        steps=result.steps * times,
        transfers=result.transfers * times,
        activates=result.activates * times,
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
    def demands(self) -> list[Demand]:
        """What a busy cycle asks of memories whose ports have no limit."""
        layers = [Passed(r.layer.name, r.counts, r.compute_cycles) for r in self.layers]
        return demands(self.arch, layers)

    @property
    def cycles(self) -> int:
        """Cycles of all layers."""
        return sum(r.cycles for r in self.layers)

    @property
    def compute_cycles(self) -> int:
        """Cycles that the PE array is busy."""
        return sum(r.compute_cycles for r in self.layers)

    @property
    def utilisation(self) -> Utilisation:
        """How much of the PE array is used, from the layers' sums."""
        return utilisation_of(self.layers)

    @cached_property
    def energy(self) -> Energy:
        """What the energy of all layers is made of."""
        return energy_of(self.arch, [r.work for r in self.layers])

    @property
    def energy_pj(self) -> float:
        """Eq. 8 over all layers, correctly rounded [pJ]."""
        return self.energy.movement_pj

    @property
    def seconds(self) -> float:
        """Run time at the architecture's clock [s]."""
        return float(self.cycles / self.arch.clock)

    def __repr__(self) -> str:
        where = f"{self.network} on {self.arch.name}"
        return _lines("NetworkResult", where, *self._facts, _bits(*self.layers))

    @property
    def _facts(self) -> tuple[str, ...]:
        return (
            f"{len(self.layers)} layers, {self.cycles:,} cycles, {self.seconds * 1e3:,.2f} ms, "
            f"{self.utilisation.overall:.1%} of the array used",
            _energy_text(self.energy, self.arch),
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        facts = ", ".join(self._facts)
        rows = [
            {
                "layer": layer.layer.name,
                "mapping": str(layer.mapping),
                **{
                    level_column(level.name, "bits"): int(layer.counts.total(level.name))
                    for level in self.arch.levels
                },
                "energy_pj": layer.energy_pj,
                "cycles": layer.cycles,
                "compute_cycles": layer.compute_cycles,
                "used": f"{layer.utilisation.overall:.1%}",
            }
            for layer in self.layers
        ]
        return as_html(f"{self.network} on {self.arch.name}", facts, pd.DataFrame(rows))


def utilisation_of(results: Sequence[LayerResult]) -> Utilisation:
    """How much of the PE array some layers use together, one after another."""
    return Utilisation.of(
        sum(r.macs for r in results),
        sum(r.products for r in results),
        results[0].arch.pe_array.size,
        sum(r.steady_cycles for r in results),
        sum(r.cycles for r in results),
    )


def _lines(kind: str, where: str, *facts: str) -> str:
    """The repr of a result: what it is of, and a line for each of its facts."""
    return "\n    ".join((f"<{kind} of {where}", *facts)) + ">"


def _bits(*results: LayerResult) -> str:
    """The bits that some layers of one architecture move, level by level."""
    totals = {
        level.name: int(sum(result.counts.total(level.name) for result in results))
        for level in results[0].arch.levels
    }
    return ", ".join(f"{name} {bits:,} bit" for name, bits in totals.items())


def _energy_text(energy: Energy, arch: Arch) -> str:
    moved = f"{energy.movement_pj / _PJ_PER_UJ:,.1f} µJ"
    if not arch.prices_more:
        return moved
    return f"{moved} for movement, {energy.all_pj / _PJ_PER_UJ:,.1f} µJ in all"
