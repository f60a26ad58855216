"""Analytical against simulated data movement and cycles, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

from bfpsim.arch import ArchSource, DeviceDram, load_arch
from bfpsim.arch import replace as with_value
from bfpsim.mapping.counts import level_column, number
from bfpsim.mapping.cycles import ArrayCycles, array_cycles, device_stalls
from bfpsim.mapping.models import EXACT, PAPER, Effect, ladder, model_counts
from bfpsim.mapping.sources import FormatsSource, MappingsSource, formats_by_layer
from bfpsim.objects import brief
from bfpsim.sim.notebook import as_html
from bfpsim.sim.result import LayerResult, NetworkResult
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.mapping.objective import Objective

RUNGS = tuple(effect.value for effect in Effect)
T = TypeVar("T", int, Fraction)

CYCLE_RUNGS = ("passes", "folds", "fill", "port", "stall")
"""On a machine with a DRAM device, "refresh", "turnaround" and "rows" follow."""

APART = Fraction(1, 20)
"""Of a layer's cycles: prices that differ by more from a run bank by bank are named."""


@dataclass(frozen=True, slots=True)
class CycleLadder:
    """Cycles from the least that the array could take up to the simulated ones.

    ideal: multiply-accumulates / PEs; passes: more for operands wider than a multiplier's
    model, counted: cycles of the array by the models, and in the simulation
    stalls: cycles that the array waited for DRAM; simulated: all cycles
    waits: of a DRAM device, the model's stalls by rung: at full bandwidth, and what refresh,
        turnaround and rows add; nothing of an ideal DRAM
    banked: all cycles if such a device is served bank by bank; 0 of an ideal DRAM
    """

    ideal: Fraction
    passes: Fraction
    model: ArrayCycles
    counted: ArrayCycles
    stalls: int
    simulated: int
    waits: Mapping[str, int]
    banked: int

    @property
    def rungs(self) -> dict[str, Fraction]:
        """What each effect adds to those before it, from ideal to simulated; `CYCLE_RUNGS`.

        folds: lanes that are idle while others multiply. All but the stalls for an ideal DRAM are
        the models'.
        """
        folds = self.model.steady - self.ideal - self.passes
        waits = self.waits or {"stall": self.stalls}
        names = (*CYCLE_RUNGS[:-1], *waits)
        whole = map(Fraction, (self.model.fill, self.model.ports, *waits.values()))
        return dict(zip(names, (self.passes, folds, *whole), strict=True))

    @property
    def agrees(self) -> bool:
        """Whether the models equal the simulation rung by rung, to the cycle."""
        waits = sum(self.waits.values()) if self.waits else self.stalls
        modelled = sum(self.model) + waits
        return (self.model, waits, modelled) == (self.counted, self.stalls, self.simulated)

    @property
    def apart(self) -> bool:
        """Whether a run bank by bank takes more than `APART` more or less."""
        return bool(self.banked) and abs(self.banked - self.simulated) > APART * self.banked

    @classmethod
    def total(cls, ladders: Sequence[CycleLadder]) -> CycleLadder:
        """The sums."""
        return cls(
            sum((own.ideal for own in ladders), Fraction(0)),
            sum((own.passes for own in ladders), Fraction(0)),
            ArrayCycles(*map(sum, zip(*(own.model for own in ladders), strict=True))),
            ArrayCycles(*map(sum, zip(*(own.counted for own in ladders), strict=True))),
            sum(own.stalls for own in ladders),
            sum(own.simulated for own in ladders),
            _sums([own.waits for own in ladders], 0),
            sum(own.banked for own in ladders),
        )


@dataclass(frozen=True, slots=True)
class LayerValidation:
    """One layer's bits by every model, beside the simulated ones; and its cycles.

    paper, exact, simulated: DRAM bits, of exact without burst padding
    rungs: DRAM bits that each effect explains, on top of those before it; alone: by itself
    paper_inside, exact_inside, simulated_inside: bits of SRAM and of each level inside it, by name
    """

    layer: str
    paper: Fraction
    exact: int
    simulated: int
    rungs: dict[str, Fraction]
    alone: dict[str, Fraction]
    paper_inside: dict[str, Fraction]
    exact_inside: dict[str, int]
    simulated_inside: dict[str, int]
    cycles: CycleLadder

    @property
    def agrees(self) -> bool:
        """Whether the models with every effect equal the simulation, to the bit and cycle."""
        return self.bits_agree and self.cycles.agrees

    @property
    def bits_agree(self) -> bool:
        """Whether the bits do."""
        return (
            self.paper + sum(self.rungs.values()) == self.simulated
            and self.exact + self.rungs[Effect.BURSTS.value] == self.simulated
            and self.exact_inside == self.simulated_inside
        )


