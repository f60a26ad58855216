"""How much data movement and energy a buffer of each size costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from bfpsim.arch import ArchError, ArchSource, load_arch, replace
from bfpsim.mapping.counts import level_column
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.sources import FormatsSource, formats_by_layer
from bfpsim.quant.formats import LayerFormats
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.tables import residency_columns, sums
from bfpsim.sim.simulate import Layers
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch

_BITS = ("dram_bits", "dram_payload_bits", "exact_bits", "paper_bits", "compulsory_bits")
_TOTALS = ("energy_pj", "all_energy_pj", "compulsory_energy_pj")
_CYCLES = ("cycles", "compute_cycles", "stall_I_cycles", "stall_W_cycles", "stall_O_cycles")


def sweep_capacity(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    capacities: Sequence[str],
    progress: Callable[[str], None] | None = None,
    *,
    layers: Layers = "alone",
) -> pd.DataFrame:
    """Simulate a network at each size of the shared SRAM, every layer under its best mapping.

    layers: alone, as the models see them; or as one program, of least DRAM traffic
    formats: for all layers, or by layer name
    capacities: as an architecture file spells them: "16 KiB"
    progress: called with "16 KiB: conv1" when a layer is simulated, for every layer of each size

    One row per capacity, in the given order. All bits are of the DRAM, for the whole network:

    - network, arch, formats: names; layers; capacity_bits
    - energy: of the SRAM, as a file spells it ("read / write" of two); read_pj, write_pj: what a
      bit costs
    - dram_bits, dram_payload_bits: simulated, with and without burst padding
    - exact_bits, paper_bits: by the models, empty of programs; exact_bits equals
      dram_payload_bits
    - compulsory_bits: the payload that no mapping avoids, whatever the capacity
    - dram_energy_pj, sram_energy_pj (and of each level inside), energy_pj: simulated, by Eq. 8
    - all_energy_pj: with multiplications, leakage and DRAM background
    - compulsory_energy_pj: of the compulsory bits, in the DRAM alone
    - cycles = compute_cycles + stall_I_cycles + stall_W_cycles + stall_O_cycles; of programs
      these overlap
    - utilisation: multiply-accumulates / (PEs x cycles)
    - of programs activations, stay_on_chip: how many there are, and how many of these stay

    Raises ArchError if the architecture has a buffer per tensor or a capacity is none,
    MappingError, naming capacity and layer, if a layer has no legal mapping.
    """
    import pandas as pd

    network = load_workload(network)
    arch = load_arch(arch)
    formats = formats_by_layer(formats, network)

    if not arch.shared:
        raise ArchError(
            f"{arch.name}: sram: has a buffer per tensor, so no one capacity to sweep; "
            "allowed: an architecture with one shared buffer, sram.capacity"
        )
    sizes = [(capacity, replace(arch, "sram.capacity", capacity)) for capacity in capacities]
    if isinstance(formats, LayerFormats):
        name, chosen = str(formats), [formats] * len(network.layers)
    else:
        name, chosen = "by layer", [formats[layer.name] for layer in network.layers]
    energies = (level_column(level.name, "energy_pj") for level in arch.levels)
    shown = (*_BITS, *energies, *_TOTALS, *_CYCLES, "utilisation")
    rows = []
    for capacity, sized in sizes:

        def done(layer: str, capacity: str = capacity) -> None:
            if progress is not None:
                progress(f"{capacity}: {layer}")

        try:
            record = evaluate(Point(network, sized, tuple(chosen), layers=layers), done)
        except MappingError as error:
            raise MappingError(f"capacity {capacity}: {error}") from None
        figures, sram = sums(record), sized.buffer("I")
        energy = sram.model_dump()["energy"]
        rows.append(
            {
                "network": network.name,
                "arch": arch.name,
                "formats": name,
                "layers": layers,
                "capacity_bits": sram.capacity,
                "energy": energy if isinstance(energy, str) else " / ".join(energy.values()),
                "read_pj": sram.read_pj,
                "write_pj": sram.write_pj,
                **{name: figures.get(name) for name in shown},
                **residency_columns(record),
            }
        )
    return pd.DataFrame(rows)


def constant_prices(archs: Iterable[Arch]) -> tuple[str, ...]:
    """Memories that have several capacities among architectures at one price per bit, no table's.

    Of such a sweep the least energy is the largest memory by construction.
    """
    capacities: dict[tuple[str, float, float], set[int]] = {}
    for arch in archs:
        for name, memory in arch.memories.items():
            if not isinstance(memory.energy, str):
                price = name, memory.read_pj, memory.write_pj
                capacities.setdefault(price, set()).add(memory.capacity)
    return tuple(dict.fromkeys(key[0] for key, own in capacities.items() if len(own) > 1))
