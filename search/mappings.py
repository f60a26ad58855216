"""The best mapping of every layer of a network, as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bfpsim.mapping.mapper import best_mappings
from bfpsim.search.rescore import rescored

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.mapping.mapper import Model
    from bfpsim.mapping.nest import Mapping
    from bfpsim.mapping.objective import Objective
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.workloads import Network


def map_network(
    network: Network,
    arch: Arch,
    formats: LayerFormats,
    objective: Objective = "dram",
    model: Model = "exact",
    rescore: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Search every distinct layer once; one row each.

    rescore: simulate that many of the model's best, and choose by the simulated cost
    progress: called with each layer's name when it is done

    Columns: network, arch, formats, layer, layers (how many are equal to it), objective, model,
    order, tile, cost (by the model: DRAM bits, pJ or cycles). With `rescore` too: simulated_cost,
    rank (the chosen mapping's place in the model's order), trusted_order, trusted_tile,
    trusted_cost (the model's first choice, simulated) and regret (trusted_cost / simulated_cost
    - 1).

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    import pandas as pd

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
        if rescore is None:
            (found,) = best_mappings(layer, arch, formats, 1, objective, model)
            record |= {**_spelled("", found.mapping), "cost": found.cost}
        else:
            chosen = rescored(layer, arch, formats, rescore, objective, model)
            record |= {
                **_spelled("", chosen.chosen),
                "cost": chosen.predicted,
                "simulated_cost": chosen.cost,
                "rank": chosen.rank,
                **_spelled("trusted_", chosen.trusted),
                "trusted_cost": chosen.trusted_cost,
                "regret": chosen.regret,
            }
        records.append(record)
        if progress is not None:
            progress(layer.name)
    return pd.DataFrame.from_records(records)


def _spelled(prefix: str, mapping: Mapping) -> dict[str, str]:
    tile = " ".join(f"{dim}={size}" for dim, size in mapping.tile.items())
    return {f"{prefix}order": mapping.order, f"{prefix}tile": tile}
