"""What a mapping can be the least of."""

from typing import Literal

Objective = Literal["dram", "energy", "latency"]
"""DRAM bits; pJ by Eq. 8; or cycles."""