@brief
@dataclass(frozen=True, eq=False)
class Validation:
    """A network's layers, and the simulation that they were checked against."""

    network: str
    layers: tuple[LayerValidation, ...]
    simulated: NetworkResult

    @property
    def agrees(self) -> bool:
        """Whether every layer's models equal its simulation."""
        return all(layer.agrees for layer in self.layers)

    @property
    def apart(self) -> tuple[str, ...]:
        """Layers on a DRAM device whose cycles bank by bank are others (`CycleLadder.apart`)."""
        return tuple(layer.layer for layer in self.layers if layer.cycles.apart)

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and one for the total.

        Columns: network, layer, paper_bits, one per rung (edges_bits to bursts_bits),
        simulated_bits, exact_bits, paper_error (relative to simulated), all of DRAM;
        of SRAM and of each level inside it paper_sram_bits, exact_sram_bits and
        simulated_sram_bits; energy_pj by Eq. 8; ideal_cycles (MACs / PEs), one per rung of cycles
        (passes_cycles, folds_cycles, fill_cycles, port_cycles, stall_cycles; of a DRAM device
        refresh_cycles, turnaround_cycles, rows_cycles), cycles; of a DRAM device banked_cycles;
        agrees.
        """
        import pandas as pd

        rows = [
            {
                "network": self.network,
                "layer": v.layer,
                "paper_bits": number(v.paper),
                **{f"{name}_bits": number(bits) for name, bits in v.rungs.items()},
                "simulated_bits": v.simulated,
                "exact_bits": v.exact,
                "paper_error": float(v.paper / v.simulated - 1),
                **_columns("paper", v.paper_inside),
                **_columns("exact", v.exact_inside),
                **_columns("simulated", v.simulated_inside),
                "energy_pj": energy,
                "ideal_cycles": number(v.cycles.ideal),
                **{f"{name}_cycles": number(own) for name, own in v.cycles.rungs.items()},
                "cycles": v.cycles.simulated,
                **({"banked_cycles": v.cycles.banked} if v.cycles.banked else {}),
                "agrees": v.agrees,
            }
            for v, energy in zip(
                (*self.layers, self.total),
                (*(r.energy_pj for r in self.simulated.layers), self.simulated.energy_pj),
                strict=True,
            )
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        verdict = "equals the exact model to the bit and cycle"
        if not self.agrees:
            verdict = "differs from the exact model in some layer"
        frame = self.to_frame().drop(columns="network")
        frame["paper_error"] = frame["paper_error"].map("{:+.1%}".format)
        title = f"{self.network} on {self.simulated.arch.name}"
        return as_html(title, f"the simulation {verdict}", frame)

    @property
    def total(self) -> LayerValidation:
        """The sums over the layers, as a layer named "total"."""
        layers = self.layers
        return LayerValidation(
            "total",
            sum((v.paper for v in layers), Fraction(0)),
            sum(v.exact for v in layers),
            sum(v.simulated for v in layers),
            {name: sum((v.rungs[name] for v in layers), Fraction(0)) for name in RUNGS},
            {name: sum((v.alone[name] for v in layers), Fraction(0)) for name in RUNGS},
            _sums([v.paper_inside for v in layers], Fraction(0)),
            _sums([v.exact_inside for v in layers], 0),
            _sums([v.simulated_inside for v in layers], 0),
            CycleLadder.total([v.cycles for v in layers]),
        )


def validate(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
) -> Validation:
    """Simulate a network and check the paper's and the exact models against the counts.

    On a DRAM device that is simulated with prices, and checked bank by bank. Arguments and errors
    as `simulate_layers`.
    """
    network = load_workload(network)
    arch = load_arch(arch)
    formats = formats_by_layer(formats, network)
    device = isinstance(arch.dram, DeviceDram)
    if device:
        arch = with_value(arch, "dram.timing", "priced")
    simulated = simulate_layers(network, arch, formats, mappings, progress, objective=objective)
    banked = [0] * len(simulated.layers)
    if device:
        own = {result.layer.name: result.mapping for result in simulated.layers}
        by_bank = with_value(arch, "dram.timing", "banked")
        checked = simulate_layers(network, by_bank, formats, own)
        banked = [result.cycles for result in checked.layers]
    known: dict[object, LayerValidation] = {}
    layers = []
    for result, cycles in zip(simulated.layers, banked, strict=True):
        kind = replace(result.layer, name="layer")
        key = (kind, result.mapping, result.formats, result.repeats)
        if key not in known:
            known[key] = _validate_layer(result, cycles)
        layers.append(replace(known[key], layer=result.layer.name))
    return Validation(network.name, tuple(layers), simulated)


def _validate_layer(result: LayerResult, banked: int) -> LayerValidation:
    point = (result.layer, result.arch, result.mapping, result.formats)
    exact = model_counts(*point, EXACT)
    paper = model_counts(*point, PAPER)
    (_, below, _), *rungs = ladder(*point)
    times = result.repeats
    outer, *inside = (level.name for level in result.arch.levels)
    return LayerValidation(
        result.layer.name,
        below * times,
        int(exact.total(outer)) * times,
        int(result.counts.total(outer)),
        {name: added * times for name, added, _ in rungs},
        {name: alone * times for name, _, alone in rungs},
        {level: Fraction(paper.total(level)) * times for level in inside},
        {level: int(exact.total(level)) * times for level in inside},
        {level: int(result.counts.total(level)) for level in inside},
        _cycle_ladder(result, banked),
    )


def _cycle_ladder(result: LayerResult, banked: int) -> CycleLadder:
    elements, times = result.arch.pe_array.size, result.repeats
    point = (result.layer, result.arch, result.mapping, result.formats)
    model, waits = array_cycles(*point), device_stalls(*point)
    return CycleLadder(
        Fraction(result.macs, elements),
        Fraction(result.products - result.macs, elements),
        ArrayCycles(*(cycles * times for cycles in model)),
        ArrayCycles(result.steady_cycles, result.fill_cycles, result.port_cycles),
        sum(result.stalls.values()),
        result.cycles,
        {name: cycles * times for name, cycles in waits.items()},
        banked,
    )


def _columns(prefix: str, bits: Mapping[str, Fraction | int]) -> dict[str, int | float]:
    """Bits of levels by column: "exact_sram_bits"."""
    return {f"{prefix}_{level_column(name, 'bits')}": number(own) for name, own in bits.items()}


def _sums(parts: Sequence[Mapping[str, T]], zero: T) -> dict[str, T]:
    """By name, in all layers."""
    return {level: sum((part[level] for part in parts), zero) for level in parts[0]}
