"""How much of the PE array a run uses."""

from __future__ import annotations

from typing import NamedTuple


class Utilisation(NamedTuple):
    """Shares of 1; of several layers, those of their sums.

    overall: useful multiply-accumulates / (PEs x cycles)
    spatial: lanes that multiply while any does: products / (PEs x steady cycles)
    temporal: cycles that lanes multiply / all cycles

    overall = spatial x temporal x multiply-accumulates / products. A multiply-accumulate is one
    product, or several where its operands are wider than `mac_bits` and are taken piecewise; those
    with padding count, as in `ConvLayer.macs`.
    """

    overall: float
    spatial: float
    temporal: float

    @classmethod
    def of(cls, macs: int, products: int, elements: int, steady: int, cycles: int) -> Utilisation:
        """The utilisation of an array of so many PEs; all shares are rounded once.

        steady: cycles that lanes multiply; cycles: all. Where there are none, nothing is used
        """
        return cls(
            macs / (elements * cycles) if cycles else 0.0,
            products / (elements * steady) if steady else 0.0,
            steady / cycles if cycles else 0.0,
        )

    def columns(self) -> dict[str, float]:
        """The shares by column of a table."""
        return {
            "utilisation": self.overall,
            "spatial_utilisation": self.spatial,
            "temporal_utilisation": self.temporal,
        }
