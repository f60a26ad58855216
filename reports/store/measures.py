"""The figures of some layers of a point, summed up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import reduce
from operator import add
from typing import Any

from bfpsim.arch import Arch
from bfpsim.mapping.counts import Flow, energy_pj
from bfpsim.mapping.nest import Tensor
from bfpsim.search.sweep.record import TENSORS, LayerRecord
from bfpsim.sim.validate import RUNGS

LEVELS: tuple[str, ...] = ("DRAM", "SRAM")
_PLACES = {
    (level, tensor): Flow(level, tensor, "read", "mantissa")  # all flows there cost the same
    for level in LEVELS
    for tensor in TENSORS
}


Prices = dict[tuple[str, Tensor], float]


def energy_column(level: str, tensor: Tensor) -> str:
    """The column with the energy of one tensor at one level [pJ]."""
    return f"{level.lower()}_{tensor}_energy_pj"


def prices(arch: Arch) -> Prices:
    """What a bit of each tensor costs at each level [pJ]."""
    return {place: energy_pj(flow, 1, arch) for place, flow in _PLACES.items()}


def measures(layers: Sequence[LayerRecord], arch: Arch, per_bit: Prices) -> dict[str, Any]:
    """What layers that ran on an architecture, with its `prices`, sum up to.

    - macs; cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles;
      dram_busy_cycles; seconds
    - dram_bits, sram_bits: simulated; dram_payload_bits: without burst padding; compulsory_bits:
      the payload that no mapping avoids
    - exact_bits, paper_bits: DRAM bits by the models, and edges_bits to bursts_bits: what each rung
      adds, from paper_bits to dram_bits; none of these if a layer was swept without models
    - energy_pj, by Eq. 8; dram_energy_pj, sram_energy_pj; and of every level and tensor
      (`energy_column`): each the correctly rounded sum of its flows. compulsory_energy_pj
    """
    bits, padding = dict.fromkeys(_PLACES, 0), 0
    energies: dict[tuple[str, Tensor], list[float]] = {place: [] for place in _PLACES}
    for layer in layers:
        for (level, tensor, _, kind), moved in layer.traffic.items():
            place, whole = (level, tensor), int(moved)
            bits[place] += whole
            if kind == "burst":
                padding += whole
            energies[place].append(whole * per_bit[place])
    dram_bits = sum(bits["DRAM", tensor] for tensor in TENSORS)
    of_level = {
        level: [pj for tensor in TENSORS for pj in energies[level, tensor]] for level in LEVELS
    }
    cycles = sum(layer.cycles for layer in layers)
    compulsory = sum(sum(layer.compulsory.values()) for layer in layers)
    return {
        "macs": sum(layer.macs for layer in layers),
        "cycles": cycles,
        "compute_cycles": sum(layer.compute_cycles for layer in layers),
        **{f"stall_{t}_cycles": sum(layer.stalls[t] for layer in layers) for t in TENSORS},
        "dram_busy_cycles": sum(layer.dram_busy_cycles for layer in layers),
        "seconds": float(cycles / arch.clock),
        "dram_bits": dram_bits,
        "dram_payload_bits": dram_bits - padding,
        "sram_bits": sum(bits["SRAM", tensor] for tensor in TENSORS),
        "compulsory_bits": compulsory,
        **_models(layers),
        **{f"{level.lower()}_energy_pj": math.fsum(of_level[level]) for level in LEVELS},
        **{energy_column(*where): math.fsum(pj) for where, pj in energies.items()},
        "energy_pj": math.fsum(pj for level in LEVELS for pj in of_level[level]),
        "compulsory_energy_pj": compulsory * arch.dram.energy,
    }


def _models(layers: Sequence[LayerRecord]) -> dict[str, Any]:
    known = [layer.models for layer in layers if layer.models is not None]
    if len(known) < len(layers):
        return {}
    return {
        "exact_bits": sum(models.exact for models in known),
        "paper_bits": _total(models.paper for models in known),
        **{f"{rung}_bits": _total(models.rungs[rung] for models in known) for rung in RUNGS},
    }


def _total(fractions: Iterable[Fraction]) -> float:
    """Their exact sum, rounded once; `sum` would add each to 0, which costs as much again."""
    return float(reduce(add, fractions))
