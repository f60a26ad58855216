"""Which columns of the tables the page shows, and in which units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.store.page import Column

if TYPE_CHECKING:
    import pandas as pd

_BITS = ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit"), (1.0, "bit"))
_ENERGY = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_KIB = 8192

_VOLUMES = {
    "compulsory_bits": "compulsory",
    "paper_bits": "paper",
    "exact_bits": "exact",
    "dram_bits": "DRAM",
    "sram_bits": "SRAM",
}
_ENERGIES = {"dram_energy_pj": "DRAM", "sram_energy_pj": "SRAM", "energy_pj": "energy"}
_CYCLES = {
    "cycles": "cycles",
    "compute_cycles": "computing",
    "stall_I_cycles": "waiting for I",
    "stall_W_cycles": "waiting for W",
    "stall_O_cycles": "waiting for O",
}


def point_columns(points: pd.DataFrame, axes: Sequence[str]) -> tuple[Column, ...]:
    """What tells points apart, and their sums."""
    labels = [name for name in ("arch", "objective", "model") if _differs(points, name)]
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in ("network", *labels, "formats", *axes)),
        Column("capacity_bits", "buffers [KiB]", _KIB, 1),
        *_figures(points),
        *_scaled(points, {"seconds": "time"}, _TIME),
    )


def layer_columns(layers: pd.DataFrame) -> tuple[Column, ...]:
    """Layers, their mappings and sums."""
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in ("network", "layer", "formats", "order", "tile")),
        Column("steps", "steps", digits=0),
        *_figures(layers),
    )


def traffic_columns(traffic: pd.DataFrame) -> tuple[Column, ...]:
    """Flows."""
    names = ("network", "layer", "level", "tensor", "direction", "kind")
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in names),
        Column("bits", "bits", digits=0),
        *_scaled(traffic, {"energy_pj": "energy"}, _ENERGY),
    )


def gap_columns(gaps: pd.DataFrame) -> tuple[Column, ...]:
    """All that is known."""
    return tuple(
        Column(str(name), str(name), digits=0 if name == "point" else None)
        for name in gaps.columns
        if name == "state" or gaps[name].notna().any()
    )


def accuracy_columns(accuracies: pd.DataFrame) -> tuple[Column, ...]:
    """Labels, energies and losses."""
    return (
        Column("label", "label"),
        *_scaled(accuracies, {"energy_pj": "energy"}, _ENERGY),
        Column("accuracy_loss", "accuracy lost [%]", 0.01, 2),
        Column("unbeaten", "unbeaten"),
    )


def _figures(frame: pd.DataFrame) -> tuple[Column, ...]:
    return (
        *_scaled(frame, _VOLUMES, _BITS),
        *_scaled(frame, _ENERGIES, _ENERGY),
        *(Column(name, label, digits=0) for name, label in _CYCLES.items() if name in frame),
    )


def _scaled(
    frame: pd.DataFrame, labels: dict[str, str], units: Sequence[tuple[float, str]]
) -> tuple[Column, ...]:
    """Columns in the one unit, the largest in which the largest number is above 1."""
    known = {name: label for name, label in labels.items() if name in frame}
    largest = frame[[*known]].max().max() if len(frame) and known else 0
    scale, unit = next((one for one in units if one[0] <= largest), units[-1])
    return tuple(
        Column(name, f"{label} [{unit}]", scale, 0 if unit == "bit" else 3)
        for name, label in known.items()
    )


def _differs(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and len(frame[name].unique()) > 1
