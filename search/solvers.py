"""The same tiling problem by several solvers, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from bfpsim.arch import ArchError, ArchSource, load_arch
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.solver.solve import Solution, solve
from bfpsim.quant.formats import FormatSource, layer_formats
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import ConvLayer

Method = Literal["enumerate", "scip", "relaxed"]


def compare_solvers(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatSource,
    methods: Sequence[Method],
    seconds: float,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """The least DRAM payload of every distinct layer by each method; one row each.

    methods: "enumerate" prices every tiling (the mapper), "scip" proves an integer optimum of each
        loop-order class, "relaxed" solves the paper's real-valued problem and rounds it
    seconds: time limit of each loop-order class [s]; enumeration has none
    progress: called with "layer: method" when one is done

    Columns: network, arch, formats, layer, layers (how many are equal to it), solver, order, tile,
    dram_bits (payload of the mapping by the exact model), objective and bound (what the solver
    minimised, and its proven lower bound), gap, status, seconds (wall clock, not reproducible).

    Raises MappingError, naming the layer, if a layer has no legal mapping; ArchError for another
    method than "enumerate" on an architecture with levels inside SRAM.
    """
    import pandas as pd

    network = load_workload(network)
    arch = load_arch(arch)
    formats = layer_formats(formats)

    inside = ", ".join(arch.inside)
    other = [method for method in methods if method != "enumerate"]
    if inside and other:
        raise ArchError(
            f"{arch.name}: has levels inside SRAM ({inside}), which {' and '.join(other)} know "
            "nothing of; allowed: enumerate, or an architecture without, such as ideal-64k"
        )
    records = []
    for layer, count in network.unique_layers:
        for method in methods:
            found = _solve(layer, arch, formats, method, seconds)
            tile = " ".join(f"{dim}={size}" for dim, size in found.mapping.tile.items())
            records.append(
                {
                    "network": network.name,
                    "arch": arch.name,
                    "formats": str(formats),
                    "layer": layer.name,
                    "layers": count,
                    "solver": method,
                    "order": found.mapping.order,
                    "tile": tile,
                    "dram_bits": found.dram_bits,
                    "objective": found.objective,
                    "bound": found.bound,
                    "gap": found.gap,
                    "status": found.status,
                    "seconds": found.seconds,
                }
            )
            if progress is not None:
                progress(f"{layer.name}: {method}")
    return pd.DataFrame.from_records(records)


def _solve(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, method: Method, seconds: float
) -> Solution:
    if method != "enumerate":
        return solve(layer, arch, formats, None, method, seconds)
    start = perf_counter()
    (found,) = best_mappings(layer, arch, formats, 1)
    bits = int(found.cost)
    order = found.mapping.order
    return Solution(found.mapping, bits, bits, bits, 0.0, perf_counter() - start, "optimal", order)
