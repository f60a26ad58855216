"""Analytical against simulated data movement, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from bfpsim.mapping.counts import number
from bfpsim.mapping.models import EXACT, PAPER, Effect, ladder, model_counts
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.notebook import as_html
from bfpsim.sim.result import LayerResult, NetworkResult
from bfpsim.sim.simulate import simulate_network

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.workloads import Network

RUNGS = tuple(effect.value for effect in Effect)


@dataclass(frozen=True, slots=True)
class LayerValidation:
    """One layer's DRAM and SRAM bits by every model, beside the simulated ones.

    rungs: DRAM bits that each effect explains, on top of those before it; alone: by itself
    """

    layer: str
    paper: Fraction
    exact: int
    simulated: int
    rungs: dict[str, Fraction]
    alone: dict[str, Fraction]
    paper_sram: Fraction
    exact_sram: int
    simulated_sram: int

    @property
    def agrees(self) -> bool:
        """Whether the model with every effect equals the simulation, bit for bit."""
        return (
            self.paper + sum(self.rungs.values()) == self.simulated
            and self.exact + self.rungs[Effect.BURSTS.value] == self.simulated
            and self.exact_sram == self.simulated_sram
        )


@dataclass(frozen=True, eq=False)
class Validation:
    """A network's layers, and the simulation that they were checked against."""

    network: str
    layers: tuple[LayerValidation, ...]
    simulated: NetworkResult

    @property
    def agrees(self) -> bool:
        """Whether every layer's exact model equals its simulation."""
        return all(layer.agrees for layer in self.layers)

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and one for the total.

        Columns: network, layer, paper_bits, one per rung (edges_bits to bursts_bits),
        simulated_bits, exact_bits, paper_error (relative to simulated), the SRAM bits by paper,
        exact and simulated, energy_pj by Eq. 8, agrees.
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
                "paper_sram_bits": number(v.paper_sram),
                "exact_sram_bits": v.exact_sram,
                "simulated_sram_bits": v.simulated_sram,
                "energy_pj": energy,
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
        verdict = "equals the exact model bit for bit"
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
            sum((v.paper_sram for v in layers), Fraction(0)),
            sum(v.exact_sram for v in layers),
            sum(v.simulated_sram for v in layers),
        )


def validate(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    mappings: Mapping[str, Tiling] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Validation:
    """Simulate a network and check the paper's and the exact model against the counts.

    Arguments and errors as `simulate_network`.
    """
    simulated = simulate_network(network, arch, formats, mappings, progress)
    known: dict[object, LayerValidation] = {}
    layers = []
    for result in simulated.layers:
        kind = replace(result.layer, name="layer")
        key = (kind, result.mapping, result.formats, result.repeats)
        if key not in known:
            known[key] = _validate_layer(result)
        layers.append(replace(known[key], layer=result.layer.name))
    return Validation(network.name, tuple(layers), simulated)


def _validate_layer(result: LayerResult) -> LayerValidation:
    point = (result.layer, result.arch, result.mapping, result.formats)
    exact = model_counts(*point, EXACT)
    paper = model_counts(*point, PAPER)
    (_, below, _), *rungs = ladder(*point)
    times = result.repeats
    outer, inner = (level.name for level in result.arch.levels)
    return LayerValidation(
        result.layer.name,
        below * times,
        int(exact.total(outer)) * times,
        int(result.counts.total(outer)),
        {name: added * times for name, added, _ in rungs},
        {name: alone * times for name, _, alone in rungs},
        Fraction(paper.total(inner)) * times,
        int(exact.total(inner)) * times,
        int(result.counts.total(inner)),
    )
