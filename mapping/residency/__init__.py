"""Which activations of a network stay on chip, and how each operation is cut in what is left."""

from bfpsim.mapping.residency.allocation import Allocation, allocate, allocations
from bfpsim.mapping.residency.placement import Placement, allocate_placed, placement
from bfpsim.mapping.residency.products import staircase

__all__ = [
    "Allocation",
    "Placement",
    "allocate",
    "allocate_placed",
    "allocations",
    "placement",
    "staircase",
]
