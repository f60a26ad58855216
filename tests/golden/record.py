"""What the golden file holds of a mapping, measured anew."""

from typing import Any

import bfpsim as bs
from bfpsim.mapping.models import ladder


def measured(
    layer: bs.ConvLayer, arch: bs.Arch, mapping: bs.Mapping, formats: bs.LayerFormats
) -> dict[str, Any]:
    """Simulated counts, cycles and energy, and the models' counts."""
    result = bs.simulate(layer, arch, mapping, formats)
    return {
        "counts": {" ".join(flow): int(bits) for flow, bits in sorted(result.counts.items())},
        "cycles": result.cycles,
        "compute": result.compute_cycles,
        "stalls": result.stalls,
        "busy": result.dram_busy_cycles,
        "peaks": result.peak_bits,
        "steps": [result.steps, result.transfers],
        "energy_pj": result.energy_pj,
        "models": {
            model: _table(bs.predict(layer, arch, mapping, formats, model=model))
            for model in ("paper", "exact", "full")
        },
    }


def _table(frame: Any) -> dict[str, float]:
    keys = frame[["level", "tensor", "direction", "kind"]].agg(" ".join, axis=1)
    return dict(sorted(zip(keys, frame["bits"].tolist(), strict=True)))


def rungs(
    layer: bs.ConvLayer, arch: bs.Arch, mapping: bs.Mapping, formats: bs.LayerFormats
) -> list[list[str]]:
    """The ladder, its fractions as text."""
    return [
        [name, str(more), str(alone)] for name, more, alone in ladder(layer, arch, mapping, formats)
    ]


def chosen(layer: bs.ConvLayer, arch: bs.Arch, formats: bs.LayerFormats) -> dict[str, Any]:
    """The mapper's choice by each objective and model; the message where nothing is legal."""
    choices: dict[str, Any] = {}
    for objective in ("dram", "energy", "latency"):
        for model in ("exact", "full"):
            try:
                best = bs.find_mapping(layer, arch, formats, objective=objective, model=model)
            except bs.MappingError as error:
                choices[f"{objective} {model}"] = str(error)
            else:
                choices[f"{objective} {model}"] = [best.order, best.tile]
    return choices
