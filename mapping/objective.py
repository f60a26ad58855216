"""What a mapping can be the least of."""

from typing import Literal

Objective = Literal["dram", "energy", "latency", "edp"]
"""DRAM bits; pJ by Eq. 8; cycles; or the product of the last two."""
