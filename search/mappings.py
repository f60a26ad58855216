"""The best mapping of every layer of a network, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.mapper import best_mappings, front
from bfpsim.quant.formats import FormatSource, layer_formats
from bfpsim.search.rescore import rescored
from bfpsim.workloads import NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.mapping.mapper import Model
    from bfpsim.mapping.nest import Mapping
    from bfpsim.mapping.objective import Objective
    from bfpsim.workloads import ConvLayer


def map_network(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatSource,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    progress: Callable[[str], None] | None = None,
    constraints: Constraints = FREE,
) -> pd.DataFrame:
    """Search every distinct layer once; one row each.

    rescore: simulate that many of the model's best, and choose by the simulated cost
    progress: called with each layer's name when it is done
    constraints: what every layer's mapping must keep to

    Columns: network, arch, formats, layer, layers (how many are equal to it), objective, model,
    order, tile, cost (by the model: DRAM bits, pJ or cycles), mapping (the `Mapping` itself), names
    (of the layers that are equal, by their place in the network). With `rescore` too:
    simulated_cost, rank (the chosen mapping's place in the model's order), trusted_order,
    trusted_tile, trusted_cost (the model's first choice, simulated) and regret (trusted_cost /
    simulated_cost - 1). On an architecture with levels inside SRAM too: inner and trusted_inner, as
    LEVEL:ORDER:TILE. With constraints too: constraints.

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    import pandas as pd

    network = load_workload(network)
    arch = load_arch(arch)
    formats = layer_formats(formats)

    names: dict[ConvLayer, dict[int, str]] = {}
    for place, layer in enumerate(network.layers):
        names.setdefault(replace(layer, name="layer"), {})[place] = layer.name
    records = []
    for layer, count in network.unique_layers:
        record: dict[str, object] = {
            "network": network.name,
            "arch": arch.name,
            "formats": str(formats),
            "layer": layer.name,
            "layers": count,
            "objective": objective,
            "model": model,
        }
        if constraints != FREE:
            record["constraints"] = str(constraints)
        if rescore is None:
            (found,) = best_mappings(layer, arch, formats, 1, objective, model, constraints)
            mapping = found.mapping
            record |= {**_spelled("", mapping, arch), "cost": found.cost}
        else:
            chosen = rescored(layer, arch, formats, rescore, objective, model, constraints)
            mapping = chosen.chosen
            record |= {
                **_spelled("", mapping, arch),
                "cost": chosen.predicted,
                "simulated_cost": chosen.cost,
                "rank": chosen.rank,
                **_spelled("trusted_", chosen.trusted, arch),
                "trusted_cost": chosen.trusted_cost,
                "regret": chosen.regret,
            }
        record |= {"mapping": mapping, "names": names[replace(layer, name="layer")]}
        records.append(record)
        if progress is not None:
            progress(layer.name)
    return pd.DataFrame.from_records(records)


def map_fronts(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatSource,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """The front of DRAM bits (bursts included) and cycles of every distinct layer; a row per point.

    progress: called with each layer's name when it is done

    Columns: network, arch, formats, layer, layers (how many are equal to it), cycles, dram_bits,
    proven (whether none has fewer of one and as few of the other), order, tile. On an architecture
    with levels inside SRAM too: inner, as LEVEL:ORDER:TILE.

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    import pandas as pd

    network = load_workload(network)
    arch = load_arch(arch)
    formats = layer_formats(formats)
    records = []
    for layer, count in network.unique_layers:
        for point in front(layer, arch, formats):
            record: dict[str, object] = {
                "network": network.name,
                "arch": arch.name,
                "formats": str(formats),
                "layer": layer.name,
                "layers": count,
                "cycles": point.cycles,
                "dram_bits": point.dram_bits,
                "proven": point.proven,
            }
            records.append(record | _spelled("", point.mapping, arch))
        if progress is not None:
            progress(layer.name)
    return pd.DataFrame.from_records(records)


def mappings_of(frame: pd.DataFrame) -> dict[str, Mapping]:
    """The mapping of every layer, by name, from the table of `map_network`."""
    placed = {
        place: (name, row["mapping"])
        for row in frame.to_dict(orient="records")
        for place, name in row["names"].items()
    }
    return dict(placed[place] for place in sorted(placed))


def _spelled(prefix: str, mapping: Mapping, arch: Arch) -> dict[str, object]:
    spelled: dict[str, object] = {
        f"{prefix}order": mapping.order,
        f"{prefix}tile": _sizes(mapping, " "),
    }
    if arch.levels[2:]:
        cuts = mapping.inner.items()
        inner = " ".join(f"{level}:{own.order}:{_sizes(own, ',')}" for level, own in cuts)
        spelled[f"{prefix}inner"] = inner
    return spelled


def _sizes(mapping: Mapping, between: str) -> str:
    return between.join(f"{dim}={size}" for dim, size in mapping.tile.items())
