"""Which activations of a network stay on chip, and how each operation is cut in what is left."""

from bfpsim.mapping.residency.allocation import Allocation, allocate

__all__ = ["Allocation", "allocate"]
