"""What an importer returns."""

from dataclasses import dataclass

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.network import Network


@dataclass(frozen=True)
class Imported:
    """A network, and the weights of those of its layers whose weights the file holds.

    Batch normalisation is folded in; a layer without a bias has one of zeros.
    """

    network: Network
    weights: dict[str, LayerWeights]
