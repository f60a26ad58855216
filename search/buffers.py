"""How much data movement and energy a buffer of each size costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from arch import ArchError, replace
from mapping.counts import energy_pj
from mapping.models import compulsory_counts
from mapping.nest import MappingError
from quant.formats import LayerFormats
from sim.validate import validate

if TYPE_CHECKING:
    import pandas as pd

    from arch import Arch
    from mapping.counts import Level
    from sim.result import NetworkResult
    from sim.validate import Validation
    from workloads import Network


def sweep_capacity(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    capacities: Sequence[str],
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Simulate a network at each size of the shared SRAM, every layer under its best mapping.

    formats: for all layers, or by layer name
    capacities: as an architecture file spells them: "16 KiB"
    progress: called with "16 KiB: conv1" when a layer is simulated, for every layer of each size

    One row per capacity, in the given order. All bits are of the DRAM, for the whole network:

    - network, arch, formats: names; capacity_bits
    - dram_bits, dram_payload_bits: simulated, with and without burst padding
    - exact_bits, paper_bits: by the models; exact_bits equals dram_payload_bits
    - compulsory_bits: the payload that no mapping avoids, whatever the capacity
    - dram_energy_pj, sram_energy_pj, energy_pj: simulated, by Eq. 8
    - compulsory_energy_pj: of the compulsory bits, in the DRAM alone
    - cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles

    Raises ArchError if the architecture has a buffer per tensor or a capacity is none,
    MappingError, naming capacity and layer, if a layer has no legal mapping.
    """
    import pandas as pd

    if not arch.shared:
        raise ArchError(
            f"{arch.name}: sram: has a buffer per tensor, so no one capacity to sweep; "
            "allowed: an architecture with one shared buffer, sram.capacity"
        )
    sizes = [(capacity, replace(arch, "sram.capacity", capacity)) for capacity in capacities]
    compulsory = _compulsory_bits(network, arch, formats)
    rows = []
    for capacity, sized in sizes:

        def done(layer: str, capacity: str = capacity) -> None:
            if progress is not None:
                progress(f"{capacity}: {layer}")

        try:
            validation = validate(network, sized, formats, progress=done)
        except MappingError as error:
            raise MappingError(f"capacity {capacity}: {error}") from None
        rows.append(
            {
                "network": network.name,
                "arch": arch.name,
                "formats": str(formats) if isinstance(formats, LayerFormats) else "by layer",
                "capacity_bits": sized.buffer("I").capacity,
                **_bits(validation),
                "compulsory_bits": compulsory,
                **_energies(validation.simulated),
                "compulsory_energy_pj": compulsory * arch.dram.energy,
                **_cycles(validation.simulated),
            }
        )
    return pd.DataFrame(rows)


def _compulsory_bits(
    network: Network, arch: Arch, formats: LayerFormats | Mapping[str, LayerFormats]
) -> int:
    total = 0
    for layer in network.layers:
        chosen = formats if isinstance(formats, LayerFormats) else formats[layer.name]
        floor = int(compulsory_counts(layer, arch, chosen).total("DRAM"))
        total += floor * network.repeats[layer.name]
    return total


def _bits(validation: Validation) -> dict[str, int | float]:
    counts = [result.counts for result in validation.simulated.layers]
    moved = sum(int(c.total("DRAM")) for c in counts)
    return {
        "dram_bits": moved,
        "dram_payload_bits": moved - sum(int(c.total("DRAM", kind="burst")) for c in counts),
        "exact_bits": sum(layer.exact for layer in validation.layers),
        "paper_bits": float(sum(layer.paper for layer in validation.layers)),
    }


def _energies(result: NetworkResult) -> dict[str, float]:
    def of(level: Level) -> float:
        return math.fsum(
            energy_pj(flow, bits, layer.arch)
            for layer in result.layers
            for flow, bits in layer.counts.items()
            if flow.level == level
        )

    return {
        "dram_energy_pj": of("DRAM"),
        "sram_energy_pj": of("SRAM"),
        "energy_pj": result.energy_pj,
    }


def _cycles(result: NetworkResult) -> dict[str, int]:
    return {
        "cycles": result.cycles,
        "compute_cycles": sum(layer.compute_cycles for layer in result.layers),
        "stall_I_cycles": sum(layer.stalls.get("I", 0) for layer in result.layers),
        "stall_W_cycles": sum(layer.stalls.get("W", 0) for layer in result.layers),
        "stall_O_cycles": sum(layer.stalls.get("O", 0) for layer in result.layers),
    }
