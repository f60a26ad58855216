"""The tables of the page: which rows and columns they show, and in which units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bfpsim.reports.store.findings import Findings
from bfpsim.reports.store.page import Column, PageTable
from bfpsim.reports.units import BITS, ENERGY, TIME, Unit, readable

if TYPE_CHECKING:
    import pandas as pd

_KIB = 8192
_LAYERS = 250_000  # rows of layers that the page holds at most

_ENERGIES = {"energy_pj": "energy", "dram_energy_pj": "DRAM", "sram_energy_pj": "SRAM"}
_VOLUMES = {
    "dram_bits": "DRAM",
    "compulsory_bits": "compulsory",
    "exact_bits": "exact",
    "paper_bits": "paper",
    "sram_bits": "SRAM",
}
_CYCLES = {
    "cycles": "cycles",
    "compute_cycles": "computing",
    "stall_I_cycles": "waiting for I",
    "stall_W_cycles": "waiting for W",
    "stall_O_cycles": "waiting for O",
}


def page_tables(findings: Findings, tables: dict[str, pd.DataFrame]) -> list[PageTable]:
    """The tables of the page: what is missing and the points first.

    tables: the frames of the CSV files, by name
    """
    shown = []
    gaps = tables["gaps"]
    if len(gaps):
        shown.append(
            PageTable(
                "gaps",
                "Without a result",
                "gaps.csv. Failed points are tried again by sweep --retry, missing ones by sweep.",
                gaps,
                _gap_columns(gaps),
            )
        )
    if len(findings.points):
        points, layers, traffic = tables["points"], tables["layers"], tables["traffic"]
        note = "layers.csv."
        if len(layers) > _LAYERS:
            layers = layers[layers["point"].isin([best.point for best in findings.best.values()])]
            note = (
                f"layers.csv has all {len(tables['layers']):,} rows, too many for a page; these "
                "are the layers of each network's point of least energy."
            )
        shown += [
            PageTable(
                "points",
                "Points",
                "points.csv. Energy is of data movement; compulsory: DRAM payload that no mapping "
                "avoids; paper, exact: DRAM bits by the models.",
                points,
                _point_columns(points, findings.axes),
            ),
            PageTable("layers", "Layers", note, layers, _layer_columns(layers)),
            PageTable(
                "traffic",
                "Traffic of the best points",
                "traffic.csv: every flow of bits at each network's point of least energy. The "
                "energies add up to that point's.",
                traffic,
                _traffic_columns(traffic),
            ),
        ]
    if "accuracy" in tables:
        accuracy = tables["accuracy"]
        shown.append(
            PageTable(
                "accuracy",
                "Accuracies",
                "accuracy.csv, as given; unbeaten: no other choice is as good in both.",
                accuracy,
                _accuracy_columns(accuracy),
            )
        )
    return shown


def _point_columns(points: pd.DataFrame, axes: Sequence[str]) -> tuple[Column, ...]:
    """What tells points apart, and their sums."""
    labels = [name for name in ("arch", "objective", "model") if _differs(points, name)]
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in ("network", *labels, "formats", *axes)),
        Column("capacity_bits", "buffers [KiB]", _KIB, 1),
        *_scaled(points, {"seconds": "time"}, TIME),
        *_figures(points),
    )


def _layer_columns(layers: pd.DataFrame) -> tuple[Column, ...]:
    """Layers, their mappings and sums."""
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in ("network", "layer", "formats", "order", "tile")),
        Column("steps", "steps", digits=0),
        *_figures(layers),
    )


def _traffic_columns(traffic: pd.DataFrame) -> tuple[Column, ...]:
    """Flows."""
    names = ("network", "layer", "level", "tensor", "direction", "kind")
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in names),
        Column("bits", "bits", digits=0),
        *_scaled(traffic, {"energy_pj": "energy"}, ENERGY),
    )


def _gap_columns(gaps: pd.DataFrame) -> tuple[Column, ...]:
    """All that is known; keys only where nothing else is."""
    shown = [str(name) for name in gaps.columns if gaps[name].notna().any()]
    if "network" in shown:
        shown.remove("key")
    return tuple(Column(name, name, digits=0 if name == "point" else None) for name in shown)


def _accuracy_columns(accuracies: pd.DataFrame) -> tuple[Column, ...]:
    """Labels, energies and losses."""
    return (
        Column("label", "label"),
        *_scaled(accuracies, {"energy_pj": "energy"}, ENERGY),
        Column("accuracy_loss", "accuracy lost [%]", 0.01, 2),
        Column("unbeaten", "unbeaten"),
    )


def _figures(frame: pd.DataFrame) -> tuple[Column, ...]:
    return (
        *_scaled(frame, _ENERGIES, ENERGY),
        *(Column(name, label, digits=0) for name, label in _CYCLES.items()),
        *_scaled(frame, _VOLUMES, BITS),
    )


def _scaled(
    frame: pd.DataFrame, labels: dict[str, str], units: Sequence[Unit]
) -> tuple[Column, ...]:
    """Columns in the one unit, the largest in which the largest number is above 1."""
    known = {name: label for name, label in labels.items() if name in frame}
    largest = frame[[*known]].max().max() if len(frame) and known else 0
    scale, unit = readable(largest, units)
    return tuple(
        Column(name, f"{label} [{unit}]", scale, 0 if unit == "bit" else 3)
        for name, label in known.items()
    )


def _differs(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and len(frame[name].unique()) > 1
