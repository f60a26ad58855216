"""What a network's weights cost at each width: DRAM traffic and energy, simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.sim.simulate import simulate_network

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.mantissa.minifloat import MiniFloat
    from bfpsim.workloads import Network

FLOAT = Plain(32)


def measure_energy(
    network: Network,
    arch: Arch,
    formats: Iterable[MiniFloat],
    *,
    activations: bool = False,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Simulate a network, every layer under its best mapping, with weights stored in FP(e, m).

    Traffic depends on the width 1 + e + m alone, so each width is simulated once. Energy is that
    of data movement (Eq. 8), for one pass over the network's inputs; partial sums have the array's
    `accumulator_bits`. Both factors of a product of activations are inputs, not weights.

    activations: inputs and outputs of layers in the format, too; else they are float32
    progress: called with "12 bit" when a width is done, and with "32 bit" first

    Returns a row per format, in the given order: format, exponent_bits, mantissa_bits, bits (of an
    element), dram_bits (bursts included), dram_weight_bits (of these, weights), dram_energy_pj,
    sram_energy_pj, energy_pj, energy_saved (share of the energy in float32).

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    import pandas as pd

    formats = list(formats)
    costs: dict[int, dict[str, float]] = {}
    for width in dict.fromkeys((FLOAT.bits, *(fmt.element_bits for fmt in formats))):
        costs[width] = _cost(network, arch, width, activations)
        if progress is not None:
            progress(f"{width} bit")
    original = costs[FLOAT.bits]["energy_pj"]
    return pd.DataFrame(
        {
            "format": str(fmt),
            "exponent_bits": fmt.exponent_bits,
            "mantissa_bits": fmt.mantissa_bits,
            "bits": fmt.element_bits,
            **costs[fmt.element_bits],
            "energy_saved": 1 - costs[fmt.element_bits]["energy_pj"] / original,
        }
        for fmt in formats
    )


def distinct_widths(formats: Iterable[MiniFloat]) -> int:
    """How many simulations `measure_energy` takes."""
    return len({FLOAT.bits, *(fmt.element_bits for fmt in formats)})


def _cost(network: Network, arch: Arch, width: int, activations: bool) -> dict[str, float]:
    # An element of this width moves as any other of it does, whatever its fields are.
    narrow = Plain(width)
    others = narrow if activations else FLOAT
    holders = {n.name for n in network.nodes if n.layer is not None and n.op != "matmul"}
    formats = {
        layer.name: LayerFormats(others, narrow if layer.name in holders else others, others)
        for layer in network.layers
    }
    result = simulate_network(network, arch, formats)
    outer, inner = (level.name for level in arch.levels)
    dram = result.traffic[result.traffic["level"] == outer]
    weights = (dram["tensor"] == "W") & dram["layer"].isin(holders)
    energy = result.traffic.groupby("level")["energy_pj"].sum()
    return {
        "dram_bits": int(dram["bits"].sum()),
        "dram_weight_bits": int(dram.loc[weights, "bits"].sum()),
        "dram_energy_pj": float(energy[outer]),
        "sram_energy_pj": float(energy[inner]),
        "energy_pj": result.energy_pj,
    }
