"""What a store holds of a sweep, as tables, and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bfpsim.mapping.counts import COLUMNS, energy_pj
from bfpsim.search.sweep.record import Record

if TYPE_CHECKING:
    import pandas as pd


class Best(NamedTuple):
    """The point of least energy of a network."""

    point: int
    record: Record


@dataclass(frozen=True, slots=True)
class Findings:
    """A sweep's results and gaps; points are numbered from 0.

    points: point, network, arch, formats, objective and model (if the sweep is given), a column
        per axis, capacity_bits (of all buffers), and `measures` over all layers
    layers: point, network, layer, formats, order, tile, steps, transfers, and `measures`
    gaps: what has no result: point (if the sweep is given), state (failed, missing or unreadable),
        reason, and as far as they are known network, arch, formats and axes; key
    axes: dotted paths at which the architectures differ
    best: of each network, in the order of the points
    others: points in the store that are not the sweep's
    """

    points: pd.DataFrame
    layers: pd.DataFrame
    gaps: pd.DataFrame
    axes: tuple[str, ...]
    best: Mapping[str, Best]
    others: int

    @property
    def alike(self) -> int:
        """Points that no label tells from an earlier one."""
        names = ("network", "arch", "formats", "objective", "model", *self.axes)
        return int(self.points.duplicated([n for n in names if n in self.points]).sum())

    @property
    def traffic(self) -> pd.DataFrame:
        """Every flow of the best points: point, and the columns of `LayerResult.traffic`.

        The energies of a point's rows sum up (`math.fsum`) to its energy_pj, to the last bit.
        """
        import pandas as pd

        rows = [
            (point, network, layer.layer, *flow, bits, energy_pj(flow, bits, record.arch))
            for network, (point, record) in self.best.items()
            for layer in record.layers
            for flow, bits in layer.traffic.items()
        ]
        return pd.DataFrame(rows, columns=["point", *COLUMNS])
