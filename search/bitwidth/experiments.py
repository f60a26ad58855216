"""The experiments of the BitQ paper: energies against the original, the ablation, alpha."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING

from bfpsim.arch import Arch
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.search.bitwidth.search import Proposal, SearchResult
from bfpsim.sim.simulate import simulate_network
from bfpsim.workloads import Network

if TYPE_CHECKING:
    import pandas as pd

TASKS: Mapping[str, tuple[str, ...]] = {
    "image classification": ("googlenet", "resnet18", "mobilenetv2-eca", "convnext-l"),
    "object detection": ("yolov8x", "one-peace-detection"),
    "instance segmentation": ("yolov8x-seg", "mask-dino-swinl-instance"),
    "semantic segmentation": ("mask-dino-swinl-semantic", "one-peace-segmentation"),
}
"""The networks of Table 3 and Fig. 5 by task, as they are shipped."""

ORIGINAL = "original"

STORED_AS: Mapping[str, LayerFormats] = {
    ORIGINAL: LayerFormats.uniform(Plain(32)),
    "dbps16": LayerFormats.uniform(BFP(16, 8, 16)),
    "flexblock16": LayerFormats.uniform(BFP(24, 8, 48)),
    "fast": LayerFormats.uniform(BFP(9, 3, 16)),
    "bsfp8": LayerFormats.uniform(BFP(16, 8, 16)),
}
"""A format of equal storage, within a few percent, for each baseline of Table 3.

What moves depends on widths alone: DBPS at its 8-bit mantissas, FlexBlock's 16-bit mode, FAST at
its 4-bit mantissas with sign and window, BSFP by its activations' MSFP16 (docs/baselines.md).
"""


def energies(
    networks: Sequence[Network],
    arch: Arch,
    formats: Mapping[str, LayerFormats],
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Fig. 5: networks simulated in formats, every layer under its best mapping.

    formats: by name, behind `ORIGINAL`, which the others are normalised to
    progress: called with "network: format"

    Columns: network, format, dram_bits, sram_bits, energy_pj, cycles, normalised (energy).
    """
    import pandas as pd

    rows = []
    for network in networks:
        original = 0.0
        for name, chosen in {ORIGINAL: STORED_AS[ORIGINAL], **formats}.items():
            result = simulate_network(network, arch, chosen)
            original = original or result.energy_pj
            rows.append(
                {
                    "network": network.name,
                    "format": name,
                    "dram_bits": sum(int(one.counts.total("DRAM")) for one in result.layers),
                    "sram_bits": sum(int(one.counts.total("SRAM")) for one in result.layers),
                    "energy_pj": result.energy_pj,
                    "cycles": result.cycles,
                    "normalised": result.energy_pj / original,
                }
            )
            if progress is not None:
                progress(f"{network.name}: {name}")
    return pd.DataFrame(rows)


def geometric_means(frame: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Geometric means of the normalised energies, by group of networks and format.

    Columns: group, networks (how many of the group there are), format, normalised.
    """
    import pandas as pd

    rows = []
    for group, names in groups.items():
        own = frame[frame["network"].isin(names)]
        for name in dict.fromkeys(own["format"]):
            values = own.loc[own["format"] == name, "normalised"].tolist()
            rows.append((group, len(values), name, geometric_mean(values)))
    return pd.DataFrame(rows, columns=["group", "networks", "format", "normalised"])


def ablation(searched: SearchResult, alpha: float) -> dict[str, Proposal]:
    """Table 4: the choices of BitQ and of BitQ without each of its parts.

    "w/o QAT" looks at movement alone, "w/o DM expression" at accuracy alone; "w/o trade-off" takes
    the front's point nearest to the ideal one, both criteria scaled to 0..1 over the front.
    """
    front = searched.front
    losses, costs = [own.loss for own in front], [own.simulated for own in front]

    def distance(own: Proposal) -> float:
        scaled = [
            (value - min(every)) / ((max(every) - min(every)) or 1.0)
            for value, every in ((own.loss, losses), (own.simulated, costs))
        ]
        return sum(value**2 for value in scaled)

    return {
        "BitQ": searched.at(alpha),
        "w/o QAT": min(front, key=lambda own: (own.simulated, own.loss)),
        "w/o DM expression": min(front, key=lambda own: (own.loss, own.simulated)),
        "w/o trade-off": min(front, key=distance),
    }
